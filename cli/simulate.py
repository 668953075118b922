"""`canbao simulate`: the services step by step, through faults that a seed draws; a failure is replayed."""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.place import say

if TYPE_CHECKING:
    from tests.simulation.play import Policy
    from tests.simulation.runs import Played, Setting, Stage

HELP = "play whole lives through faults drawn by a seed, step by step, and check the books after each commit"
SHRINK_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("--seeds", type=int, default=40, help="how many (40)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one (0)")
    parser.add_argument("--sweep", action="store_true",
                        help="first every single fault and freeze at every gate, one in each run")
    parser.add_argument("--replay", type=Path, help="play what was kept of a failed run, and nothing else")
    parser.add_argument("--json", action="store_true",
                        help='print only {"seeds", "steps", "faults", "failures", "seconds"}')


def run(args: argparse.Namespace) -> int:
    """0: nothing was found. 1: a run failed. 2: it cannot run here."""
    from sandbox.postgres import PostgresTrouble  # noqa: PLC0415 -- imported when needed: --help stays instant
    from tests.simulation.ground import WHY_NOT, standing, works_here  # noqa: PLC0415 -- as above
    from tests.simulation.report import recall  # noqa: PLC0415 -- as above
    from tests.simulation.runs import Stage  # noqa: PLC0415 -- as above

    if args.seeds < 1:
        say(f"--seeds {args.seeds}: expected 1 or more")
        return 2
    if not works_here():
        say(WHY_NOT)
        return 2
    try:
        kept = recall(args.replay) if args.replay else None
    except (ValueError, TypeError, KeyError):
        say(f"{args.replay}: no run was kept in it")
        return 2
    try:
        with standing() as ground, Stage(ground) as stage:
            told = Told(stage, quiet=args.json)
            if kept:
                return told.replay(args.replay, *kept)
            if args.sweep:
                told.sweep()
            told.seeds(args.first, args.seeds)
    except PostgresTrouble as trouble:
        say(str(trouble))
        return 2
    return told.end(args.seeds, as_json=args.json)


class Told:
    """Plays runs, and says what came of them."""

    def __init__(self, stage: "Stage", *, quiet: bool) -> None:
        self._stage, self._quiet = stage, quiet
        self._began = time.monotonic()
        self._steps = self._runs = 0
        self._met: Counter[tuple[str, str]] = Counter()
        self._failures: list[dict[str, Any]] = []

    def sweep(self) -> None:
        """One deviation each."""
        from msgspec.structs import replace  # noqa: PLC0415 -- as above

        from tests.simulation.runs import SWEPT  # noqa: PLC0415 -- as above
        from tests.simulation.sweep import sweep  # noqa: PLC0415 -- as above

        for what, played in sweep(self._stage):
            self._count(played)
            if played.failures:
                self._failed(replace(SWEPT, name=f"sweep {what}"), played)

    def seeds(self, first: int, count: int) -> None:
        """By chance."""
        from tests.simulation.runs import setting_of  # noqa: PLC0415 -- as above

        for seed in range(first, first + count):
            played = self._stage.seed(seed)
            self._count(played)
            if played.failures:
                self._failed(setting_of(seed), played, f"./canbao simulate --seeds 1 --from {seed}")

    def replay(self, path: Path, setting: "Setting", policy: "Policy") -> int:
        """What was kept."""
        from tests.simulation.report import failure  # noqa: PLC0415 -- as above

        played = self._stage.run(setting, policy)
        lines = failure(played, f"./canbao simulate --replay {path}") if played.failures else ["it holds"]
        sys.stdout.write("\n".join(lines) + "\n")
        return 1 if played.failures else 0

    def end(self, seeds: int, *, as_json: bool) -> int:
        """The sum of it."""
        from tests.simulation.report import by_fault, coverage  # noqa: PLC0415 -- as above

        seconds = round(time.monotonic() - self._began, 1)
        if as_json:
            sys.stdout.write(json.dumps({
                "seeds": seeds, "steps": self._steps, "faults": by_fault(self._met),
                "failures": self._failures, "seconds": seconds}) + "\n")
        else:
            sys.stdout.write("\n".join((
                "fault × where it struck, and how often:", *coverage(self._met),
                f"{self._runs} runs, {seeds} of them seeds, {self._steps} steps, {seconds} s:"
                f" {len(self._failures)} failed")) + "\n")
        return 1 if self._failures else 0

    def _count(self, played: "Played") -> None:
        self._runs += 1
        self._steps += played.steps
        self._met += played.met

    def _failed(self, setting: "Setting", played: "Played", again: str = "") -> None:
        from tests.simulation.report import failure, keep  # noqa: PLC0415 -- as above
        from tests.simulation.shrink import shrink  # noqa: PLC0415 -- as above

        small = shrink(self._stage, setting, played, SHRINK_SECONDS)
        path = keep(setting, small)
        replay = f"./canbao simulate --replay {path}"
        self._failures.append({
            "name": setting.name, "failures": played.failures, "replay": again or replay, "shrunk": replay,
            "faults": [str(anchor) for anchor in small.anchors],
        })  # fmt: skip
        if not self._quiet:
            sys.stdout.write("\n".join(failure(small, f"{again}   or shrunk: {replay}")) + "\n")
