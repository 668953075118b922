"""How does Kill Bill compare with our road over HTTP? Rounds of ours and of its by turns, in one run on one
Postgres.

Each has as many requests at once as suits it. Kill Bill's JVM stays up and is warmed once, before all rounds.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from bench import cpu, ours
from bench.comparison import Say, Size, one_line, register, standing, watching, world
from bench.peers.killbill.client import AMOUNT, Order
from bench.peers.killbill.kit import NAME, prepare
from bench.peers.killbill.server import KillBill
from bench.peers.over_http import GROWS_OVER_HTTP, HttpWorld, OurDoors
from bench.pipeline import Broken, Ground, Outside, Round, outside, play
from sandbox.keys import make_keys
from sandbox.people import REGION
from sandbox.processes import ROOT
from sandbox.stack import Servers, Stack, cache_folder

OURS_AT_ONCE, ITS_AT_ONCE = 128, 16  # beyond that neither gains
# An act of Kill Bill's books: what a transaction adds to its tables, and nothing else may grow.
_BOOKS = {
    "accounts": ("select count(*) from accounts", 1.0),
    "invoices": ("select count(*) from invoices where status = 'COMMITTED'", 1.0),
    "charged": ("select coalesce(sum(amount), 0) from invoice_items", AMOUNT),
    "paid": ("select coalesce(sum(amount), 0) from invoice_payments where success", AMOUNT),
    "payments": ("select count(*) from payments where last_success_state_name = 'PURCHASE_SUCCESS'", 1.0),
}


class Sizes(Struct, frozen=True, kw_only=True):
    """own: of our rounds. its: of the other's; its warming is done once."""

    own: Size
    its: Size


QUICK = Sizes(
    own=Size(rounds=2, transactions=2_000, warming=500), its=Size(rounds=2, transactions=300, warming=600)
)
FULL = Sizes(
    own=Size(rounds=5, transactions=10_000, warming=2_000),
    its=Size(rounds=5, transactions=2_000, warming=8_000),
)


class Client:
    """Another system's client, seen from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self.pid = process, process.pid

    async def do(self, order: Order) -> dict[str, Any]:
        """Broken: it gave up; its last words are on standard error."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        """What it says next."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise Broken("the client gave up")
        said: dict[str, Any] = msgspec.json.decode(line)
        return said


@asynccontextmanager
async def client_of(module: str, where: str) -> AsyncIterator[Client]:
    """A client for as long as the block lasts. where: what it is told to reach."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, where),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        client = Client(process)
        await client.answer()
        yield client
    finally:
        process.stdin.close()
        await process.wait()


async def compare(folder: Path, sizes: Sizes, say: Say) -> list[Round]:
    """Start a stack and Kill Bill over `folder`, run the rounds by turns, end everything. Raises as
    pipeline's.
    """
    kit = await asyncio.to_thread(prepare, cache_folder() / "peers", say)
    async with standing(folder, say) as (stack, servers):
        bill = KillBill(folder, stack, kit)
        try:
            await bill.up()
            async with client_of("bench.peers.killbill.client", bill.url) as client:
                return await _compare(folder, stack, servers, (bill, client), sizes, say)
        finally:
            await bill.down()


async def _compare(
    folder: Path, stack: Stack, servers: Servers, its: tuple[KillBill, Client], sizes: Sizes, say: Say
) -> list[Round]:
    async with watching(stack, servers) as ground:
        skew = (await ours.set_clock(ground.db)).total_seconds()
        await ours.silence_gateway(ground.db)
        make_keys(folder / "keys")
        plain = world(folder, sizes.own, skew, "", bank=stack.kafka("bank"), agency=stack.kafka(REGION))
        services = OurDoors(folder, stack, servers, "")
        told = HttpWorld(**asdict(plain), doors=services.sandbox.doors, at_once=OURS_AT_ONCE)
        async with (
            outside(told, folder / "driver.json", "bench.peers.over_http") as driver,
            _books(stack) as books,
        ):
            services = OurDoors(folder, stack, servers, driver.otlp)
            people = await register(ground, services, driver, sizes.own, say)
            began = time.monotonic()
            await its[1].do(Order(sizes.its.warming, ITS_AT_ONCE))
            say(f"Kill Bill is warm, {time.monotonic() - began:.0f} s, not measured")
            rounds = []
            for number in range(sizes.own.rounds):
                rounds.append(await _our_turn(ground, services, driver, number, sizes.own, people))
                say(one_line(rounds[-1]))
                rounds.append(await _its_turn(ground, books, *its, sizes.its.transactions))
                say(one_line(rounds[-1]))
            return rounds


async def _our_turn(
    ground: Ground, loop: OurDoors, driver: Outside, number: int, size: Size, people: list[str]
) -> Round:
    first = number * (size.warming + size.transactions)
    await loop.up()
    try:
        await play(ground, loop, driver, first, size.warming, people, GROWS_OVER_HTTP)
        return await play(
            ground, loop, driver, first + size.warming, size.transactions, people, GROWS_OVER_HTTP
        )
    finally:
        await loop.down()


async def _its_turn(
    ground: Ground, books: asyncpg.Connection, bill: KillBill, client: Client, count: int
) -> Round:
    before = await _count(books)
    await ground.db.execute("checkpoint")
    start = cpu.read_clock(time.monotonic_ns())
    await client.do(Order(count, ITS_AT_ONCE))
    end = cpu.read_clock(time.monotonic_ns())
    after = await _count(books)
    wrong = [
        f"{name}: {after[name] - before[name]}, expected {each * count}"
        for name, (_, each) in _BOOKS.items()
        if after[name] - before[name] != each * count
    ]
    if wrong:
        raise Broken("\n".join(wrong))
    parts = {"app": [bill.pid], "postgres": [ground.postgres], "broker": [], "load_generator": [client.pid]}
    watchers = {ground.db.get_server_pid(), books.get_server_pid()}
    it = cpu.spent(start, end, parts, without=watchers)
    return Round(
        loop=NAME,
        transactions=count,
        seconds=it.wall_ns / 1e9,
        ns=it.by_part,
        foreign_share=it.foreign_share,
    )


async def _count(books: asyncpg.Connection) -> dict[str, float]:
    return {name: float(await books.fetchval(sql)) for name, (sql, _) in _BOOKS.items()}


@asynccontextmanager
async def _books(stack: Stack) -> AsyncIterator[asyncpg.Connection]:
    """The watcher's look into Kill Bill's database."""
    connection = await asyncpg.connect(stack.pg_admin_dsn, database=NAME, ssl="disable")
    try:
        yield connection
    finally:
        await connection.close()
