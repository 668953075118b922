"""What goes wrong, when, and how often? A seed draws it, and it is done to members, broker and database."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from msgspec import Struct

from contracts.operations import Redrive
from sandbox.partner import Partner
from services.chassis.keys import load_keyring
from tests.faults import verdict
from tests.faults.feed import Feed, now
from tests.faults.field import Field, Member
from tests.faults.provider import Provider, providing
from tests.faults.proxy import PostgresProxy, listening
from tests.faults.toy import POISON


class Plan(Struct, frozen=True, kw_only=True):
    """How long, how fast (facts a second), with which faults (weights), and what the toy's handlers do.

    members: numbers of the members; -1: one without a stable name.
    """

    seed: int
    seconds: float
    rate: int = 200
    members: tuple[int, ...] = (0, 1, -1)
    faults: tuple[tuple[str, int], ...] = (
        ("kill", 6), ("term", 4), ("freeze", 4), ("cut", 3), ("commit", 3), ("terminate", 3), ("postgres", 1),
        ("kafka", 1),
    )
    pause_seconds: tuple[float, float] = (0.2, 1.5)
    freeze_seconds: tuple[float, float] = (2.0, 14.0)
    poison: float = 0.002
    passing: float = 0.03
    shy: float = 0.01
    bug: str = ""
    settle_limit: float = 0.0

    @property
    def settle_seconds(self) -> float:
        """By when all work must be done after the last fault is healed: 60 s, and 60 s per 10,000 facts."""
        return self.settle_limit or 60.0 + 60.0 * self.rate * self.seconds / 10_000


class Report(Struct, kw_only=True):
    """What was done and what came of it. wrong: promises broken, in words."""

    plan: Plan
    facts: int = 0
    done: Counter[str]
    codes: Counter[int]
    said: Counter[str]
    wrong: list[str] = []
    settled_seconds: float = 0.0

    def text(self) -> str:
        """One line."""
        return (
            f"seed {self.plan.seed}: {self.facts} facts in {self.plan.seconds:.0f} s,"
            f" faults {dict(self.done)},"
            f" ends {dict(self.codes)}, logs {dict(self.said)}, quiet after {self.settled_seconds:.1f} s,"
            f" wrong: {self.wrong or 'nothing'}"
        )


EVENTS = ("fenced", "gap_refilled", "batch_put_back", "batch_failed", "parked", "offsets_not_committed",
          "member_name_taken", "loop_ended", "call_failed", "call_lost", "sequence_gap")


class Chaos:
    """One run of a plan over a field."""

    def __init__(self, field: Field, plan: Plan) -> None:
        self.field, self.plan, self.chance = field, plan, random.Random(plan.seed)
        self.done: Counter[str] = Counter()
        self.members: list[Member] = []
        self._cutter = PostgresProxy(field.stack.pg_host, field.stack.pg_port)

    async def run(self) -> Report:
        """Feed and hurt for the plan's seconds, heal, wait until quiet, judge."""
        plan, field = self.plan, self.field
        async with AsyncExitStack() as stack:
            provider = await stack.enter_async_context(providing(Provider(plan.seed, cut=0.1, refused=0.1)))
            feed = await stack.enter_async_context(Feed(field, plan.seed))
            await stack.enter_async_context(listening(self._cutter))
            toy = field.toy(
                provider.address, passing=plan.passing, shy=plan.shy, slow_seconds=0.05, bug=plan.bug
            )
            url = self._cutter.url(field.stack.database_url("billing"))
            self.members = [
                field.member(toy, number, name=f"billing-{place}", database=url).start(keep=True)
                for place, number in enumerate(plan.members)
            ]
            feeding = asyncio.create_task(self._feed(feed))
            await self._hurt()
            await feeding
            await self._heal()
            began = time.monotonic()
            wrong = await self._settle(feed)
            wrong += await verdict.gather_wrong(field, feed, provider, plan.settle_seconds)
            wrong += await self._sick()
            for member in self.members:
                await member.stop()
            return Report(
                plan=plan, facts=len(feed.approved) + len(feed.settled), done=self.done, wrong=wrong,
                codes=sum((member.codes for member in self.members), Counter[int]()),
                said=Counter({event: sum(member.said(event) for member in self.members) for event in EVENTS}),
                settled_seconds=time.monotonic() - began,
            )

    async def _feed(self, feed: Feed) -> None:
        end = time.monotonic() + self.plan.seconds
        while time.monotonic() < end:
            await feed.some(self.plan.rate // 10, poison=self.plan.poison)
            await asyncio.sleep(0.1)
        await feed.all_sent()

    async def _hurt(self) -> None:
        ways: dict[str, Callable[[], Awaitable[None]]] = {
            "kill": self._kill, "term": self._term, "freeze": self._freeze, "cut": self._cut,
            "commit": self._swallow, "terminate": self._terminate, "postgres": self.field.restart_postgres,
            "kafka": self._kafka,
        }
        await asyncio.gather(*(member.ready(60) for member in self.members))
        end = time.monotonic() + self.plan.seconds
        names, weights = [name for name, _ in self.plan.faults], [weight for _, weight in self.plan.faults]
        while names and time.monotonic() < end:
            await asyncio.sleep(self.chance.uniform(*self.plan.pause_seconds))
            name = self.chance.choices(names, weights)[0]
            await ways[name]()
            self.done[name] += 1

    def _any(self) -> Member:
        return self.chance.choice(self.members)

    async def _kill(self) -> None:
        self._any().signal(signal.SIGKILL)

    async def _term(self) -> None:
        self._any().signal(signal.SIGTERM)

    async def _freeze(self) -> None:
        member, seconds = self._any(), self.chance.uniform(*self.plan.freeze_seconds)
        member.signal(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(seconds, member.signal, signal.SIGCONT)

    async def _cut(self) -> None:
        self._cutter.cut_all()

    async def _swallow(self) -> None:
        self._cutter.swallow += 1

    async def _terminate(self) -> None:
        """The server ends one backend of the service."""
        await self.field.query(
            "select pg_terminate_backend(pid) from"
            " (select pid from pg_stat_activity where usename = 'billing' order by random() limit 1) one"
        )

    async def _kafka(self) -> None:
        await self.field.stop_kafka()
        end = time.monotonic() + self.chance.uniform(0.0, 3.0)
        while time.monotonic() < end:
            await asyncio.sleep(0.05)
        await self.field.start_kafka()

    async def _heal(self) -> None:
        self._cutter.swallow = 0
        for member in self.members:
            member.signal(signal.SIGCONT)

    async def _settle(self, feed: Feed) -> list[str]:
        """Quiet, then the poison is cured and redriven."""
        wrong = await verdict.quiet(self.field, self.plan.settle_seconds, awaiting=True)
        wrong += await verdict.poisoned_only(self.field, feed)
        self.field.cured.touch()
        if feed.marked[POISON]:
            keys = load_keyring(self.field.keys / "operators.json")
            operators = Partner("operators", self.field.stack.kafka("operators"), keys, now)
            await operators.start()
            try:
                order = Redrive(request_id="o-1", service="billing", operator="lin", dry_run=False)
                await operators.ask(order)
            finally:
                await operators.stop()
        return wrong

    async def _sick(self) -> list[str]:
        """Members that are not well although everything is healed."""
        return [
            f"{member.name}: {body}" for member in self.members
            for status, body in [await member.get("/health/live")] if status != 200
        ]
