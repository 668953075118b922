"""What becomes of it without traces, with two workers, with a backlog, when things go wrong outside, when a
worker is killed?
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import psutil
from aiokafka import TopicPartition
from msgspec import Struct

from bench import gate
from bench.comparison import Say, one_line
from bench.driver import Order
from bench.memory import peaks
from bench.ours import Ours, admin
from bench.pipeline import Broken, Round, check
from bench.site import Site, site
from bench.steady import level, percentile
from contracts.payment import PAYMENTS
from contracts.topics import PARTITIONS, SERVICES
from sandbox.lifeline import wait_until_gone

_LOOK_SECONDS, _PATIENCE_SECONDS = 0.02, 60.0
_VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "untraced": {"traced": False},
    "two workers": {"members": 2},
}

# What another amount leaves before the right one comes.
_MISPAID = {
    "commands answered by payment": 1,
    "ledger legs": 2,
    PAYMENTS: 1,
    "facts handled once by notify": 1,
    "notification intents": 1,
    "calls to the SMS gateway waiting": 1,
}


class Size(Struct, frozen=True, kw_only=True):
    """rounds: of each variant, so many transactions after so many that warm. backlog: people who wait for
    services that are down. rate, seconds: of the load while workers are killed.
    """

    rounds: int
    transactions: int
    warming: int
    backlog: int
    rate: float
    seconds: float

    @property
    def people(self) -> int:
        """Who must have an account."""
        rounds = len(_VARIANTS) * self.rounds * (self.transactions + self.warming)
        return rounds + self.backlog + 2 * self.transactions + 3 * int(self.rate * self.seconds)


QUICK = Size(rounds=1, transactions=1_500, warming=300, backlog=3_000, rate=50, seconds=20)
FULL = Size(rounds=3, transactions=4_000, warming=500, backlog=20_000, rate=100, seconds=20)


async def measure(folder: Path, size: Size, say: Say) -> dict[str, Any]:
    """All of them, one after the other. Raises Broken and what `site` raises."""
    async with site(folder, size.people, say) as here:
        rounds = await variants(here, size, say)
        drained = await drain(here, size)
        say(f"a backlog of {size.backlog:,} was drained in {drained['seconds']} s")
        unlucky = await misfortunes(here, size)
        killed = await kill(here, size)
        say(f"killed workers were back after {killed['seconds']} s")
    return {
        "variants": {name: _figures(some) for name, some in rounds.items()},
        "tracing_on_by_off": _ratio(rounds, "ours", "untraced"),
        "two_workers_by_one": _ratio(rounds, "two workers", "ours"),
        "drain": drained,
        "misfortunes": unlucky,
        "killed": killed,
    }


def _figures(rounds: list[Round]) -> dict[str, Any]:
    return {
        "bt_per_s": [round(it.transactions / it.seconds) for it in rounds],
        "cpu_us_per_bt": [round(it.cpu_us) for it in rounds],
        "disturbed": sum(it.disturbed for it in rounds),
        "rounds": len(rounds),
    }


def _ratio(rounds: dict[str, list[Round]], name: str, to: str) -> dict[str, float]:
    speed = {each: median(it.transactions / it.seconds for it in rounds[each]) for each in (name, to)}
    cost = {each: median(it.cpu_us for it in rounds[each]) for each in (name, to)}
    return {"bt_per_s": round(speed[name] / speed[to], 3), "cpu": round(cost[name] / cost[to], 3)}


async def variants(here: Site, size: Size, say: Say) -> dict[str, list[Round]]:
    """Rounds of each by turns."""
    played: dict[str, list[Round]] = {name: [] for name in _VARIANTS}
    for _ in range(size.rounds):
        for name, how in _VARIANTS.items():
            services = here.services(**how)
            await services.up()
            try:
                await here.play(services, size.warming)
                played[name].append(await here.play(services, size.transactions))
            finally:
                await services.down()
            say(f"{name}, {one_line(played[name][-1])}")
    return played


async def drain(here: Site, size: Size) -> dict[str, Any]:
    """So many applications stand on the topic when the services start. Raises Broken."""
    ground, driver, services = here.ground, here.driver, here.services()
    await services.up()
    async with peaks(services.pids) as usual:
        await here.play(services, size.transactions)
    await services.down()
    before = await gate.count(ground.db, ground.kafka, "")
    await driver.do(
        Order(do="prepare", first=here.take(size.backlog), count=size.backlog, people=here.people)
    )
    applying = asyncio.create_task(driver.do(Order(do="apply", count=size.backlog)))
    bank = [TopicPartition(gate.BANK.topic, number) for number in range(PARTITIONS)]

    async def standing() -> bool:
        ends = await ground.kafka.end_offsets(bank)
        return bool(sum(ends.values()) - before[gate.BANK.topic] >= size.backlog)

    await until(standing, "the backlog stands on its topic")
    began = time.monotonic()
    async with peaks(services.pids) as loaded:
        await services.up()
        ready = time.monotonic()
        await applying
        ended = time.monotonic()
    await driver.do(Order(do="sign"))
    await driver.do(Order(do="pay", count=size.backlog))
    await check(ground, "", before, size.backlog)
    await services.down()
    return {
        "applications": size.backlog,
        "seconds": round(ended - began, 1),
        "start_seconds": round(ready - began, 1),
        "applications_per_s": round(size.backlog / (ended - began)),
        "peak_pss_mb": {name: round(most / 1e6) for name, most in loaded.items()},
        "pss_ratio": round(max(loaded.values()) / max(usual.values()), 3),
        "usual_pss_mb": {name: round(most / 1e6) for name, most in usual.items()},
    }


async def misfortunes(here: Site, size: Size) -> dict[str, Any]:
    """A round in which some say everything twice, pay another amount first, or come after all others: each
    is billed, paid and covered once, and money that fits nothing stands apart. Raises Broken.
    """
    ground, driver, services = here.ground, here.driver, here.services()
    count = size.transactions
    await services.up()
    try:
        before = await gate.count(ground.db, ground.kafka, "")
        ready = Order(do="prepare", first=here.take(count), count=count, people=here.people, misfortunes=True)
        twice = (await driver.do(ready))["records"] - count
        await driver.do(Order(do="apply", count=count))
        wrong = (await driver.do(Order(do="sign", misfortunes=True)))["records"] - count - twice
        await driver.do(Order(do="pay", count=count))
        more = {gate.BANK.topic: 2 * twice + wrong, gate.BANK.replies: 2 * twice + wrong} | {
            name: each * wrong for name, each in _MISPAID.items()
        }
        grows = {name: each * count + more.get(name, 0) for name, each in gate.GROWS.items()}
        await check(ground, "", before, 1, grows | {"receipts that fit nothing": wrong})
    finally:
        await services.down()
    return {"transactions": count, "said_twice": twice, "wrong_amounts": wrong}


async def kill(here: Site, size: Size) -> dict[str, Any]:
    """Each service's process is killed once while people come; all of their transactions are whole, and once.

    seconds: from the signal to its next handled fact. Raises Broken.
    """
    services, back = here.services(), dict[str, float]()
    db = await admin(here.stack)
    await services.up()
    try:
        # who is killed between sending and noting it sends again, and whoever hears it knows the id
        loading = asyncio.create_task(level(here, services, size.rate, size.seconds, repeated=gate.TOPICS))
        try:
            for service in SERVICES:
                back[service] = round(await _kill(db, services, service, loading), 2)
        finally:
            if len(back) < len(SERVICES):
                loading.cancel()
            seen = await loading
    finally:
        await services.down()
        await db.close()
    whole = [sum(both) for both in seen.ways]
    return {
        "seconds": max(back.values()),
        "by_service": back,
        "bt_per_s": size.rate,
        "transactions": 3 * int(size.rate * size.seconds),
        "e2e_ms": {"p50": round(percentile(whole, 50)), "max": round(max(whole))},
    }


async def _kill(db: asyncpg.Connection, services: Ours, service: str, loading: "asyncio.Task[Any]") -> float:
    """Seconds until it handles messages again."""

    async def done() -> int:
        return int(await db.fetchval(f'select coalesce(sum("offset"), 0) from {service}.progress'))  # noqa: S608 - ours

    async def more() -> bool:
        if loading.done():
            raise Broken(f"nobody came any more when {service} was to be killed")
        return await done() > seen

    seen = await done()
    await until(more, f"{service} is at work")
    process, began = psutil.Process(services.pids()[service]), time.monotonic()
    process.kill()
    await asyncio.to_thread(wait_until_gone, [process], 5.0)
    seen = await done()
    await until(more, f"{service} works again")
    return time.monotonic() - began


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for it. Raises Broken."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while not await holds():
        if time.monotonic() > end:
            raise Broken(f"not after {_PATIENCE_SECONDS:.0f} s: {what}")
        await asyncio.sleep(_LOOK_SECONDS)


def as_text(said: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{name:>12}: {_each(it['bt_per_s'])} BT/s; {_each(it['cpu_us_per_bt'])} µs CPU per BT;"
        f" {it['disturbed']} of {it['rounds']} rounds disturbed"
        for name, it in said["variants"].items()
    ]
    drained, killed, unlucky = said["drain"], said["killed"], said["misfortunes"]
    tracing, two = said["tracing_on_by_off"], said["two_workers_by_one"]
    memory = [
        ", ".join(f"{name} {mb}" for name, mb in drained[kind].items())
        for kind in ("peak_pss_mb", "usual_pss_mb")
    ]
    back = ", ".join(f"{name} {seconds}" for name, seconds in killed["by_service"].items())
    return "\n".join(
        [
            *lines,
            f"tracing at 1 % on ÷ off: throughput {tracing['bt_per_s']}, CPU {tracing['cpu']}",
            f"two workers ÷ one: throughput {two['bt_per_s']}, CPU {two['cpu']}",
            f"backlog of {drained['applications']:,} applications: all billed {drained['seconds']} s after"
            f" the start began (it took {drained['start_seconds']} s), {drained['applications_per_s']:,}/s",
            f"peak memory (PSS) in MB: {memory[0]}; without a backlog: {memory[1]}",
            f"of {unlucky['transactions']:,} transactions {unlucky['said_twice']} were said twice and"
            f" {unlucky['wrong_amounts']} began with a wrong amount: each was billed, paid and covered once",
            f"killed at {killed['bt_per_s']:g} BT/s, at work again after (s): {back};",
            f"all {killed['transactions']:,} transactions whole and once,"
            f" the slowest in {killed['e2e_ms']['max']:,} ms",
        ]
    )


def _each(values: list[int]) -> str:
    return " ".join(f"{value:,}" for value in values)
