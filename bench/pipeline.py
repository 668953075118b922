"""How is a round of a benchmark run, for ours and for the raw loop alike?

A round has two acts, and only they are measured: everybody applies, is approved and billed; everybody pays
and is covered. Between them the bank signs its reports. Both loops are brought up anew for their turn and
warmed before it, so that neither pays for the other's idling.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer
from msgspec import Struct

from bench import cpu, gate
from bench.driver import Order, World
from bench.weight import per_transaction, weigh
from sandbox.ports import write_private
from sandbox.processes import ROOT
from services.chassis.ids import uuid7

PATIENCE_SECONDS = 60.0
MOST_FOREIGN = 0.05
PARTS = ("app", "postgres", "broker")  # what a business transaction costs; the load generator stands apart
_LOOK_SECONDS, _LINGER_SECONDS = 0.02, 10.0  # the last answers go out after the last fact is handled


class Broken(Exception):
    """A round that may not have a figure; its text says why, one line each."""


class Round(Struct, frozen=True, kw_only=True):
    """One measured round. seconds: both acts. ns: processor time by part. wrote: for each transaction,
    see weight.py.
    """

    loop: str
    transactions: int
    seconds: float
    ns: dict[str, int]
    foreign_share: float
    wrote: dict[str, float] = {}

    @property
    def cpu_us(self) -> float:
        """Processor time that a transaction cost, without the load generator's."""
        return sum(self.ns[part] for part in PARTS) / self.transactions / 1e3

    @property
    def disturbed(self) -> bool:
        """Others used more than 5 % of the machine meanwhile."""
        return self.foreign_share > MOST_FOREIGN


class Loop(Protocol):
    """A side of the comparison. prefix: of its schemas and topics."""

    name: str
    prefix: str

    async def up(self) -> None:
        """Start it; it takes work when this returns."""

    async def down(self) -> None:
        """End it."""

    def roots(self) -> list[int]:
        """Its processes."""


class Ground(Struct, kw_only=True):
    """What rounds stand on. db: the watcher's connection, whose own cost counts for nobody. postgres,
    broker: process ids. topics: the broker's folder.
    """

    db: asyncpg.Connection
    kafka: AIOKafkaConsumer
    postgres: int
    broker: int
    topics: Path


class Outside:
    """The driver's process, seen from here."""

    def __init__(self, process: asyncio.subprocess.Process, first: dict[str, Any]) -> None:
        self._process, self.pid, self.otlp = process, process.pid, str(first["otlp"])

    async def do(self, order: Order) -> dict[str, Any]:
        """Give an order and wait until it is done. Broken: the driver gave up; its last words are on
        standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise Broken("the load generator gave up")
        answer: dict[str, Any] = msgspec.json.decode(line)
        return answer


@asynccontextmanager
async def outside(world: World, file: Path, module: str = "bench.driver") -> AsyncIterator[Outside]:
    """A driver for as long as the block lasts. It ends with us, because its standard input does."""
    write_private(file, msgspec.json.encode(world))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        str(file),
        cwd=ROOT,
        limit=1 << 26,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        if not line:
            raise Broken("the load generator did not start")
        yield Outside(process, msgspec.json.decode(line))
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def play(
    ground: Ground,
    loop: Loop,
    driver: Outside,
    first: int,
    count: int,
    people: list[str],
    grows: gate.Counts = gate.GROWS,
) -> Round:
    """One round: applicants `first` to `first + count` go all the way. grows: what the gate expects. Raises
    Broken.
    """
    await driver.do(Order(do="prepare", first=first, count=count, people=people))
    await ground.db.execute("checkpoint")
    before = await gate.count(ground.db, ground.kafka, loop.prefix)
    light = await weigh(ground.db, ground.topics, loop.prefix)
    since = f"{uuid7()[:13]}-7000-8000-000000000000"  # the first id of this millisecond
    acts = []
    for act, order in ((1, "apply"), (2, "pay")):
        if act == 2:
            await driver.do(Order(do="sign"))
        goal = _goal(count, act)
        start = cpu.read_clock(time.monotonic_ns())
        await driver.do(Order(do=order, count=count))
        await _settled(ground, loop.prefix, act, since, goal)
        end = cpu.read_clock(time.monotonic_ns())
        parts = {
            "app": loop.roots(),
            "postgres": [ground.postgres],
            "broker": [ground.broker],
            "load_generator": [driver.pid],
        }
        acts.append(cpu.spent(start, end, parts, without={ground.db.get_server_pid()}))
    await check(ground, loop.prefix, before, count, grows)
    heavy = await weigh(ground.db, ground.topics, loop.prefix)
    wall = sum(act.wall_ns for act in acts)
    return Round(
        loop=loop.name,
        transactions=count,
        seconds=wall / 1e9,
        ns={part: sum(act.by_part[part] for act in acts) for part in acts[0].by_part},
        foreign_share=sum(act.foreign_ns for act in acts) / (wall * cpu.CORES),
        wrote=per_transaction(light, heavy, count),
    )


async def check(
    ground: Ground,
    prefix: str,
    before: gate.Counts,
    count: int,
    grows: gate.Counts = gate.GROWS,
    *,
    repeated: Collection[str] = (),
) -> None:
    """The gate: everything is done, and nothing but that. Raises Broken. repeated: see gate.faults."""
    end = time.monotonic() + _LINGER_SECONDS
    while wrong := gate.faults(
        before, await gate.count(ground.db, ground.kafka, prefix), count, grows, repeated=repeated
    ):
        if time.monotonic() > end:
            raise Broken("\n".join(wrong))
        await asyncio.sleep(_LOOK_SECONDS)


def _goal(count: int, act: int) -> tuple[int, ...]:
    """Facts handled in the whole round, by service, when the act is over."""
    return tuple(
        (gate.GROWS[f"facts handled once by {s}"] if act == 2 else 1) * count for s in gate.listening(act)
    )


async def _settled(ground: Ground, prefix: str, act: int, since: str, goal: tuple[int, ...]) -> None:
    """Until every service has handled what the act has for it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while (seen := await gate.handled(ground.db, prefix, act, since)) != goal:
        if time.monotonic() > end:
            raise Broken(
                f"act {act} is not over after {PATIENCE_SECONDS:.0f} s: facts handled {seen}, expected {goal}"
            )
        await asyncio.sleep(_LOOK_SECONDS)
