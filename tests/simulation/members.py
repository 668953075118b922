"""What is a service's process here? The chassis' own engine, lanes, relay, door, timers, calls: each an
actor.
"""

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import asyncpg
from aiokafka.errors import KafkaError
from msgspec import Struct
from typing_extensions import override

from contracts.topics import TOPICS
from services.chassis.arrival import Arrival, Unreadable
from services.chassis.batch import Engine
from services.chassis.calls import Calls
from services.chassis.database import is_broken
from services.chassis.door import PATIENCE_SECONDS, Busy, Door
from services.chassis.halt import Halt, Halted, Unstoppable
from services.chassis.lane import Lane
from services.chassis.operators import Operators, Orders
from services.chassis.relay import Memory, Relay
from services.chassis.service import _parks_for
from services.chassis.subscriptions import LANES, Subscriptions
from services.chassis.timers import Timers
from services.chassis.wire import Reader
from services.notify.rules import SendMail, SendSms
from services.payment.rules import AskOrder, PlaceOrder
from tests.simulation.broker import Consumer, Group, Producer
from tests.simulation.lines import SimConnection
from tests.simulation.outside import At
from tests.simulation.schedule import Line
from tests.simulation.trouble import CROWDED
from tests.world import keyring

if TYPE_CHECKING:
    from tests.simulation.city import City

EXPECTED = (asyncpg.PostgresError, asyncpg.InterfaceError, KafkaError, OSError, TimeoutError, Halted, Busy)
# Records at most; more would hide orders from each other. While all is healed: any number.
FETCH = 4
BACK_OFF_SECONDS = 2.0
AGAIN, SLICE = "again", "slice"     # a fetch: from the committed offsets once more; one record, for now


class Entrance(Door):
    """A door that remembers since when who waits at it."""

    def __init__(self, engine: Engine, subscriptions: Subscriptions, time: Callable[[], float]) -> None:
        super().__init__(engine, subscriptions)
        self._time = time
        self.since: list[float] = []

    @override
    async def enter(self, what: Arrival | Unreadable) -> None:
        """As a caller."""
        self.since.append(began := self._time())
        try:
            await super().enter(what)
        finally:
            self.since.remove(began)


class Member:
    """One process of one service. A crash ends it with all that it knows; another begins under its name."""

    def __init__(self, city: "City", service: str, number: int) -> None:
        self.city, self.service, self.name = city, service, f"{service}.{number}"
        on: Subscriptions = importlib.import_module(f"services.{service}.handlers").on
        keys = keyring(service)
        self.memory, self.halt, orders = Memory(), Halt(), Orders(service)
        lanes = {lane: topics for lane in LANES if (topics := on.topics(lane))}
        self.engine = Engine(service, keys, Reader(on, None, keys, frozenset()), self.memory, self.halt)
        self.timers, self.door = Timers(self.engine), Entrance(self.engine, on, city.loop.time)
        self.lanes: list[Lane] = []
        for lane, topics in lanes.items():
            reader = Reader(on, lane, keys, _parks_for(service, lane, lanes))
            dsn = f"{self.name}.{lane}"
            self.lanes.append(Lane(lane, topics, self.engine, reader, dsn, "", lambda: False))
        if service in TOPICS["operators"].readers:
            mine = frozenset({"operators"} if TOPICS["operators"].owner == service else ())
            order_reader = Reader(orders.on, "money", keys, mine)
            order_engine = Engine(service, keys, order_reader, self.memory, Unstoppable())
            self.lanes.append(Operators(
                orders=orders, timers=self.timers, sandbox=True, engine=order_engine, reader=order_reader,
                dsn=f"{self.name}.operators", member="", money_awake=lambda: False))
        gateways = self._gateways()
        self.calls = Calls(self.engine, gateways, self.door) if gateways else None
        self.lines: list[SimConnection] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.alive, self.stopping, self.stopped = True, False, False
        self.knocking = 0       # callers at the door


    def _gateways(self) -> dict[type, Any]:
        if self.service == "payment":
            provider = At(self.city.provider, self.name, self.city.who)
            return {PlaceOrder: provider, AskOrder: provider}
        if self.service == "notify":
            texts = At(self.city.texts, self.name, self.city.who)
            return {SendSms: texts, SendMail: texts}
        return {}

    # ---- life

    def start(self) -> None:
        """All actors begin."""
        for lane in self.lanes:
            group = self.city.broker.groups.setdefault(lane.group, Group(lane.group, lane.topics))
            consumer = Consumer(self.city.broker, group, lane.dsn)
            lane.sub = SimpleNamespace(consumer=consumer, max_records=FETCH)
            group.members.append(consumer)
            self._begin(self._consume(lane))
            self._begin(self._flush(lane))
            self._begin(self._beat(lane))
        self._begin(self._keep("relay", self._relay))
        self._begin(self._keep("timers", self._timers))
        if self.calls:
            self._begin(self._keep("door", self.door.run))
            self._begin(self._keep("calls", self._calls))

    def consumers(self) -> Iterator[tuple[Lane, Consumer]]:
        """The lanes with their consumers."""
        return ((lane, lane.sub.consumer) for lane in self.lanes)

    async def crash(self) -> None:
        """SIGKILL: nothing is said or rolled back by us any more."""
        self.alive = False
        for _, consumer in self.consumers():            # who gives out partitions now knows that it is gone
            if consumer in consumer.group.members:      # a frozen one was put out before
                consumer.group.members.remove(consumer)
        for line in self.lines:
            line.closed = True
        for task in [*self.tasks, *(self.calls._under_way if self.calls else ())]:
            task.cancel()
        for _, done in [*self.door._waiting, *self.door._apart]:
            if not done.done():
                done.set_exception(Busy("gone"))
        for line in self.lines:
            await line.end()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def is_told_to_stop(self) -> bool:
        """False: it was told before."""
        if self.stopping:
            return False
        self.stopping = True
        self._begin(self._stop())
        return True

    async def _stop(self) -> None:
        """SIGTERM, as `Running.stop` goes about it; what is left then is to end the process. Nothing that is
        done may be read again by the heir, unless somebody was told so.
        """
        began = len(self.city.schedule.trace)
        await asyncio.gather(*(lane.last_flush() for lane in self.lanes))
        for lane, consumer in self.consumers():
            self.city.failures += self._left(lane, self.city.schedule.trace[began:])
            consumer.leave()
            self.city.unsettle({lane.group})
        await self.city.schedule.gate(f"{self.name}.door", "closes", (), lambda: self.knocking == 0)
        self.stopped = True

    def _left(self, lane: Lane, trace: list[str]) -> list[str]:
        """A3: what a lane that stopped has done, and kept to itself."""
        told = any(f"group={lane.group}" in line and ("_failed" in line or "not_committed" in line)
                   for line in trace)
        able = lane.db is not None and not lane.db.is_closed()
        kept = {*lane.pending, *lane.skipped} & lane.sub.consumer.owned
        return [f"A3 {lane.dsn} stopped, and kept offsets to itself"] if kept and able and not told else []

    async def tell(self, message: Struct) -> None:
        """A provider knocks at the door. Raises Busy."""
        self.knocking += 1
        try:
            await self.door.tell(message)
        finally:
            self.knocking -= 1

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._ended)
        self.tasks.append(task)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        if self.alive and not task.cancelled() and (error := task.exception()) is not None:
            self.city.died(self.name, error)

    def hangs(self) -> list[str]:
        """C8: who waits at the door for longer than it may while nobody can be at work on it."""
        able = any(line.actor == f"{self.name}.door" and not line.closed for line in self.lines)
        late = [at for at in self.door.since if self.city.loop.time() > at + PATIENCE_SECONDS]
        return [f"C8 {self.name} keeps {len(late)} at its door"] if late and not able else []

    async def connect(self, actor: str) -> SimConnection:
        """A connection, once the server can be reached, if it takes any more."""
        schedule = self.city.schedule
        await schedule.gate(f"{actor}", "connect", (), lambda: self.service not in self.city.no_database)
        if self.service in self.city.crowded:
            schedule.met[CROWDED, "connect"] += 1
            raise asyncpg.TooManyConnectionsError("simulated")
        under_way = schedule.flying[f"{actor}~"] = Line(f"{actor}~", 0, asyncio.current_task())
        try:
            real = await self.city.pool.take(self.service)
        finally:
            schedule.landed(under_way)
        line = SimConnection(schedule, self.city.pool, actor, real, self.city.heard,
                             lambda service: service not in self.city.no_database,
                             lambda service: service not in self.city.no_room)
        self.lines.append(line)
        return line

    # ---- actors

    async def _keep(self, what: str, run: Callable[[Any], Awaitable[None]]) -> None:
        """As the service keeps its loops: a new connection whenever one ends."""
        while True:
            db = None
            try:
                db = await self.connect(f"{self.name}.{what}")
                await self.halt.read(db)
                await run(db)
            except EXPECTED as error:
                self.city.schedule.note(f"{self.name}.{what} ends: {type(error).__name__}")
                if isinstance(error, asyncpg.TooManyConnectionsError):
                    await asyncio.sleep(BACK_OFF_SECONDS)
            finally:
                if db is not None and self.alive:
                    await db.end()
                    self.lines.remove(db)

    async def _consume(self, lane: Lane) -> None:
        """Fetch and handle."""
        consumer: Consumer = lane.sub.consumer
        while True:
            fault = await self.city.schedule.gate(
                f"{lane.dsn}.fetch", "fetch", (AGAIN, SLICE), consumer.has_records
            )
            if fault == AGAIN:
                consumer.again()
            most = 1 if fault == SLICE else 1000 if self.city.healing else FETCH
            if records := consumer.take(most):
                await lane.handle(records)
                await self._look(lane)

    async def _look(self, lane: Lane) -> None:
        """A halt that another member declared is read as the watch reads it."""
        if self.halt.declared != self.city.truth.halted(self.service) and lane.db is not None:
            try:
                await self.halt.read(lane.db)
            except EXPECTED as error:
                if is_broken(error):
                    lane.db = None

    async def _flush(self, lane: Lane) -> None:
        """As Lane.flush_often, whenever there is something to commit."""
        actor, consumer = f"{lane.dsn}.offsets", lane.sub.consumer

        def ready() -> bool:
            if consumer.generation != consumer.group.generation:
                return False
            able = lane.db is not None and not lane.db.is_closed()
            return not consumer.owned.isdisjoint(lane.pending) or bool(lane.skipped and able)

        while True:
            await self.city.schedule.gate(actor, "flush", (), ready)
            try:
                if lane.skipped:
                    async with lane.lock:
                        await lane._pass_skipped()
                await lane.flush()
            except EXPECTED as error:
                self.city.schedule.note(f"{actor}: {type(error).__name__}")

    async def _beat(self, lane: Lane) -> None:
        """As Lane.beat, whenever there is something to notice: the lane is not where the database is."""
        passed = self.city.histories.passed_by

        def ready() -> bool:
            return bool(lane.compared.is_set() and lane.db is not None and not lane.db.is_closed() and any(
                passed(self.service, lane.name, partition) != done for partition, done in lane.done.items()))

        while True:
            await self.city.schedule.gate(f"{lane.dsn}.beat", "beat", (), ready)
            try:
                async with lane.lock:
                    await lane._look()
            except EXPECTED as error:
                lane.lost(f"the beat failed: {error}")

    async def _lead(self, db: SimConnection, who: Relay | Calls, what: str) -> None:
        """Until the lock on the session is ours: asked for once in any case, and whenever it is free."""
        schedule, truth, name = self.city.schedule, self.city.truth, f"{self.service}-{what}"
        await schedule.gate(db.actor, "lead")
        while not await who.leads(db):
            await schedule.gate(db.actor, "lead", (), lambda: truth.is_free(name))
        if not truth.is_free(name):
            schedule.wrong.append(f"A9 {db.actor} leads, and {truth.leaders[name].actor} does, too")
        db.leads = name
        truth.leaders[name] = db

    async def _relay(self, db: SimConnection) -> None:
        relay = Relay(self.service, self.memory, Producer(self.city.broker, db.actor))
        await self._lead(db, relay, "relay")
        ready = self.city.truth.unsent
        while True:
            await self.city.schedule.gate(
                db.actor, "turn", (),
                lambda: ready(self.service) > 0 and self.city.broker.reachable(self.service))
            await relay.turn(db)

    async def _timers(self, db: SimConnection) -> None:
        truth, swept = self.city.truth, self.city.schedule.loop.time()

        def ready() -> bool:
            old = self.city.schedule.loop.time() - swept > 5 and not self.halt.declared
            return truth.is_due(self.service) or (old and truth.awaits(self.service))

        while True:
            await self.city.schedule.gate(db.actor, "turn", (), ready)
            if self.halt.declared:
                await self.halt.read(db)
                self.halt.check()
            now = await self.timers._now(db)
            if not await self.timers.fire(db, now):
                swept = self.city.schedule.loop.time()
                await self.timers.sweep(db)

    async def _calls(self, db: SimConnection) -> None:
        assert self.calls is not None
        await self._lead(db, self.calls, "calls")
        try:
            await self.calls.take_over(db)
            while True:
                await self.city.schedule.gate(db.actor, "claim", (),
                                              lambda: self.city.truth.has_calls(self.service))
                await self.calls._claim()
        finally:
            for task in self.calls._under_way:
                task.cancel()
