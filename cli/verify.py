"""`canbao verify`: does what must always be true hold now? A line each, with what to do where not."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from cli.place import NothingRuns, running_stack

if TYPE_CHECKING:
    import asyncpg

    from cli.invariants import Invariant
    from sandbox.stack import Stack

HELP = "check the invariants of money, cover and messages"
PATIENCE_SECONDS = 10.0  # what is true only when all is quiet may take so long to become true
SHOWN = 3


class Result(NamedTuple):
    """One invariant. rows: how many break it, counted up to a bound. what: what holds, or what breaks it and
    what to do."""

    id: str
    ok: bool
    rows: int
    ms: int
    what: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("--json", action="store_true", help='[{"id", "ok", "rows", "ms"}]')


def run(args: argparse.Namespace) -> int:
    """0: all hold. 1: one does not, or nothing runs. 2: they can't be checked."""
    try:
        results = asyncio.run(_check())
    except NothingRuns as nothing:
        return _say(str(nothing), 1)
    except _unreachable() as error:
        return _say(f"can't check: {type(error).__name__}: {error} (./canbao status)")
    if args.json:
        sys.stdout.write(
            json.dumps([{"id": r.id, "ok": r.ok, "rows": r.rows, "ms": r.ms} for r in results]) + "\n"
        )
    else:
        for result in results:
            sys.stdout.write(f"{'✓' if result.ok else '✗'} {result.id:<4}{result.ms:>6} ms  {result.what}\n")
    return 0 if all(result.ok for result in results) else 1


async def _check() -> list[Result]:
    return await check(await running_stack())


async def check(stack: "Stack") -> list[Result]:
    """All invariants, in the order of their numbers; as the auditor, changing nothing.

    OSError, asyncpg.PostgresError, KafkaError, KafkaException, TimeoutError: a server is not there.
    """
    import asyncpg  # noqa: PLC0415 - --help stays instant

    from cli.invariants import INVARIANTS  # noqa: PLC0415 - --help stays instant

    db = await asyncpg.connect(stack.database_url("auditor"), ssl="disable", timeout=5)
    try:
        results = [await _asked(db, invariant) for invariant in INVARIANTS]
        results += await _messages(stack, db)
    finally:
        await db.close()
    return sorted(results, key=lambda result: int(result.id[1:]))


async def _asked(db: "asyncpg.Connection", invariant: "Invariant") -> Result:
    """By its query. What holds only when all is quiet is asked again while its rows may still go away."""
    began = time.monotonic()
    wrong = await _rows(db, invariant)
    while wrong and invariant.quiet and time.monotonic() - began < PATIENCE_SECONDS:
        await asyncio.sleep(0.5)    # rows that go away raise no event
        still = await _rows(db, invariant)
        wrong = [row for row in wrong if row in still]
    return _result(invariant.id, invariant.says, invariant.todo, wrong, began)


async def _rows(db: "asyncpg.Connection", invariant: "Invariant") -> list[str]:
    from cli.invariants import MOST  # noqa: PLC0415 - --help stays instant

    return [row[0] for row in await db.fetch(f"select * from ({invariant.sql}) broken limit {MOST}")]  # noqa: S608 - names of ours


async def _messages(stack: "Stack", db: "asyncpg.Connection") -> list[Result]:
    """By comparing topics, offsets, outboxes and inboxes, all read once."""
    from cli import conservation  # noqa: PLC0415 - --help stays instant

    began = time.monotonic()
    seen = await conservation.look(stack, db)

    async def overrun() -> list[str]:
        return conservation.overrun(seen)

    checks: Iterable[tuple[str, str, str, Callable[[], Awaitable[list[str]]]]] = (
        (
            "I12",
            "what was said is on its topic within a minute, and nothing else is",
            "lost: reread, then republish from the outbox; strange: somebody else writes there, see"
            " canbao topics plan",
            lambda: conservation.lost_or_forged(seen, db),
        ),
        (
            "I14",
            "what was consumed is done, answered or parked",
            "the record can be read again by its place: canbao tail TOPIC --from OFFSET; then replay it",
            lambda: conservation.unaccounted(seen, db),
        ),
        (
            "I15",
            "no offset is committed before its work is",
            "restart the service: it goes back to what its database has done",
            overrun,
        ),
        (
            "I20",
            "records that come again are known and change nothing",
            "do not replay this topic; the inbox has lost ids that its retention should keep",
            lambda: conservation.unknown(seen, db),
        ),
    )
    results = []
    for id, says, todo, ask in checks:
        results.append(_result(id, says, todo, await ask(), began))
        began = time.monotonic()
    return results


def _result(id: str, says: str, todo: str, wrong: list[str], began: float) -> Result:
    what = says
    if wrong:
        more = f" … and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        what = f"{says}: NOT SO: {'; '.join(wrong[:SHOWN])}{more}. Do: {todo}"
    return Result(
        id=id, ok=not wrong, rows=len(wrong), ms=round((time.monotonic() - began) * 1000), what=what
    )


def _unreachable() -> tuple[type[BaseException], ...]:
    import asyncpg  # noqa: PLC0415 - --help stays instant
    from aiokafka.errors import KafkaError  # noqa: PLC0415 - --help stays instant
    from confluent_kafka import KafkaException  # noqa: PLC0415 - --help stays instant

    return OSError, TimeoutError, KafkaError, KafkaException, asyncpg.PostgresError, asyncpg.InterfaceError


def _say(text: str, code: int = 2) -> int:
    sys.stderr.write(f"canbao verify: {text}\n")
    return code
