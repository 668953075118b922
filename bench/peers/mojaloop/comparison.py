"""How does Mojaloop compare with our road over Kafka? Rounds of ours and of its by turns, in one run on one
broker.

Mojaloop stays up and is warmed once, before all rounds; its batches fill with what is in flight.
"""

import asyncio
import time
from pathlib import Path

from bench import cpu, ours
from bench.comparison import Say, Size, one_line, register, standing, turn, watching, world
from bench.peers.killbill.client import Order
from bench.peers.killbill.comparison import Client, Sizes, client_of
from bench.peers.mojaloop.client import AMOUNT
from bench.peers.mojaloop.server import NAME, Mojaloop, prepare
from bench.pipeline import Broken, Ground, Round, outside
from sandbox.keys import make_keys
from sandbox.people import REGION
from sandbox.stack import Servers, Stack, cache_folder

AT_ONCE = 128  # in flight; with more it does not get faster
QUICK = Sizes(
    own=Size(rounds=2, transactions=3_000, warming=500), its=Size(rounds=2, transactions=1_000, warming=1_000)
)
FULL = Sizes(
    own=Size(rounds=5, transactions=10_000, warming=2_000),
    its=Size(rounds=5, transactions=5_000, warming=5_000),
)


async def compare(folder: Path, sizes: Sizes, say: Say) -> list[Round]:
    """Start a stack and Mojaloop over `folder`, run the rounds by turns, end everything. Raises as
    pipeline's.
    """
    kit = await asyncio.to_thread(prepare, cache_folder() / "peers", say)
    async with standing(folder, say) as (stack, servers):
        ledger = Mojaloop(folder, stack, kit)
        try:
            await ledger.up()
            async with client_of("bench.peers.mojaloop.client", stack.kafka_admin) as client:
                return await _compare(folder, stack, servers, (ledger, client), sizes, say)
        finally:
            await ledger.down()


async def _compare(
    folder: Path, stack: Stack, servers: Servers, its: tuple[Mojaloop, Client], sizes: Sizes, say: Say
) -> list[Round]:
    async with watching(stack, servers) as ground:
        skew = (await ours.set_clock(ground.db)).total_seconds()
        await ours.silence_gateway(ground.db)
        make_keys(folder / "keys")
        told = world(folder, sizes.own, skew, "", bank=stack.kafka("bank"), agency=stack.kafka(REGION))
        async with outside(told, folder / "driver.json") as driver:
            services = ours.Ours(folder, stack, servers, driver.otlp)
            people = await register(ground, services, driver, sizes.own, say)
            began = time.monotonic()
            await its[1].do(Order(sizes.its.warming, AT_ONCE))
            say(f"Mojaloop is warm, {time.monotonic() - began:.0f} s, not measured")
            rounds = []
            for number in range(sizes.own.rounds):
                rounds.append(await turn(ground, services, driver, number, sizes.own, people))
                say(one_line(rounds[-1]))
                rounds.append(await _its_turn(ground, *its, sizes.its.transactions))
                say(one_line(rounds[-1]))
            return rounds


async def _its_turn(ground: Ground, ledger: Mojaloop, client: Client, count: int) -> Round:
    before = await ledger.position()
    start = cpu.read_clock(time.monotonic_ns())
    await client.do(Order(count, AT_ONCE))
    end = cpu.read_clock(time.monotonic_ns())
    grown = await ledger.position() - before
    if grown != AMOUNT * count:
        raise Broken(f"the payee is owed {grown} more, expected {AMOUNT * count}")
    parts = {
        "app": ledger.nodes,
        "postgres": ledger.database,  # its MariaDB
        "broker": [ground.broker],
        "load_generator": [client.pid],
    }
    it = cpu.spent(start, end, parts, without={ground.db.get_server_pid()})
    return Round(
        loop=NAME,
        transactions=count,
        seconds=it.wall_ns / 1e9,
        ns=it.by_part,
        foreign_share=it.foreign_share,
    )
