"""What is said of many runs, and of one that failed?"""

import hashlib
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from tests.simulation.play import Anchored, Policy, Script
from tests.simulation.runs import Played, Setting
from tests.simulation.schedule import Action, Anchor
from tests.simulation.trouble import CATALOGUE

REGRESSIONS = Path(__file__).parent / "regressions"
TAIL = 40       # steps of the trace that are shown


def fingerprint(played: Played) -> str:
    """Of every step and every choice."""
    return hashlib.blake2b("\n".join(played.trace).encode(), digest_size=8).hexdigest()


def commit() -> str:
    """What was checked out."""
    ask = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "?"


def failure(played: Played, replay: str) -> list[str]:
    """A failed run for people: what, at which commit, how to see it again, who heard what when."""
    faults = [str(anchor) for anchor in played.anchors]
    return [
        f"{played.name} failed at commit {commit()}: {played.failures[0]}", f"again: {replay}",
        f"faults, in order: {'; '.join(faults) or 'none'}", "what was said of each citizen, by step:",
        *played.timeline, f"the last {TAIL} lines of {len(played.trace)}:", *played.trace[-TAIL:],
    ]


def coverage(met: Counter[tuple[str, str]]) -> list[str]:
    """Which fault struck where, how often: a line for each fault, with its number in the catalogue."""
    lines = []
    for fault in sorted({fault for fault, _ in met}):
        places = sorted(((n, where) for (kind, where), n in met.items() if kind == fault), reverse=True)
        told = ", ".join(f"{where} {n}" for n, where in places)
        lines.append(f"{CATALOGUE.get(fault, ''):<4}{fault:<13}{sum(n for n, _ in places):>5}  {told}")
    return lines


def by_fault(met: Counter[tuple[str, str]]) -> dict[str, int]:
    """How often each fault struck."""
    sums: Counter[str] = Counter()
    for (fault, _), times in met.items():
        sums[fault] += times
    return dict(sorted(sums.items()))


def keep(setting: Setting, played: Played, folder: Path = REGRESSIONS) -> Path:
    """Write a failed run down, so that it is played again for ever."""
    folder.mkdir(exist_ok=True)
    what: dict[str, Any] = {
        "name": setting.name, "plans": setting.plans, "members": setting.members, "commit": commit(),
        "failures": played.failures[:3],
        "actions": [[a.kind, a.actor] for a in played.actions], "anchors": [list(a) for a in played.anchors],
    }
    path = folder / f"{re.sub(r'[^a-z0-9.]+', '-', setting.name)}.json"
    path.write_text(json.dumps(what, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def recall(path: Path) -> tuple[Setting, Policy]:
    """What was kept, and how it is played."""
    what = json.loads(path.read_text(encoding="utf-8"))
    setting = Setting(what["name"], tuple(what["plans"]), what["members"])
    if what["actions"]:
        return setting, Script([Action(*each) for each in what["actions"]])
    return setting, Anchored([Anchor(*each) for each in what["anchors"]])
