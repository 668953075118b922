"""What happens while a city lives? Faults by a plan, each counted; at the end everything is compared."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
from msgspec import Struct
from msgspec.structs import replace
from typing_extensions import override

from sandbox.city import plan as plan_city
from sandbox.ending import end
from sandbox.performance import perform
from sandbox.show import Screen
from sandbox.stack import Servers, Stack, provision_stack
from tests.faults import books
from tests.faults.plan import Plan, Report
from tests.faults.points import POINTS
from tests.faults.siege import SERVICES, Siege, besieged, for_seconds, until

Say = Callable[[str], None]
LIVELY, PATIENCE_SECONDS = 50, 15.0      # between two faults so many records are read, if any are there
TOPICS = ("billing.bills", "payment.payments", "enrollment.enrollments")


class Fault(Struct, frozen=True, kw_only=True):
    """One thing to do. seconds: about how long it takes, for the pace of the city. late: after the clock
    moves.
    """

    lane: str
    seconds: float
    do: Callable[[], Awaitable[object]]
    late: bool = False


class Siegecraft:
    """The faults of a plan over a siege: one lane for each service, one for servers, one for wires; lanes
    run side by side. share: how much of it is done.
    """

    def __init__(self, siege: Siege, plan: Plan, say: Say) -> None:
        self.siege, self.plan, self._say = siege, plan, say
        self.chance = random.Random(plan.seed)
        self.lanes: dict[str, list[Fault]] = {}
        for fault in self._all():
            self.lanes.setdefault(fault.lane, []).append(fault)
        self.begun, self.late = asyncio.Event(), asyncio.Event()
        self._early = [fault for lane in self.lanes.values() for fault in lane if not fault.late]
        self.seconds = max(
            (sum(fault.seconds for fault in lane) for lane in self.lanes.values()), default=0.0
        )
        self._total = sum(fault.seconds for fault in self._early)
        self._done, self._under_way = 0.0, dict[str, tuple[Fault, float]]()
        self._turn, self._read = asyncio.Lock(), 0

    def _all(self) -> list[Fault]:
        found = [*self._kills(), *self._members(), *self._servers(), *self._wires()]
        self.chance.shuffle(found)
        return sorted(found, key=lambda fault: fault.late)

    def _kills(self) -> list[Fault]:
        plan, siege, found = self.plan, self.siege, list[Fault]()

        def add(service: str, seconds: float, do: Callable[[], Awaitable[object]]) -> None:
            found.append(Fault(lane=service, seconds=seconds, do=do))

        for service in SERVICES:
            for number in range(plan.kills):
                kill = partial(siege.kill, service)
                found.append(Fault(lane=service, seconds=8.0, do=kill, late=number % 10 == 1))
        wanted = [point for point in POINTS if point.name in plan.points] or POINTS
        for number, point in enumerate(wanted):
            some = (point.services[number % len(point.services)],) if plan.points_once else point.services
            for service in some:
                for _ in range(plan.at_points):
                    add(service, 8.0, partial(siege.kill_at, service, point.name, plan.point_seconds))
        return found

    def _members(self) -> list[Fault]:
        plan, siege, found = self.plan, self.siege, list[Fault]()

        def add(service: str, seconds: float, do: Callable[[], Awaitable[object]]) -> None:
            found.append(Fault(lane=service, seconds=seconds, do=do))

        for number in range(plan.zombies):
            at = SERVICES[(plan.seed + number) % len(SERVICES)]
            add(at, plan.zombie_seconds + 5, partial(siege.freeze, at, plan.zombie_seconds))
        for number in range(plan.storms):
            at = SERVICES[(plan.seed + number + 1) % len(SERVICES)]
            add(at, 4.0 * plan.storm, partial(siege.storm, at, plan.storm))
        for number in range(plan.replays):
            at = SERVICES[(plan.seed + number + 3) % len(SERVICES)]
            add(at, 5.0, partial(siege.replay, at))
        return found

    def _servers(self) -> list[Fault]:
        plan, siege, found = self.plan, self.siege, list[Fault]()

        def add(seconds: float, do: Callable[[], Awaitable[object]]) -> None:
            found.append(Fault(lane="servers", seconds=seconds + 10.0, do=do))

        for _ in range(plan.brokers):
            add(8.0, siege.kill_kafka)
        for _ in range(plan.databases):
            add(4.0, siege.kill_postgres)
        for seconds in plan.outages:
            for which in ("broker", "database"):
                add(seconds, partial(siege.outage, which, seconds))
        for number in range(plan.tails):
            topic = TOPICS[(plan.seed + number) % len(TOPICS)]
            add(10.0, partial(siege.lose_tail, topic, plan.tail))
        return found

    def _wires(self) -> list[Fault]:
        plan, siege, found = self.plan, self.siege, list[Fault]()

        def add(which: str, seconds: float, do: Callable[[], Awaitable[object]]) -> None:
            found.append(Fault(lane=f"wires: {which}", seconds=seconds, do=do))

        for which, total in (("commit", plan.commits), ("ack", plan.acks)):
            for number in range(0, total, 2):
                at = SERVICES[(number // 2) % (5 if which == "commit" else 4)]
                add(which, 3.0, partial(siege.swallow, which, at, min(2, total - number), 15.0))
        for number in range(plan.cuts):
            add("commit", 1.0, partial(siege.cut, SERVICES[number % 5]))
        return found

    async def run(self) -> None:
        """All of it. ExceptionGroup: a fault could not be done, so the run says nothing."""
        await asyncio.gather(*(self._lane(lane) for lane in self.lanes.values()))

    async def _lane(self, lane: list[Fault]) -> None:
        await self.begun.wait()
        for fault in lane:
            if fault.late:
                await self.late.wait()
            await self._until_it_lives()
            self._under_way[fault.lane] = fault, time.monotonic()
            await fault.do()
            del self._under_way[fault.lane]
            self._done += 0.0 if fault.late else fault.seconds

    async def _until_it_lives(self) -> None:
        """Between two faults the city goes on: where nobody works, nobody is hurt."""

        async def lives() -> bool:
            return await books.read_up_to(self.siege) >= self._read + LIVELY

        async with self._turn:
            try:
                await until(lives, "the city to go on", PATIENCE_SECONDS)
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass    # nobody may be left who has not arrived; or the database is what was hurt
            await for_seconds(self.chance.uniform(0.0, 0.5))
            try:
                self._read = await books.read_up_to(self.siege)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass

    async def pace(self, share: float) -> None:
        """Citizens come as the faults go, so that somebody is always under way; the last of them is not
        waited for when the clock is to move.
        """
        self.begun.set()
        if share >= 1.0:
            self.late.set()
            return
        while share > 0.05 + self.share:
            await asyncio.sleep(0.05)

    @property
    def share(self) -> float:
        """How much is done of what comes before the clock moves; those under way count by their time."""
        now = time.monotonic()
        going = sum(
            min(now - since, fault.seconds) for fault, since in self._under_way.values() if not fault.late
        )
        return (self._done + going) / self._total if self._total else 1.0


async def torture(plan: Plan, siege: Siege, say: Say, *, patience_seconds: float = 0.0) -> Report:
    """One city under all these faults, healed, waited for and judged. patience_seconds: for each of its acts
    and for what is left after them; 0: as long as the faults may take.
    """
    began = time.monotonic()
    city = plan_city(plan.citizens, plan.seed)
    craft = Siegecraft(siege, plan, say)
    patience = patience_seconds or 300.0 + 4 * craft.seconds
    lookout, hurting = Lookout(), asyncio.create_task(craft.run())
    saying = asyncio.create_task(_tell(craft, lookout, say))
    ground = replace(siege.ground, tries=10 + int(3 * max((0.0, *plan.outages)) / 20))
    with lookout:
        lived, _ = await _first(
            perform(city, ground, lookout, patience_seconds=patience, pace=craft.pace), hurting
        )
    craft.late.set()
    await hurting
    await end(saying)
    await siege.heal()
    healed = time.monotonic()
    # whether a mail went out cannot be asked after a kill: it goes out again, and a mailbox shows it once
    wrong = [_difference(one) for one in lived.differences if one.what != "mailed_again"]
    wrong += await _quiet(siege, patience_seconds or 60.0 + 60.0 * plan.citizens * 10 / 10_000)
    heal_seconds = time.monotonic() - healed
    say("healed; comparing")
    wrong += await books.compare(siege, ordered=not plan.tails)
    replayed = await books.read_up_to(siege)
    wrong += await _replay_all(siege) if plan.replays and not wrong else []
    said = await books.records(siege)
    gaps = siege.said("gap_refilled") if siege.gaps is None else siege.gaps
    wrong += [f"{gaps} times offsets stood before what the database had done"] if gaps else []
    return Report(
        seed=plan.seed, citizens=plan.citizens, at=datetime.now(UTC).isoformat(timespec="minutes"),
        payments=lived.settled + lived.suspense, facts=len({one.ce_id for one in said}),
        faults={what: n for what, n in sorted(siege.done.items()) if not what.startswith("point ")},
        points={what[6:]: n for what, n in sorted(siege.done.items()) if what.startswith("point ")},
        missed=siege.missed, ends=dict(siege.codes), replayed=replayed if plan.replays else 0,
        repeats=len(said) - len({one.ce_id for one in said}), seconds=round(time.monotonic() - began, 1),
        heal_seconds=round(heal_seconds, 1), wrong=wrong,
    )


class Lookout(Screen):
    """Shows nothing; counts: how many citizens have reached each stage."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.counts: dict[str, int] = {}

    @override
    def show(self, counts: dict[str, int], targets: dict[str, int]) -> None:
        """Called several times a second."""
        self.counts = counts


async def _tell(craft: Siegecraft, lookout: Lookout, say: Say) -> None:
    """How far it is, until cancelled."""
    say = only_news(say)
    while True:
        await asyncio.sleep(10)  # eyes need no more
        done = sum(n for what, n in craft.siege.done.items() if not what.startswith("point "))
        came, paid = lookout.counts.get("registered", 0), lookout.counts.get("settled", 0)
        say(
            f"{craft.share:4.0%} of the time, {done} faults done, {len(craft.siege.missed)} missed;"
            f" {came} citizens came, {paid} have paid"
        )


def only_news(say: Say) -> Say:
    """Says no line twice in a row."""
    last = ""

    def tell(line: str) -> None:
        nonlocal last
        if line != last:
            say(line)
        last = line

    return tell


async def _first(living: Awaitable[Any], hurting: "asyncio.Task[None]") -> Any:
    """What comes of the city, unless a fault cannot be done: then its error, at once."""
    task = asyncio.ensure_future(living)
    try:
        await asyncio.wait({task, hurting}, return_when=asyncio.FIRST_COMPLETED)
        if hurting.done():
            hurting.result()
        return await task
    finally:
        await end(task)


def _difference(one: Any) -> str:
    parts = [f"{len(ones)} {name} ({'; '.join(ones[:3])})"
             for name, ones in (("missing", one.missing), ("too much", one.surplus)) if ones]
    return f"{one.what}: {', '.join(parts)}"


async def _quiet(siege: Siege, seconds: float) -> list[str]:
    """Wait until nothing moves any more; what does not end."""
    deadline = time.monotonic() + seconds
    while left := await books.waiting(siege):
        if time.monotonic() > deadline:
            return [f"still under way after {seconds:.0f} s: {left}"]
        await asyncio.sleep(0.3)
    return []


async def _replay_all(siege: Siege) -> list[str]:
    """Every group reads everything again; no row that says what has happened may change."""
    before = await books.state(siege)
    outside = [await siege.http(name, "/simulator/book") for name in ("sms", "mail")]
    for service in SERVICES:
        await siege.replay(service, commands=False)
    await siege.ready()
    stuck = await _quiet(siege, 120.0)
    after = await books.state(siege)
    wrong = [f"a replay changed {table}: {before[table]} → {rows}"
             for table, rows in after.items() if before[table] != rows]
    if outside != [await siege.http(name, "/simulator/book") for name in ("sms", "mail")]:
        wrong.append("a replay told somebody something again")
    return [*stuck, *wrong]


@asynccontextmanager
async def ground(folder: Path) -> AsyncIterator[tuple[Servers, Stack]]:
    """Servers of its own, with fsync, that may be killed; gone with the block."""
    servers = Servers(folder)
    try:
        stack = await asyncio.to_thread(servers.start)
        await asyncio.to_thread(provision_stack, stack)
        yield servers, stack
    finally:
        await asyncio.to_thread(servers.stop)


async def run(plan: Plan, folder: Path, say: Say, *, bug: str = "") -> Report:
    """From an empty folder to the report."""
    async with ground(folder) as (servers, stack):
        say("Kafka and Postgres run")
        async with besieged(servers, stack, folder, bug=bug, provider=plan.provider) as siege:
            say("five services answer")
            return await torture(plan, siege, say)
