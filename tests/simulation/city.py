"""What is one simulated city? All members of all services, a broker, the outside, its citizens; one loop."""

import asyncio
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from services.chassis.provision import SCHEMAS
from services.chassis.subscriptions import Subscription
from tests.simulation import trouble
from tests.simulation.broker import Broker, Consumer, Group
from tests.simulation.citizens import Person
from tests.simulation.clockwork import START, Nature, SimLoop, governed
from tests.simulation.histories import Histories
from tests.simulation.lines import Pool, SimConnection
from tests.simulation.members import EXPECTED, Member
from tests.simulation.outside import Provider, Texts
from tests.simulation.schedule import Action, Anchor, Gate, Schedule, member_of
from tests.simulation.truth import Truth

GO, RESUME, REBALANCE, TICK, THAW = "go", "resume", "rebalance", "tick", "thaw"
HEIR = "heir"       # who was told to stop has stopped, and another process begins under its name
Handled = tuple[str, str, object]       # service, type, id
BUG = "bug"         # a handler fails on a message, whenever it comes, until somebody mends it


class City:
    """One run. plans: of the citizens, one each. members: how many of each service."""

    def __init__(self, loop: SimLoop, monitor: asyncpg.Connection, pool: Pool, seed: str,
                 plans: tuple[str, ...], members: dict[str, int]) -> None:
        self.loop, self.pool = loop, pool
        self.nature = Nature(loop, seed)
        self.schedule, self.truth = Schedule(loop, monitor), Truth(monitor)
        self.histories = Histories(monitor)
        self.broker = Broker(self.schedule, self.nature.millis)
        self.provider = Provider(self.schedule, self.nature.now)
        self.texts = Texts(self.schedule)
        self.names: dict[str, str] = {}         # of citizens, by person id
        self.people = [Person(self, n, plan) for n, plan in enumerate(plans, 1)]
        self.members = {f"{s}.{n}": Member(self, s, n) for s in SCHEMAS for n in range(members.get(s, 1))}
        self.no_database: set[str] = set()
        self.crowded: set[str] = set()          # whose database takes no more connections
        self.no_room: set[str] = set()          # whose parking is full
        self.bugs: set[object] = set()          # messages whose handler fails
        self.healing = False                    # nothing bad happens any more, and all work must end
        self.garbage = 0                        # what nobody can read, put in so far
        self.orders = 0                         # of operators, given so far
        self.nudges = 0                         # how often everybody was told to lose patience
        self.failures: list[str] = []
        self.touched: set[str] = set()
        self.handled: set[Handled] = set()      # what a committed transaction has handled, by service
        self.reworded: set[str] = set()         # requests that came with other words, too
        self._joining: set[str] = set()         # groups that are being given out
        self._dirty: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turn = 0

    # ---- what others need to know

    def who(self, person_id: str) -> str:
        """A citizen's name."""
        return self.names.get(person_id, "nobody")

    def door_of(self, service: str) -> Member | None:
        """One of its members that answers, each in turn."""
        frozen = self.schedule.is_frozen
        alive = [m for m in self.members.values()
                 if m.service == service and not m.stopped and not frozen(m.name)]
        self._turn += 1
        return alive[self._turn % len(alive)] if alive else None

    def died(self, name: str, error: BaseException) -> None:
        """An actor ended by what should end none."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
        self.failures.append(f"{name} died at {place}: {error!r}"[:600])

    def heard(self, line: SimConnection) -> None:
        """Something was committed. What was handled in it must never be handled again."""
        self.touched.add(line.service)
        for name in line.handled:
            if name in self.handled:
                self.failures.append(f"I13 handled twice: {name}")
            self.handled.add(name)
        line.handled.clear()

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Somebody outside begins something."""
        task = self._tasks[f"{name} {len(self._tasks)}"] = asyncio.ensure_future(work)
        task.add_done_callback(lambda it: self._outsider_ended(name, it))

    def _outsider_ended(self, name: str, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.died(name, error)

    # ---- begin and end

    @contextmanager
    def governed(self) -> Iterator[None]:
        """The chassis lives by this city's nature; handlers can be told to fail."""
        async def connect(actor: str, _name: str, *, guarded: bool = False) -> SimConnection:
            return await self.members[member_of(actor)].connect(actor)

        async def check(_db: object) -> None:
            return None

        subscriptions = {id(s): s for m in self.members.values() for s in m.engine.reader._all.values()}
        before = [(each, each.handler) for each in subscriptions.values()]
        with governed(self.nature, self.schedule.note, connect=connect, check=check):
            try:
                for each, handler in before:
                    each.handler = self._fallible(each, handler)
                yield
            finally:
                for each, handler in before:
                    each.handler = handler

    def _fallible(self, subscription: Subscription, handler: Any) -> Any:
        async def handle(messages: list[Any], tx: Any) -> None:
            arrivals = [tx.arrival(each) for each in messages]
            known = [(tx.service, subscription.type, _known(arrival)) for arrival in arrivals]
            refs = [ref for arrival in arrivals for ref in set(arrival.refs)]
            if len(refs) != len(set(refs)):
                self.failures.append(f"waves: {tx.service} handles two of one ref together: {known}")
            self._alone(tx._connection, set(refs))
            where = f"{tx._connection.actor}.handler"
            fault = await self.schedule.gate(where, subscription.type, (BUG,))
            if fault == BUG:
                self.bugs.add(known[0])
            if not self.bugs.isdisjoint(known) or (tx.service, subscription.type) in self.bugs:
                raise RuntimeError("a bug")
            await handler(messages, tx)
            tx._connection.handled += [
                name for name, message, arrival in zip(known, messages, arrivals, strict=True)
                if id(message) not in tx.waiting and (arrival.event_id or arrival.job_id or arrival.call_id)
            ]

        return handle

    def _alone(self, line: SimConnection, refs: set[int]) -> None:
        """Nobody else may have one of these in an open transaction."""
        line.refs |= refs
        for member in self.members.values():
            for other in member.lines:
                if other.service == line.service and other is not line and other.refs & line.refs:
                    self.failures.append(f"locks: {line.actor} and {other.actor} have one ref at a time")

    async def begin(self) -> None:
        """Everybody is there, and nobody has moved."""
        self.nature.off = timedelta()
        await self.truth.look(self.nature.now())
        for member in self.members.values():
            self.start(member)
        for person in self.people:
            self.spawn(person.name, person.live())
        await self.schedule.settle()

    def start(self, member: Member) -> None:
        """A process begins and joins its groups."""
        self.members[member.name] = member
        member.start()
        self._dirty |= {lane.group for lane in member.lanes}

    async def end(self) -> None:
        """Nobody is left, no backend is stopped."""
        self.schedule.wake_servers()
        self.broker.end_all()
        for task in self._tasks.values():
            task.cancel()
        for member in self.members.values():
            if member.alive:
                await member.crash()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    # ---- what may happen next

    def enabled(self) -> list[Action]:
        """What goes on without anybody's ill will, what has waited longest first."""
        found = [Action(REBALANCE, name) for name in sorted(self._dirty - self._joining)
                 if self.broker.groups[name].members]
        found += [Action(RESUME, actor) for actor in self.schedule.resumable()]
        found += [Action(HEIR, m.name) for m in self.members.values()
                  if m.stopped and not self.schedule.is_frozen(m.name)]
        found += [Action(GO, gate.actor) for gate in self.schedule.open_gates()]
        if not found and self.loop.sleepers():
            found.append(Action(TICK, ""))
        if not found and self.schedule.frozen:
            found.append(Action(THAW, ""))
        return found

    async def act(self, action: Action) -> bool:
        """Do it and wait until all stand. False: it is not possible now."""
        kind, actor = action
        if kind in trouble.KINDS:
            step = self.schedule.steps
            done = await trouble.happen(self, kind, actor)
            if done:
                self.schedule.met[kind, _sort(actor)] += 1
                self.schedule.anchors.append(Anchor(kind, actor, "", step))
        elif kind in (RESUME, REBALANCE, HEIR, TICK, THAW):
            done = await self._go_on(kind, actor)
        else:
            gate = self._gate(actor)
            done = gate is not None and (kind == GO or kind in gate.faults)
            if gate is not None and done:
                await self.schedule.let(gate, "" if kind == GO else kind)
        if done:
            await self.after(action)
        return done

    async def _go_on(self, kind: str, actor: str) -> bool:
        if kind == RESUME and actor in self.schedule.granted:
            await self.schedule.resume(actor)
        elif kind == REBALANCE and self.broker.groups[actor].members and actor not in self._joining:
            if actor not in self._dirty:
                self.schedule.met[kind, "all"] += 1
            self._rebalance(actor)
        elif kind == HEIR and self.members[actor].stopped:
            await self.crash(actor)
        elif kind == TICK and (sleepers := self.loop.sleepers()):
            await self.pass_time(max(0.0, sleepers[0] - self.loop.now) + 0.001)
        elif kind == THAW:
            await self.thaw()
        else:
            return False
        return True

    def _gate(self, actor: str) -> Gate | None:
        gate = self.schedule.gates.get(actor)
        if gate is None or gate.go.done() or self.schedule.is_frozen(actor):
            return None
        return gate if gate.ready is None or gate.ready() else None

    async def after(self, action: Action) -> None:
        """A step is over: it is written down, and what was committed is looked at."""
        await self.schedule.settle()
        self.schedule.note(f"= {action}")
        self.schedule.steps += 1
        touched, self.touched = self.touched, set()
        if touched or self.nature.now() != self.truth.now:
            await self.truth.look(self.nature.now())
        if touched:
            self.failures += await self.truth.wrong(touched)
            self.failures += await self.histories.moved(touched)
        self.failures += await self.histories.passed(self, touched)
        self.failures += self.schedule.wrong

    # ---- what happens to all

    async def pass_time(self, seconds: float) -> None:
        """Sleepers wake, limits run out."""
        self.loop.forward(seconds, self.schedule.busy())
        await self.schedule.settle()
        self.failures += [hang for member in self.members.values() for hang in member.hangs()]

    def unsettle(self, groups: set[str]) -> None:
        """Their partitions are to be given out anew."""
        self._dirty |= groups & self.broker.groups.keys()

    async def until(self, instant: datetime) -> None:
        """Time passes until then."""
        await self.pass_time(
            (instant - START).total_seconds() - self.nature.off.total_seconds() - self.loop.now
        )

    async def thaw(self) -> None:
        """All that were frozen go on; their groups have given their partitions to others meanwhile."""
        for name in sorted(self.schedule.frozen):
            member = self.members.get(name)
            for lane, consumer in member.consumers() if member else ():
                if consumer not in consumer.group.members and not consumer.has_left:
                    consumer.group.members.append(consumer)
                    self._dirty.add(lane.group)
        self.schedule.thaw()

    async def crash(self, name: str) -> None:
        """A process ends, whatever it was at, and another one begins under its name."""
        old = self.members[name]
        self.schedule.frozen = {a: at for a, at in self.schedule.frozen.items()
                                if a != name and not a.startswith(f"{name}.")}
        await old.crash()
        self._dirty |= {lane.group for lane in old.lanes}
        self.start(Member(self, old.service, int(name.partition(".")[2])))

    def _rebalance(self, name: str) -> None:
        self._dirty.discard(name)
        self._joining.add(name)
        self.spawn(f"rebalance {name}", self._give_out(self.broker.groups[name]))

    async def _give_out(self, group: Group) -> None:
        """Everything is revoked from everybody, and given out among those who answer."""
        try:
            await self._each(group, lambda lane, consumer: lane.on_partitions_revoked(consumer.owned))
            for consumer in list(group.members):
                if member_of(consumer.actor) in self.schedule.frozen:
                    group.members.remove(consumer)
            if not group.members:
                return
            group.give_out(self.broker.partitions)
            for consumer in group.members:
                consumer.start()
                consumer.ready = False
            await self._each(group, _assigned)
        finally:
            self._joining.discard(group.name)

    async def _each(self, group: Group, do: Callable[[Any, Consumer], Coroutine[Any, Any, None]]) -> None:
        """For each lane of the group, in its own process: it ends with that."""
        tasks = []
        for member in list(self.members.values()):
            for lane, consumer in member.consumers():
                if consumer in group.members and member.name not in self.schedule.frozen:
                    task = asyncio.ensure_future(do(lane, consumer))
                    member.tasks.append(task)
                    tasks.append(task)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, EXPECTED):        # the client logs what its listener raises, and goes on
                self.schedule.note(f"rebalance {group.name}: {type(result).__name__}")
            elif isinstance(result, Exception):
                raise result


def _sort(actor: str) -> str:
    """What kind of thing it happens to, for the table of what was met where."""
    parts = actor.split(".")
    return parts[-1] if len(parts) > 2 else "member" if parts[-1].isdigit() else "all"


async def _assigned(lane: Any, consumer: Consumer) -> None:
    await lane.on_partitions_assigned(set(consumer.owned))
    consumer.ready = True


def _known(arrival: Any) -> object:
    return arrival.event_id or arrival.request or arrival.job_id or arrival.call_id or arrival.raw.value
