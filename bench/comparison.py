"""How far are the services from the limit? Rounds of ours and of the raw loop by turns, in one run on one
stack.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from aiokafka import AIOKafkaConsumer
from msgspec import Struct

from bench import load, ours
from bench.driver import Order, World
from bench.pipeline import Ground, Loop, Outside, Round, outside, play
from bench.raw import ground as raw_ground
from bench.replay import replay
from sandbox.keys import make_keys
from sandbox.people import REGION
from sandbox.stack import Servers, Stack, provision_stack
from sandbox.state import hold
from services.chassis.settings import Kafka

Say = Callable[[str], None]
SEED = 7


class Size(Struct, frozen=True, kw_only=True):
    """How much is measured. rounds: of each loop. transactions: in each. warming: before each turn, not
    measured.
    """

    rounds: int
    transactions: int
    warming: int

    @property
    def people(self) -> int:
        """Applicants that one loop needs; the other has the same ones."""
        return self.rounds * (self.transactions + self.warming)


QUICK = Size(rounds=2, transactions=3_000, warming=500)
FULL = Size(rounds=5, transactions=8_000, warming=1_500)


async def compare(folder: Path, size: Size, say: Say) -> list[Round]:
    """Start a stack over `folder`, run the rounds by turns, end everything.

    Raises Broken when a round fails its gate, the servers' troubles, AlreadyUp.
    """
    async with standing(folder, say) as (stack, servers):
        return await _compare(folder, stack, servers, size, say)


@asynccontextmanager
async def standing(folder: Path, say: Say) -> AsyncIterator[tuple[Stack, Servers]]:
    """A provisioned stack over `folder` for as long as the block lasts. Raises the servers' troubles,
    AlreadyUp.
    """
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - nothing runs yet that it could hold up
    with hold(folder):
        servers = Servers(folder, say=say)
        try:
            stack = await asyncio.to_thread(servers.start)
            await asyncio.to_thread(provision_stack, stack)
            yield stack, servers
        finally:
            await asyncio.to_thread(servers.stop)


async def _compare(folder: Path, stack: Stack, servers: Servers, size: Size, say: Say) -> list[Round]:
    async with watching(stack, servers) as ground:
        skew = (await ours.set_clock(ground.db)).total_seconds()
        await ours.silence_gateway(ground.db)
        dsn = await raw_ground.lay(ground.db, stack)
        make_keys(folder / "keys")
        plain = Kafka(bootstrap=stack.kafka_admin)
        own = world(folder, size, skew, "", bank=stack.kafka("bank"), agency=stack.kafka(REGION))
        other = world(folder, size, skew, raw_ground.PREFIX, bank=plain, agency=plain)
        async with (
            outside(own, folder / "driver.json") as driver,
            outside(other, folder / "raw-driver.json") as raw_driver,
        ):
            services = ours.Ours(folder, stack, servers, driver.otlp)
            raw = raw_ground.RawLoop(stack, dsn, folder, skew)
            people = await register(ground, services, driver, size, say)
            await raw_ground.fill(ground.db)
            rounds = []
            for number in range(size.rounds):
                again = stack.kafka_admin if number == size.rounds - 1 else ""
                for loop, who in ((services, driver), (raw, raw_driver)):
                    rounds.append(await turn(ground, loop, who, number, size, people, again))
                    say(one_line(rounds[-1]))
            return rounds


async def turn(
    ground: Ground, loop: Loop, driver: Outside, number: int, size: Size, people: list[str], again: str = ""
) -> Round:
    """Bring one loop up, warm it, measure it, end it. Raises Broken.

    again: the way into Kafka by which some of what was said is said again afterwards.
    """
    first = number * (size.warming + size.transactions)
    await loop.up()
    try:
        await play(ground, loop, driver, first, size.warming, people)
        played = await play(ground, loop, driver, first + size.warming, size.transactions, people)
        if again:
            await replay(ground, again, loop.prefix)
        return played
    finally:
        await loop.down()


async def register(ground: Ground, loop: ours.Ours, driver: Outside, size: Size, say: Say) -> list[str]:
    """Everybody has an account; their person_ids."""
    began = time.monotonic()
    await loop.up()
    try:
        people: list[str] = (await driver.do(Order(do="register", count=size.people)))["people"]
        await ours.until_known(ground.db, size.people)
    finally:
        await loop.down()
    say(f"{size.people:,} people are registered, {time.monotonic() - began:.0f} s, not measured")
    return people


@asynccontextmanager
async def watching(stack: Stack, servers: Servers) -> AsyncIterator[Ground]:
    """What rounds on this stack stand on."""
    db = await asyncpg.connect(stack.pg_admin_dsn, database=stack.database, ssl="disable")
    kafka = AIOKafkaConsumer(bootstrap_servers=stack.kafka_admin)
    await kafka.start()
    try:
        pids = servers.pids()
        assert servers.kafka is not None
        yield Ground(
            db=db,
            kafka=kafka,
            postgres=pids["postgres"] or 0,
            broker=pids["kafka"] or 0,
            topics=servers.kafka.data,
        )
    finally:
        await kafka.stop()
        await db.close()


def world(folder: Path, size: Size, skew: float, prefix: str, *, bank: Kafka, agency: Kafka) -> World:
    """What a driver for a loop with this prefix reads; all read the same file of intents."""
    intents = folder.resolve() / "intents.jsonl"
    if not intents.exists():
        load.write(intents, size.people, SEED)
    return World(
        prefix=prefix,
        bank=bank,
        agency=agency,
        keys=str(folder.resolve() / "keys"),
        intents=str(intents),
        seed=SEED,
        run=f"b{int(time.time()):x}",
        skew_seconds=skew,
    )


def one_line(it: Round) -> str:
    """A round as it is told while the next one runs."""
    per = {part: ns / it.transactions / 1000 for part, ns in it.ns.items()}
    cost = per["app"] + per["postgres"] + per["broker"]
    mark = "  (disturbed)" if it.disturbed else ""
    return (
        f"{it.loop:>4}: {it.transactions / it.seconds:6,.0f} BT/s, {cost:5,.0f} µs CPU per BT"
        f" = app {per['app']:.0f} + postgres {per['postgres']:.0f} + broker {per['broker']:.0f};"
        f" load generator {per['load_generator']:.0f}; foreign {it.foreign_share:.1%}{mark}"
    )
