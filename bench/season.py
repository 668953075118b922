"""How long do `trace` and `verify` take over a whole season's rows? `canbao bench season`

The rows are shaped like those of people who applied, were approved, billed, paid and told, and are written
past the services: a million bills stand in minutes. The newest of what was said stands on the topics too.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
from confluent_kafka import Producer
from msgspec import Struct

from bench import season_rows as rows
from contracts.topics import OPERATED, SERVICES
from sandbox.stack import Servers, Stack, provision_stack
from sandbox.state import hold
from services.chassis.outbox import Said
from services.chassis.relay import MESSAGE, headers
from services.chassis.subscriptions import LANES

FULL, QUICK = 1_000_000, 20_000  # bills
ROUNDS = 20
ON_TOPICS = 3_000  # of each outbox: more than verify compares with the topics, by whole batches
# An id of each kind that somebody may ask with.
_IDS = """
select person::text as person, enrollment::text as enrollment, obligation || '/1' as bill,
       order_id::text as order, channel_ref as transaction, season.id(21, n, ms)::text as event,
       'start-' || n as request
from season.citizen where n = any($1)"""


class Questions(NamedTuple):
    """What is asked: the verbs' own functions, handed in because a bench stands below the verbs."""

    trace: Callable[[Stack, str], Awaitable[Any]]
    verify: Callable[[Stack], Awaitable[list[Any]]]


class Season(Struct, frozen=True, kw_only=True):
    """What was measured. traces: seconds of each round, by kind of id. verify: twice, the first one cold."""

    bills: int
    bytes: int
    fill_seconds: float
    traces: dict[str, list[float]]
    verify: list[list[Any]]

    def summary(self) -> dict[str, Any]:
        """Figures alone, by what they are of."""
        verified = [round(sum(result.ms for result in results) / 1000, 2) for results in self.verify]
        return {
            "bills": self.bills,
            "database_gb": round(self.bytes / 1e9, 2),
            "fill_seconds": round(self.fill_seconds),
            "trace_seconds": {
                kind: {"n": len(all), "median": round(statistics.median(all), 2), "max": round(max(all), 2)}
                for kind, all in self.traces.items()
            },
            "verify_seconds": {"cold": verified[0], "warm": verified[-1]},
            "verify_ms": {result.id: result.ms for result in self.verify[-1]},
        }

    def text(self) -> str:
        """For people."""
        said = self.summary()
        lines = [f"{self.bills:,} bills, {said['database_gb']} GB, filled in {said['fill_seconds']} s"]
        lines += [
            f"trace by {kind:<12} median {took['median']:>5} s, slowest {took['max']:>5} s of {took['n']}"
            for kind, took in said["trace_seconds"].items()
        ]
        cold, warm = said["verify_seconds"].values()
        lines.append(f"verify {cold} s cold, {warm} s again:")
        lines.append("  " + "  ".join(f"{id} {ms} ms" for id, ms in said["verify_ms"].items()))
        return "\n".join(lines)


def measure(folder: Path, bills: int, questions: Questions, say: Callable[[str], None]) -> Season:
    """Fill an empty folder's servers, ask, and end them."""
    with hold(folder):
        servers = Servers(folder, quick=True)
        try:
            stack = servers.start()
            provision_stack(stack)
            began = time.monotonic()
            asyncio.run(fill(stack, bills, say))
            filled = time.monotonic() - began
            servers.revive("postgres")  # it has nothing in its memory
            return asyncio.run(ask(stack, bills, questions, filled))
        finally:
            servers.stop()


async def ask(stack: Stack, bills: int, questions: Questions, filled: float) -> Season:
    """What people ask of it. AssertionError: an answer is wrong."""
    return Season(
        bills=bills,
        bytes=await _size(stack),
        fill_seconds=filled,
        traces=await _traces(stack, bills, questions.trace),
        verify=[_held(await questions.verify(stack)) for _ in range(2)],
    )


def _held(results: list[Any]) -> list[Any]:
    wrong = [result.what for result in results if not result.ok]
    assert not wrong, wrong
    return results


async def _admin(stack: Stack) -> asyncpg.Connection:
    return await asyncpg.connect(stack.pg_admin_dsn, database=stack.database, ssl="disable")


async def fill(stack: Stack, bills: int, say: Callable[[str], None]) -> None:
    """Everybody's rows, and the newest messages on their topics."""
    await write_rows(stack, bills, say, OPERATED)
    db = await _admin(stack)
    try:
        await _send(stack, db)
    finally:
        await db.close()


async def write_rows(stack: Stack, bills: int, say: Callable[[str], None], whose: Sequence[str]) -> None:
    """Rows of these services; past triggers, and the console's indexes afterwards."""
    db = await _admin(stack)
    try:
        await db.execute("drop schema if exists season cascade")
        await db.execute(rows.PEOPLE.format(began=int(time.time() * 1000) - bills, bills=bills))
        indexes = await db.fetch(
            "select indexname, indexdef from pg_indexes where schemaname = 'console' and tablename = 'step'"
            " and indexname like 'ix_%'"
        )
        await db.execute("".join(f"drop index console.{name};" for name, _ in indexes))
        work = [statement for service in whose for statement in _statements(service)]
        say(f"{len(work)} statements for {bills:,} people")
        await asyncio.gather(*(_work(stack, work) for _ in range(2)))
        work += [index for _, index in indexes]
        await asyncio.gather(*(_work(stack, work) for _ in range(2)))
        await db.execute("vacuum analyze")
    finally:
        await db.close()


def _statements(service: str) -> list[str]:
    """Everything of one service, the largest first."""
    own = [f"insert into {row} from season.citizen" for row in rows.ROWS[service]]
    said = [rows.outbox(service)] if service in SERVICES else rows.steps()
    return [*said, *rows.inboxes(service), *rows.requests(service), *own]


async def _work(stack: Stack, work: list[str]) -> None:
    db = await _admin(stack)
    try:
        await db.execute("set session_replication_role = replica; set maintenance_work_mem = '512MB'")
        while work:
            await db.execute(work.pop(0))
    finally:
        await db.close()


async def _send(stack: Stack, db: asyncpg.Connection) -> None:
    """The newest of each outbox stands on its topic, and who reads it has read it."""
    producer = Producer({"bootstrap.servers": stack.kafka_admin, "log_level": 0})
    ends: dict[tuple[str, int], int] = {}

    def landed(_: Any, record: Any) -> None:
        place = (record.topic(), record.partition())
        ends[place] = max(ends.get(place, 0), record.offset())

    for service in SERVICES:
        newest = await db.fetch(
            f"select {MESSAGE} from {service}.outbox order by batch_id desc, n desc limit {ON_TOPICS}"  # noqa: S608 - ours
        )
        for row in reversed(newest):
            said = Said(*row)
            producer.produce(
                said.topic,
                said.payload,
                said.key,
                said.part,
                landed,
                headers=dict(headers(said, f"/{service}")),
            )
        producer.flush(60)
    done = [
        (reader, lane, *place)
        for reader, on in rows.READERS.items()
        for lane in LANES
        for place in ends
        if place[0] in on.topics(lane)
    ]
    for reader, lane, topic, part in done:
        await db.execute(
            f"insert into {reader}.progress values ($1, $2, $3, $4)",  # noqa: S608 - names of ours
            *(lane, topic, part, ends[topic, part]),
        )


async def _size(stack: Stack) -> int:
    db = await _admin(stack)
    try:
        return int(await db.fetchval("select pg_database_size(current_database())"))
    finally:
        await db.close()


async def _traces(
    stack: Stack, bills: int, trace: Callable[[Stack, str], Awaitable[Any]]
) -> dict[str, list[float]]:
    db = await _admin(stack)
    try:
        wanted = await db.fetch(_IDS, [bills * (n + 1) // (ROUNDS + 1) for n in range(ROUNDS)])
    finally:
        await db.close()
    took: dict[str, list[float]] = {}
    for row in wanted:
        for kind, id in row.items():
            began = time.monotonic()
            found = await trace(stack, id)
            took.setdefault(kind, []).append(time.monotonic() - began)
            assert found is not None, (kind, id)
            assert found.kind == kind, (kind, found.kind)
    return took
