"""What is a whole run of the fuzz over a running sandbox? Commands and facts, citizens among them, doors."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
from msgspec import Struct

from contracts.partners import PARTNERS
from sandbox.fuzz.citizen import journey
from sandbox.fuzz.due import Payload
from sandbox.fuzz.facts import Facts
from sandbox.fuzz.knocking import Knocks, knock
from sandbox.fuzz.payloads import Commands
from sandbox.fuzz.pushing import Push, Verdict
from sandbox.partner import Partner, published_topics, read_topics
from sandbox.stack import Say, Stack, quiet
from sandbox.state import read_state
from services.chassis.keys import load_keyring

_HEARING = ("bank", "990100")  # the citizen's; what is not an answer would end these clients
_SPARED = frozenset(PARTNERS[code].replies for code in _HEARING)
_WARM_UP = 60
_OF_SERVICES = 0.25
_A_KNOCK_IN = 20  # of so many payloads one more goes through a door
_AGENCY = "990100"


class Report(Struct, frozen=True, kw_only=True):
    """What came of a run. seconds: of pushing. citizens: how long each one's way took while it went on.
    doors: how often each status was heard over HTTP. p50_ms, p99_ms, max_ms: from the broker to the answer
    or the word that it is kept. late: more than a second. restarted: services that ended.
    """

    seed: int
    payloads: int
    seconds: float
    rate: float
    outcomes: dict[str, int]
    doors: dict[str, int]
    p50_ms: int
    p99_ms: int
    max_ms: int
    late: int
    citizens: list[float]
    mistaken: list[str]
    stuck: list[str]
    restarted: list[str]

    @property
    def sound(self) -> bool:
        """Whether all came as it must."""
        return not (self.mistaken or self.stuck or self.restarted)


async def fuzz(
    folder: Path, *, payloads: int, seed: int, rate: float, say: Say = quiet
) -> tuple[Report, set[str]]:
    """Push so many payloads into the sandbox over this folder; what came of it, and where they stand."""
    stack, before = Stack.recall(folder), _starts(folder)
    async with all_partners(folder, stack) as partners, Push.over(stack) as push:
        run = f"fuzz-{seed}-{time.time_ns() % 10**9:x}"
        random = Random(seed)
        bank, agency = partners["bank"], partners[_AGENCY]
        first = await journey(bank, agency, Random(time.time_ns()), f"{run}-first")
        commands = Commands(partners, random, run, first)
        await push.send(commands.one, 0, _WARM_UP, rate)
        facts = Facts(await _said(stack), random, spared=_SPARED)

        def one(number: int) -> Payload:
            return (facts if random.random() < _OF_SERVICES else commands).one(number)

        say(f"{payloads} payloads, {rate:g} a second")
        enough = asyncio.Event()
        knocking = asyncio.create_task(knock(_doors(folder), commands, payloads // _A_KNOCK_IN + 1))
        citizens = asyncio.create_task(_citizens(bank, agency, run, enough))
        try:
            seconds = await push.send(one, _WARM_UP, payloads, rate)
        finally:
            enough.set()
            ways = await citizens
            knocks = await knocking
        say("waiting for the last answers")
        verdict = await push.verdict()
    restarted = _restarted(before, _starts(folder))
    return _report(seed, payloads, seconds, verdict, knocks, ways, restarted), verdict.places


def _report(
    seed: int, payloads: int, seconds: float, verdict: Verdict, knocks: Knocks, ways: list[float],
    restarted: list[str],
) -> Report:
    took = verdict.latencies_ms or [0]
    return Report(
        seed=seed,
        payloads=payloads,
        seconds=round(seconds, 1),
        rate=round(payloads / seconds),
        outcomes=dict(verdict.sent),
        p50_ms=took[len(took) // 2],
        p99_ms=took[len(took) * 99 // 100],
        max_ms=took[-1],
        late=sum(ms > 1000 for ms in took),
        citizens=[round(way, 2) for way in ways],
        mistaken=verdict.mistaken + knocks.mistaken,
        doors={str(status): count for status, count in sorted(knocks.statuses.items())},
        stuck=verdict.stuck,
        restarted=restarted,
    )


async def _citizens(bank: Partner, agency: Partner, run: str, enough: asyncio.Event) -> list[float]:
    """One good citizen after the other, until they are told that it is enough; the one on her way ends it."""
    ways: list[float] = []
    while not enough.is_set():
        way = await journey(bank, agency, Random(time.time_ns()), f"{run}-c{len(ways)}")
        ways.append(way.seconds)
    return ways


@asynccontextmanager
async def all_partners(folder: Path, stack: Stack) -> AsyncIterator[dict[str, Partner]]:
    """All can sign; those that hear answers are connected."""
    db = await asyncpg.connect(stack.database_url("auditor"), ssl="disable")
    skew: timedelta = await db.fetchval("select skew from enrollment.clock")
    await db.close()
    async with AsyncExitStack() as exits:
        partners = {}
        for code in PARTNERS:
            keys = load_keyring(folder / "keys" / f"{code}.json")
            partners[code] = Partner(code, stack.kafka(code), keys, lambda: datetime.now(UTC) + skew)
            if code in _HEARING:
                await partners[code].start()
                exits.push_async_callback(partners[code].stop)
        yield partners


async def _said(stack: Stack) -> list[Any]:
    """The newest of what services have said and answered."""
    topics = [*published_topics(), *(p.replies for p in PARTNERS.values())]
    consumer = await read_topics(stack.kafka("auditor"), topics, from_start=True)
    try:
        found: list[Any] = []
        while batch := await consumer.getmany(timeout_ms=1000):
            found += [record for records in batch.values() for record in records]
        return found[-20_000:]
    finally:
        await consumer.stop()


def _doors(folder: Path) -> dict[str, str]:
    state = read_state(folder)
    assert state is not None
    return {seen.name: seen.door for seen in state.processes}


def _starts(folder: Path) -> dict[str, tuple[int | None, int]]:
    state = read_state(folder)
    assert state is not None
    return {seen.name: (seen.pid, seen.restarts) for seen in state.processes}


def _restarted(
    before: dict[str, tuple[int | None, int]], now: dict[str, tuple[int | None, int]]
) -> list[str]:
    return [name for name, start in now.items() if before.get(name) != start]
