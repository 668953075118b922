"""`canbao bench`: how fast it is here, against the least that the same work costs on this machine."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cli.place import STACK_FOLDER, say

HELP = "measure everything that has a goal: speed beside a plain loop, latency, failures, large tables"
_SERVERS = ("CANBAO_KAFKA", "CANBAO_DATABASE_URL")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "what",
        choices=["all", *MEASURES],
        help="pipeline: enrolled, billed, paid, settled, covered, told, beside a loop without any framework;"
        " peers: the same work as others write it, by turns with ours;"
        " exact: its statements, rows, bytes and instructions, the same on every machine;"
        " latency: end to end at steady rates; drills: untraced, two workers, a backlog, misfortunes, kills;"
        " flatness: over ten million rows; season: trace and verify over the rows of a million bills;"
        " all: each of these but the last",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few and short rounds, and nothing is written to bench/RESULTS.md",
    )
    parser.add_argument(
        "--with",
        dest="others",
        type=_named,
        default=[],
        metavar="NAME,…",
        help=f"after peers: what others have built ({', '.join(OTHERS)}); fetched once, which takes minutes",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end and nothing else"
    )


def run(args: argparse.Namespace) -> int:
    """0: it was measured. 1: a round failed its gate, so there is no figure. 2: it could not start."""
    if named := [name for name in _SERVERS if os.environ.get(name)]:
        say(f"bench measures the processes of its own stack; unset {' and '.join(named)}")
        return 2
    from sandbox.kafka import KafkaTrouble  # noqa: PLC0415 -- imported when needed: --help stays instant
    from sandbox.kafka_kit import KitTrouble  # noqa: PLC0415 -- as above
    from sandbox.postgres import PostgresTrouble  # noqa: PLC0415 -- as above
    from sandbox.state import AlreadyUp  # noqa: PLC0415 -- as above

    if args.others and args.what != "peers":
        say("--with stands beside peers only")
        return 2
    wanted = ALL if args.what == "all" else (args.what, *args.others)
    try:
        said = {what: figure for what in wanted if (figure := _figure(what, args.quick)) is not None}
    except (AlreadyUp, KafkaTrouble, KitTrouble, PostgresTrouble) as trouble:
        say(str(trouble))
        return 2
    for what, figure in said.items():
        if args.json:
            sys.stdout.write(figure.json())
        else:
            sys.stdout.write((f"{what}\n" if len(wanted) > 1 else "") + figure.text())
    _tell_goals({what: figure.figures for what, figure in said.items()})
    return 0 if len(said) == len(wanted) else 1


def _figure(what: str, quick: bool) -> "Said | None":
    """One measurement, written down unless it was quick. None: a round failed its gate."""
    from bench import results  # noqa: PLC0415 -- as above
    from bench.pipeline import Broken  # noqa: PLC0415 -- as above

    try:
        said = _measured((MEASURES | OTHERS)[what], quick)
    except Broken as broken:
        say(f"no figure: {broken}")
        return None
    if not quick:
        results.keep(what, said.figures, said.people)
        results.write(results.recall())
    return said


def _tell_goals(measured: dict[str, dict[str, Any]]) -> None:
    """What was reached of that which these measurements decide."""
    from bench.goals import reached  # noqa: PLC0415 -- as above

    for each in reached(measured):
        if each.value is not None:
            say(each.text)


def _measured(measure: "Measure", quick: bool) -> "Said":
    """Over an empty folder of its own, so that a sandbox that is up stays as it is; but it disturbs the
    figures.
    """
    from sandbox.postgres import remove  # noqa: PLC0415 -- as above
    from sandbox.state import hold, is_up  # noqa: PLC0415 -- as above

    folder = STACK_FOLDER / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    hold(folder).close()
    remove(folder)
    folder.mkdir(mode=0o711)
    if is_up(STACK_FOLDER):
        say("a sandbox is up beside it and will show as foreign work")
    try:
        return measure(folder, quick)
    finally:
        remove(folder)


def _pipeline(folder: Path, quick: bool) -> "Said":
    from bench.comparison import FULL, QUICK, compare  # noqa: PLC0415 -- as above
    from bench.report import as_text, summary  # noqa: PLC0415 -- as above

    said = summary(asyncio.run(compare(folder, QUICK if quick else FULL, say)))
    return Said(said, as_text(said))


def _peers(folder: Path, quick: bool) -> "Said":
    from bench.peers import comparison  # noqa: PLC0415 -- as above
    from bench.peers.report import as_text, summary  # noqa: PLC0415 -- as above

    own, theirs = comparison.QUICK if quick else comparison.FULL
    said = summary(asyncio.run(comparison.compare(folder, own, theirs, say)))
    return Said(said, as_text(said))


def _killbill(folder: Path, quick: bool) -> "Said":
    from bench.peers.killbill import comparison  # noqa: PLC0415 -- as above
    from bench.peers.report import as_text, summary  # noqa: PLC0415 -- as above

    sizes = comparison.QUICK if quick else comparison.FULL
    said = summary(asyncio.run(comparison.compare(folder, sizes, say)))
    return Said(said, as_text(said))


def _mojaloop(folder: Path, quick: bool) -> "Said":
    from bench.peers.mojaloop import comparison  # noqa: PLC0415 -- as above
    from bench.peers.report import as_text, summary  # noqa: PLC0415 -- as above

    sizes = comparison.QUICK if quick else comparison.FULL
    said = summary(asyncio.run(comparison.compare(folder, sizes, say)))
    return Said(said, as_text(said))


def _exact(folder: Path, _quick: bool) -> "Said":
    """The same however quick it is to be."""
    import msgspec  # noqa: PLC0415 -- as above

    from bench.exact import as_text, count, differences, expected  # noqa: PLC0415 -- as above
    from sandbox.stack import Servers, provision_stack  # noqa: PLC0415 -- as above
    from sandbox.state import hold  # noqa: PLC0415 -- as above

    with hold(folder):
        servers = Servers(folder, quick=True, say=say)
        try:
            stack = servers.start()
            provision_stack(stack)
            found = asyncio.run(count(stack, folder))
        finally:
            servers.stop()
    for line in differences(expected(), found):
        say(line)
    return Said(msgspec.to_builtins(found) | {"wal_ratio": round(found.wal_ratio, 4)}, as_text(found))


def _latency(folder: Path, quick: bool) -> "Said":
    from bench.steady import FULL, QUICK, as_text, measure  # noqa: PLC0415 -- as above

    said = asyncio.run(measure(folder, QUICK if quick else FULL, say))
    return Said(said, as_text(said))


def _drills(folder: Path, quick: bool) -> "Said":
    from bench.drills import FULL, QUICK, as_text, measure  # noqa: PLC0415 -- as above

    said = asyncio.run(measure(folder, QUICK if quick else FULL, say))
    return Said(said, as_text(said))


def _flatness(folder: Path, quick: bool) -> "Said":
    from bench.flat import FULL, QUICK, as_text, measure  # noqa: PLC0415 -- as above

    said = asyncio.run(measure(folder, QUICK if quick else FULL, say))
    return Said(said, as_text(said))


def _season(folder: Path, quick: bool) -> "Said":
    from bench.season import FULL, QUICK, Questions, measure  # noqa: PLC0415 -- as above
    from cli.timeline import find  # noqa: PLC0415 -- as above
    from cli.verify import check  # noqa: PLC0415 -- as above

    season = measure(folder, QUICK if quick else FULL, Questions(find, check), say)
    return Said(season.summary(), season.text())


def _named(text: str) -> list[str]:
    """Names of others, as --with takes them."""
    names = text.split(",")
    if unknown := [name for name in names if name not in OTHERS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: known are {', '.join(OTHERS)}")
    return names


class Said(NamedTuple):
    """A result as figures and for people."""

    figures: dict[str, Any]
    people: str

    def json(self) -> str:
        """One object in one line."""
        import msgspec  # noqa: PLC0415 -- as above

        return msgspec.json.encode(self.figures).decode() + "\n"

    def text(self) -> str:
        """Ends in a line break."""
        return self.people + "\n"


Measure = Callable[[Path, bool], Said]  # over an empty folder; quick or whole
MEASURES: dict[str, Measure] = {
    "exact": _exact,
    "pipeline": _pipeline,
    "latency": _latency,
    "drills": _drills,
    "flatness": _flatness,
    "peers": _peers,
    "season": _season,
}
OTHERS: dict[str, Measure] = {"killbill": _killbill, "mojaloop": _mojaloop}  # only beside peers
ALL = tuple(MEASURES)[:-1]  # of a season, filling takes longer than everything else
