"""How is a run made, by seed, by deviation, or again from its names? And what is known of it afterwards?"""

import asyncio
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import asyncpg
from msgspec import Struct

from sandbox.stack import DATABASE
from tests.simulation.citizens import BOTH, PLANS
from tests.simulation.city import City
from tests.simulation.clockwork import SimLoop
from tests.simulation.ground import Emptying, Ground
from tests.simulation.lines import Pool
from tests.simulation.play import Anchored, Chance, Policy, play
from tests.simulation.schedule import Action, Anchor

SEED_STEPS = 600            # of a seed before it is healed
STUCK_SECONDS = 300.0       # real ones: a run takes two, on a busy machine twenty


class Played(Struct):
    """A run that is over. trace: every step; actions: what was chosen; met: faults by where they struck.
    visits: how often each actor stood at each gate, with the faults it may meet there.
    """

    name: str
    failures: list[str]
    steps: int
    trace: list[str]
    actions: list[Action]
    anchors: list[Anchor]
    met: Counter[tuple[str, str]]
    visits: Counter[tuple[str, str]]
    faults_at: dict[tuple[str, str], tuple[str, ...]]
    timeline: list[str]


class Setting(Struct, frozen=True):
    """Who is there. plans: of the citizens; members: of each service, where there is more than one."""

    name: str
    plans: tuple[str, ...]
    members: dict[str, int]


TWO = {"enrollment": 2, "billing": 2, "payment": 2}
SWEPT = Setting("sweep", (BOTH,), {"billing": 2, "payment": 2, "console": 0})


def setting_of(seed: int) -> Setting:
    """Of a seed: three or four citizens, one or two members of a service."""
    draw = random.Random(f"setting {seed}")
    plans = tuple(draw.choice(PLANS) for _ in range(draw.choice((3, 3, 4))))
    members = {service: draw.choice((1, 2)) for service in (*TWO, "notify", "console")}
    return Setting(f"seed {seed}", plans, members)


class Stage:
    """Where runs are played, one after the other: a loop, a database, connections that last."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self._emptying = ground, Emptying()
        self.loop = SimLoop()
        self._runner = asyncio.Runner(loop_factory=lambda: self.loop)
        self._pool = Pool(ground.urls.__getitem__)
        self._monitor: asyncpg.Connection | None = None

    def __enter__(self) -> "Stage":
        self._runner.__enter__()
        self._monitor = self._runner.run(asyncpg.connect(
            self.ground.admin_dsn, database=DATABASE, ssl="disable", max_cached_statement_lifetime=0))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        async def close() -> None:
            await self._pool.close()
            assert self._monitor is not None
            await self._monitor.close()

        self._runner.run(close())
        self._runner.__exit__(kind, error, trace)

    def seed(self, seed: int) -> Played:
        """A run by chance."""
        return self.run(setting_of(seed), Chance(seed, SEED_STEPS))

    def run(self, setting: Setting, policy: Policy) -> Played:
        """A run."""
        return self._runner.run(self._run(setting, policy))

    async def _run(self, setting: Setting, policy: Policy) -> Played:
        assert self._monitor is not None
        self.loop.now = 0.0
        self.loop.limits.clear()
        await self._emptying.empty(self._monitor)
        city = City(self.loop, self._monitor, self._pool, setting.name, setting.plans, setting.members)
        with _watched(city, setting.name):
            return await self._play(city, setting, policy)

    async def _play(self, city: City, setting: Setting, policy: Policy) -> Played:
        faults_at: dict[tuple[str, str], tuple[str, ...]] = {}
        if isinstance(policy, Anchored):
            policy.watch(city)
        else:
            city.schedule.on_gate = lambda gate, _: faults_at.setdefault(
                (gate.actor, gate.label), gate.faults
            )
        actions: list[Action] = []
        with city.governed():
            try:
                actions = await play(city, policy)
                lines = timeline(city) if city.failures else []
            finally:
                await city.end()
        schedule = city.schedule
        return Played(setting.name, city.failures, schedule.steps, schedule.trace, actions,
                      schedule.anchors, schedule.met,
                      schedule.visits, faults_at, lines)


@contextmanager
def _watched(city: City, name: str) -> Iterator[None]:
    """A run that stands still is told of, and ends this process: nothing else could end it."""

    def stuck() -> None:
        lines = [f"{name} stands still", *city.schedule.trace[-20:]]
        for task in asyncio.all_tasks(city.loop):
            frames = [f"{f.f_code.co_name}:{f.f_lineno}" for f in task.get_stack()]
            lines.append(f"  {task.get_name()} {task.get_coro()} at {', '.join(frames)}")
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
        os._exit(3)

    timer = threading.Timer(STUCK_SECONDS, stuck)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def timeline(city: City) -> list[str]:
    """What was said of each citizen, in the order of the topics, with the step."""
    lines = []
    for person in city.people:
        lines.append(f"{person.name} ({person.plan}): {person.done or 'not paid'}")
        for step, record in city.broker.order:
            head = dict(record.headers)
            if person.person_id and record.key == person.person_id.encode():
                kind = (head.get("ce_type") or b"?").decode()
                lines.append(f"  {step:>5}  {kind} {(head.get('ce_sequence') or b'').decode()}"
                             f"  {record.topic}/{record.partition}/{record.offset}")
    return lines


