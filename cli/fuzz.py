"""`canbao fuzz`: does anything that is wrong with a message end, stop or mislead what runs here?"""

import argparse
import asyncio
import sys
import time
from typing import TYPE_CHECKING

from cli.place import STACK_FOLDER, NothingRuns, running_stack, say

if TYPE_CHECKING:
    from sandbox.fuzz.run import Report
    from sandbox.stack import Stack

HELP = "send what breaks the contracts, in every way, and check what becomes of each"
_RATE = 500.0
_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "--payloads", type=int, default=10_000, metavar="N", help="how many, 500 a second (10000)"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="draw the same payloads again")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end and nothing else"
    )


def run(args: argparse.Namespace) -> int:
    """0: each was refused or kept as it must be, and all goes on. 1: not so, or nothing runs. 2: the input
    makes no sense.
    """
    from aiokafka.errors import KafkaError  # noqa: PLC0415 -- imported when needed: --help stays instant

    from sandbox.partner import Unanswered  # noqa: PLC0415 -- as above

    if args.payloads < 1:
        sys.stderr.write("canbao fuzz: --payloads must be at least 1\n")
        return 2
    seed = args.seed if args.seed is not None else time.time_ns() % 1_000_000
    try:
        report, broken = asyncio.run(_fuzz(args.payloads, seed))
    except NothingRuns as nothing:
        sys.stderr.write(f"canbao fuzz: {nothing}\n")
        return 1
    except (KafkaError, Unanswered) as trouble:
        sys.stderr.write(f"canbao fuzz: {type(trouble).__name__}: {trouble} (./canbao status)\n")
        return 1
    sys.stdout.write(_json(report, broken) if args.json else _text(report, broken))
    return 0 if report.sound and not broken else 1


async def _fuzz(payloads: int, seed: int) -> "tuple[Report, list[str]]":
    """What came of it, and which invariants do not hold afterwards."""
    from sandbox.fuzz.run import fuzz  # noqa: PLC0415 -- imported when needed: --help stays instant

    stack = await running_stack()
    known = await lost_or_forged(stack)
    report, places = await fuzz(STACK_FOLDER, payloads=payloads, seed=seed, rate=_RATE, say=say)
    return report, await broken_invariants(stack, places, known)


async def lost_or_forged(stack: "Stack") -> set[str]:
    """What I12 names, all of it."""
    import asyncpg  # noqa: PLC0415 -- as above

    from cli import conservation  # noqa: PLC0415 -- as above

    db = await asyncpg.connect(stack.database_url("auditor"), ssl="disable")
    try:
        return set(await conservation.lost_or_forged(await conservation.look(stack, db), db))
    finally:
        await db.close()


async def broken_invariants(stack: "Stack", places: set[str], known: set[str]) -> list[str]:
    """What `verify` finds, beside what we have forged ourselves. places: where that stands. known: what I12
    named before.
    """
    from cli.verify import check  # noqa: PLC0415 -- as above

    broken = [result for result in await check(stack) if not result.ok]
    if any(result.id == "I12" for result in broken):
        new = await lost_or_forged(stack) - known
        if all(line.partition(" ")[0] in places for line in new):
            broken = [result for result in broken if result.id != "I12"]
    return [f"{result.id}: {result.what}" for result in broken]


def _json(report: "Report", broken: list[str]) -> str:
    from msgspec import to_builtins  # noqa: PLC0415 -- as above
    from msgspec.json import encode  # noqa: PLC0415 -- as above

    return encode({**to_builtins(report), "broken_invariants": broken}).decode() + "\n"


def _text(report: "Report", broken: list[str]) -> str:
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(report.outcomes.items()))
    ways = sorted(report.citizens) or [0.0]
    wrong = [*report.mistaken, *report.stuck, *(f"{name} has ended" for name in report.restarted), *broken]
    lines = [
        f"seed {report.seed}: {report.payloads:,} payloads in {report.seconds:.0f} s, {report.rate} a second",
        f"must be {outcomes}",
        f"at the doors {', '.join(f'{count:,} × {status}' for status, count in report.doors.items())}",
        f"heard after {report.p50_ms} ms (median), {report.p99_ms} ms (p99), {report.max_ms} ms (longest);"
        f" {report.late:,} after more than a second",
        f"{len(ways)} good citizens meanwhile, each settled after {ways[len(ways) // 2]:.1f} s (median),"
        f" {ways[-1]:.1f} s (longest)",
        f"{len(wrong)} mistakes"
        if wrong
        else "no mistake, no process ended, no partition stuck, invariants hold ✓",
        *(f"  {line}" for line in wrong[:_SHOWN]),
        "verify names what was forged (I12) until ./canbao reset",
    ]
    return "\n".join(lines) + "\n"
