"""`canbao doctor`: is everything there that the sandbox needs, and what to do where it is not?"""

import argparse
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from cli.place import ROOT, STACK_FOLDER

HELP = "look for what is in the way, and say what to do about it"
_FREE_BYTES = 2_000_000_000


class Finding(NamedTuple):
    """One line. fix: empty when it is well. look: where to look, of what is well now but was not."""

    what: str
    found: str
    fix: str = ""
    look: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("--json", action="store_true", help="one JSON list instead of lines")


def run(args: argparse.Namespace) -> int:
    """0: nothing is in the way. 1: something is; its line says what to do."""
    findings = [*_machine(), *_packages(), *_java(), *_postgres(), *_sandbox(), *_topics()]
    if args.json:
        sys.stdout.write(
            json.dumps(
                [
                    {"what": f.what, "found": f.found, "ok": not f.fix, "fix": f.fix, "look": f.look}
                    for f in findings
                ]
            )
            + "\n"
        )
    else:
        for finding in findings:
            sign = "✗" if finding.fix else "!" if finding.look else "✓"
            sys.stdout.write(f"{sign} {finding.what:<10} {finding.found}\n")
            if todo := finding.fix or finding.look:
                sys.stdout.write(f"  {'':<10} → {todo}\n")
    return int(any(finding.fix for finding in findings))


def _machine() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} in {sys.prefix}")
    yield Finding("machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors")
    free = shutil.disk_usage(ROOT).free
    yield Finding(
        "disk",
        f"{free / 1e9:.1f} GB free",
        "" if free > _FREE_BYTES else "free 2 GB: Kafka stops when its disk is full",
    )


def _packages() -> Iterator[Finding]:
    """What is installed against what is locked. A package for other machines has a condition behind a ;"""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    wrong, pinned = [], re.findall(r"^([\w.-]+)==([^\s;]+) *(;?)", lock, re.MULTILINE)
    for name, wanted, condition in pinned:
        try:
            there = metadata.version(name)
        except metadata.PackageNotFoundError:
            there = "" if not condition else wanted
        if there != wanted:
            wrong.append(f"{name} {wanted} is {there or 'not there'}")
    yield Finding(
        "packages",
        f"{len(pinned)} as requirements.lock says" if not wrong else f"not as locked: {', '.join(wrong)}",
        "rm -r .venv: the next verb installs it anew" if wrong else "",
    )


def _java() -> Iterator[Finding]:
    from sandbox.kafka_kit import KitTrouble, find_java, read_lock  # noqa: PLC0415 -- imported when needed: --help stays instant
    from sandbox.stack import cache_folder  # noqa: PLC0415 -- as above

    try:
        java = find_java()
        yield Finding("java", f"{java.version}, {java.program}")
    except KitTrouble as trouble:
        yield Finding("java", "none", str(trouble))
    jars = read_lock()
    there = sum(jar.path(cache_folder() / "jars").exists() for jar in jars)
    yield Finding(
        "kafka",
        f"{there} of {len(jars)} jars in {cache_folder()}"
        + ("" if there == len(jars) else "; up fetches the rest"),
    )


def _postgres() -> Iterator[Finding]:
    from sandbox.postgres import PostgresTrouble, try_place  # noqa: PLC0415 -- as above

    try:
        place = try_place(STACK_FOLDER)
    except PostgresTrouble as trouble:
        yield Finding("postgres", "cannot run", str(trouble))
        return
    except OSError as error:
        yield Finding(
            "data",
            f"cannot stand in {STACK_FOLDER}: {error.strerror}",
            "name a folder that you may write to by CANBAO_DATA",
        )
        return
    yield Finding("postgres", f"{place.bin}, as {place.user.name if place.user else 'this user'}")
    for line in place.said:
        yield Finding("postgres", line)


def _sandbox() -> Iterator[Finding]:
    from cli.status import rows_of  # noqa: PLC0415 -- as above
    from sandbox.ports import is_free  # noqa: PLC0415 -- as above
    from sandbox.state import is_up, read_state  # noqa: PLC0415 -- as above

    state = read_state(STACK_FOLDER)
    if not is_up(STACK_FOLDER):
        crashed = state is not None and state.phase == "failed"
        yield Finding(
            "sandbox",
            "does not run" + (f"; last time: {state.trouble.splitlines()[0]}" if crashed and state else ""),
            "./canbao logs supervisor" if crashed else "",
        )
        if (STACK_FOLDER / "ports.json").exists():
            taken = [
                f"{name} {port}"
                for name, port in _ports(STACK_FOLDER / "ports.json").items()
                if not is_free(port)
            ]
            if taken:
                yield Finding("ports", f"taken by others since: {', '.join(taken)}; up chooses new ones")
        return
    for row in rows_of(state.processes if state else []):
        state_of = row["phase"] if row["answers"] or row["phase"] != "running" else "silent"
        left = f" (it left with {row['left']})" if row["left"] is not None else ""
        yield Finding(
            row["name"],
            f"{state_of}, process {row['pid'] or '-'}, {row['restarts']} restarts",
            "" if state_of == "running" else f"./canbao logs {row['name']}{left}",
            f"./canbao logs {row['name']}{left}; ./canbao logs supervisor" if row["restarts"] else "",
        )


def _topics() -> Iterator[Finding]:
    from sandbox.stack import Stack  # noqa: PLC0415 -- as above
    from sandbox.state import is_up  # noqa: PLC0415 -- as above
    from services.chassis.topics import Broker  # noqa: PLC0415 -- as above

    if not is_up(STACK_FOLDER):
        return
    try:
        lines = Broker(Stack.recall(STACK_FOLDER).kafka_admin).plan().lines()
    except Exception as error:  # noqa: BLE001 -- whatever the client says goes into the finding
        yield Finding("topics", f"cannot be read: {error}", "./canbao logs kafka")
        return
    yield Finding(
        "topics",
        f"{len(lines)} differences from contracts" if lines else "as contracts say",
        "./canbao topics plan shows them, ./canbao topics apply makes them agree" if lines else "",
    )


def _ports(path: Path) -> dict[str, int]:
    return {name: int(port) for name, port in json.loads(path.read_text()).items()}
