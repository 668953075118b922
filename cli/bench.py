"""`canbao bench`: how fast it is here, against the least that the same work costs on this machine."""

import argparse
import asyncio
import os
import sys
from typing import Any

from cli.place import STACK_FOLDER, say

HELP = "measure speed and CPU per business transaction against a loop without any framework"
_SERVERS = ("CANBAO_KAFKA", "CANBAO_DATABASE_URL")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "what", choices=["pipeline"], help="pipeline: enrolled, billed, paid, settled, covered, told"
    )
    parser.add_argument(
        "--quick", action="store_true", help="two short rounds of each loop instead of five long ones"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end and nothing else"
    )


def run(args: argparse.Namespace) -> int:
    """0: it was measured. 1: a round failed its gate, so there is no figure. 2: it could not start."""
    if named := [name for name in _SERVERS if os.environ.get(name)]:
        say(f"bench measures the processes of its own stack; unset {' and '.join(named)}")
        return 2
    from bench.pipeline import Broken  # noqa: PLC0415 -- imported when needed: --help stays instant
    from sandbox.kafka import KafkaTrouble  # noqa: PLC0415 -- as above
    from sandbox.kafka_kit import KitTrouble  # noqa: PLC0415 -- as above
    from sandbox.postgres import PostgresTrouble  # noqa: PLC0415 -- as above
    from sandbox.state import AlreadyUp  # noqa: PLC0415 -- as above

    try:
        said = _measure(quick=args.quick)
    except Broken as broken:
        say(f"no figure: {broken}")
        return 1
    except (AlreadyUp, KafkaTrouble, KitTrouble, PostgresTrouble) as trouble:
        say(str(trouble))
        return 2
    sys.stdout.write(said.json() if args.json else said.text())
    return 0


def _measure(*, quick: bool) -> "Said":
    """Over an empty folder of its own, so that a sandbox that is up stays as it is; but it disturbs the
    figures.
    """
    from bench.comparison import FULL, QUICK, compare  # noqa: PLC0415 -- as above
    from bench.report import summary  # noqa: PLC0415 -- as above
    from sandbox.postgres import remove  # noqa: PLC0415 -- as above
    from sandbox.state import hold, is_up  # noqa: PLC0415 -- as above

    folder = STACK_FOLDER / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    hold(folder).close()
    remove(folder)
    if is_up(STACK_FOLDER):
        say("a sandbox is up beside it and will show as foreign work")
    try:
        return Said(summary(asyncio.run(compare(folder, QUICK if quick else FULL, say))))
    finally:
        remove(folder)


class Said:
    """A result in its two forms, each ending in a line break."""

    def __init__(self, summary: dict[str, Any]) -> None:
        self._summary = summary

    def json(self) -> str:
        """One object in one line."""
        import msgspec  # noqa: PLC0415 -- as above

        return msgspec.json.encode(self._summary).decode() + "\n"

    def text(self) -> str:
        """For people."""
        from bench.report import as_text  # noqa: PLC0415 -- as above

        return as_text(self._summary) + "\n"
