"""How do those who do the same work a message at a time compare? Rounds of ours and of theirs by turns, in
one run.
"""

from contextlib import AsyncExitStack
from pathlib import Path

from bench import ours
from bench.comparison import Say, Size, one_line, register, standing, turn, watching, world
from bench.peers.ground import PEERS, Tutorial, lay_peer
from bench.pipeline import Loop, Outside, Round, outside
from bench.raw.ground import RawLoop, fill
from sandbox.keys import make_keys
from sandbox.people import REGION
from sandbox.stack import Servers, Stack
from services.chassis.settings import Kafka

# A message at a time is slow, so a peer's round is shorter; every loop is busy all the time in its own.
QUICK = (
    Size(rounds=2, transactions=3_000, warming=500),
    Size(rounds=2, transactions=300, warming=100),
)
FULL = (
    Size(rounds=5, transactions=10_000, warming=2_000),
    Size(rounds=5, transactions=1_000, warming=300),
)


async def compare(
    folder: Path, own: Size, theirs: Size, say: Say, peers: tuple[type[RawLoop], ...] = PEERS
) -> list[Round]:
    """Start a stack over `folder`, run the rounds by turns, end everything. own, theirs: as many rounds.

    Raises Broken when a round fails its gate, the servers' troubles, AlreadyUp.
    """
    async with standing(folder, say) as (stack, servers):
        return await _compare(folder, stack, servers, own, theirs, say, peers)


async def _compare(
    folder: Path,
    stack: Stack,
    servers: Servers,
    own: Size,
    theirs: Size,
    say: Say,
    peers: tuple[type[RawLoop], ...],
) -> list[Round]:
    async with watching(stack, servers) as ground, AsyncExitStack() as drivers:
        skew = (await ours.set_clock(ground.db)).total_seconds()
        await ours.silence_gateway(ground.db)
        make_keys(folder / "keys")
        people_size = max(own, theirs, key=lambda size: size.people)
        bank, agency, plain = stack.kafka("bank"), stack.kafka(REGION), Kafka(bootstrap=stack.kafka_admin)

        async def driver_of(prefix: str, bank: Kafka, agency: Kafka) -> Outside:
            told = world(folder, people_size, skew, prefix, bank=bank, agency=agency)
            return await drivers.enter_async_context(outside(told, folder / f"{prefix}driver.json"))

        driver = await driver_of("", bank, agency)
        services = ours.Ours(folder, stack, servers, driver.otlp)
        dsns = {peer.name: await lay_peer(ground.db, stack, peer) for peer in peers}
        people = await register(ground, services, driver, people_size, say)
        turns: list[tuple[Loop, Outside, Size]] = [(services, driver, own)] if own.transactions else []
        for peer in peers:
            await fill(ground.db, peer.name)
            raw = peer(stack, dsns[peer.name], folder, skew)
            turns.append((raw, await driver_of(f"{peer.prefix}.", plain, plain), theirs))
        rounds = []
        for number in range(theirs.rounds):
            last = number == theirs.rounds - 1
            for loop, who, size in turns:
                # The tutorial's way does not outlast that anything is said twice, so it is not asked to.
                again = stack.kafka_admin if last and not isinstance(loop, Tutorial) else ""
                rounds.append(await turn(ground, loop, who, number, size, people, again))
                say(one_line(rounds[-1]))
        return rounds
