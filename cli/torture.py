"""`canbao torture`: a city lives while everything is killed, frozen, cut off; is anything lost or doubled?"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from cli.place import STACK_FOLDER, say

if TYPE_CHECKING:
    from tests.faults.plan import Plan, Report

HELP = "kill, freeze and cut off everything while a city lives; nothing may be lost or doubled"
_SERVERS = ("CANBAO_KAFKA", "CANBAO_DATABASE_URL")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "--quick",
        action="store_true",
        help="60 kills at most; else rounds for hours; both write docs/reliability.md",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, nothing else")


def run(args: argparse.Namespace) -> int:
    """0: nothing was lost or doubled, every invariant holds. 1: not so. 2: it could not start."""
    if named := [name for name in _SERVERS if os.environ.get(name)]:
        say(f"torture kills servers, so it takes only its own; unset {' and '.join(named)}")
        return 2
    from sandbox.kafka import KafkaTrouble  # noqa: PLC0415 -- imported when needed: --help stays instant
    from sandbox.kafka_kit import KitTrouble  # noqa: PLC0415 -- as above
    from sandbox.postgres import PostgresTrouble  # noqa: PLC0415 -- as above
    from sandbox.state import AlreadyUp  # noqa: PLC0415 -- as above
    from tests.faults.report import as_json, as_text, keep  # noqa: PLC0415 -- as above

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that brokers go away is what we are here for
    try:
        report = _quick(quiet=args.json) if args.quick else _long(quiet=args.json)
    except (AlreadyUp, KafkaTrouble, KitTrouble, PostgresTrouble, TimeoutError) as trouble:
        say(f"torture: {str(trouble) or 'the machine is too slow or too busy: something timed out'}")
        return 2
    except asyncio.CancelledError:
        say("torture: told to end")
        return 2
    keep(f"canbao torture{' --quick' if args.quick else ''}", report)
    sys.stdout.write(as_json(report) if args.json else as_text(report))
    return 1 if report.wrong else 0


def _quick(*, quiet: bool) -> "Report":
    import uvloop  # noqa: PLC0415 -- as above

    from tests.faults.plan import QUICK  # noqa: PLC0415 -- as above

    return uvloop.run(_torture(QUICK, quiet=quiet))


def _long(*, quiet: bool) -> "Report":
    """Round after round; the page has the figures of those that are over, whenever it is told to end."""
    import uvloop  # noqa: PLC0415 -- as above

    from tests.faults.plan import ROUNDS, round_of  # noqa: PLC0415 -- as above
    from tests.faults.report import keep  # noqa: PLC0415 -- as above

    whole: Report | None = None
    for number in range(ROUNDS):
        report = uvloop.run(_torture(round_of(number), quiet=quiet))
        whole = whole.and_then(report) if whole else report
        keep("canbao torture", whole)
        if whole.wrong:
            break
    assert whole is not None
    return whole


async def _torture(plan: "Plan", *, quiet: bool) -> "Report":
    """Over an empty folder of its own, so that a sandbox that is up stays as it is."""
    from sandbox.postgres import remove  # noqa: PLC0415 -- as above
    from sandbox.state import hold  # noqa: PLC0415 -- as above
    from tests.faults import torture  # noqa: PLC0415 -- as above

    if this := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    folder = STACK_FOLDER / "torture"
    folder.mkdir(parents=True, exist_ok=True)
    hold(folder).close()
    remove(folder)
    try:
        return await torture.run(plan, folder, (lambda _: None) if quiet else say)
    finally:
        remove(folder)
