"""What is a running service? Its lanes, door, timers, calls and relay around one engine; how it starts and
how it stops.
"""

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import asyncpg
import uvloop
from aiokafka import AIOKafkaProducer
from faststream.kafka import KafkaBroker
from faststream.security import BaseSecurity, SASLScram256
from msgspec import Struct
from starlette.routing import Route

from contracts.topics import TOPICS
from services.chassis import health, lenient, telemetry
from services.chassis.batch import Engine, is_ours_to_stop
from services.chassis.calls import Calls, Gateway
from services.chassis.commands import Commands
from services.chassis.database import connect, flat_lists
from services.chassis.door import Door
from services.chassis.halt import Halt, Unstoppable
from services.chassis.keys import Keyring, load_keyring
from services.chassis.lane import Lane
from services.chassis.operators import Operators, Orders
from services.chassis.relay import Memory, Relay, cheap_lz4
from services.chassis.settings import Kafka, Settings, load_settings
from services.chassis.subscriptions import LANES, Subscriptions
from services.chassis.telemetry import log
from services.chassis.timers import Timers
from services.chassis.watch import Watch
from services.chassis.web import server
from services.chassis.wire import Reader

_LEADERS = ("relay", "calls")      # they hold a lock on their session: a frozen one must lose it
_STEADY_SECONDS = 5.0
Gateways = Callable[[Settings, Keyring], Mapping[type[Struct], Gateway]]
Routes = Callable[[Door, Settings, Keyring], list[Route]]


class Service:
    """One service: `Service("billing", handlers.on).run()`.

    gateways: which provider sends which request. routes: HTTP beside the commands' door (providers'
    callbacks, pages).
    """

    def __init__(
        self, name: str, on: Subscriptions, *, gateways: Gateways | None = None, routes: Routes | None = None
    ) -> None:
        self.name, self.on, self._gateways, self._routes = name, on, gateways, routes

    def run(self) -> None:
        """Run until SIGTERM; exit code 0. 75: fenced, the supervisor starts it again at once."""
        settings = load_settings()
        telemetry.configure(settings.service, settings.telemetry)
        cheap_lz4()
        lenient.install()
        flat_lists()
        uvloop.run(self._main(settings))

    async def _main(self, settings: Settings) -> None:
        running = Running(self, settings)
        stop = asyncio.Event()
        for sign in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sign, stop.set)
        starting = asyncio.create_task(running.start())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            gc.collect()
            gc.freeze()
            gc.set_threshold(1_000_000, 50, 50)     # a batch holds many objects, hardly any in a cycle
            await stopped
        starting.cancel()
        await running.stop()
        log.info("stopped")
        telemetry.shutdown()


class Running:
    """A service in one process: everything that must be opened, kept alive, and closed in order."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self.settings, self.name, on = settings, service.name, service.on
        keys = load_keyring(settings.keys)
        self.memory, self.halt, orders = Memory(), Halt(), Orders(service.name)
        lanes = {lane: topics for lane in LANES if (topics := on.topics(lane))}
        readers = {lane: Reader(on, lane, keys, _parks_for(service.name, lane, lanes)) for lane in lanes}
        # what is parked comes back by the engine itself, whatever its lane was
        self.engine = Engine(
            service.name, keys, Reader(on, None, keys, frozenset()), self.memory, self.halt
        )
        self.timers = Timers(self.engine)
        self.door = Door(self.engine, on)
        self.commands = Commands(self.door, Reader(on, "money", keys, frozenset()))
        self.lanes = [
            Lane(
                lane,
                topics,
                self.engine,
                readers[lane],
                settings.database,
                self._member(lane),
                self.money_awake,
            )
            for lane, topics in lanes.items()
        ]
        order_reader = Reader(
            orders.on,
            "money",
            keys,
            frozenset({"operators"} if TOPICS["operators"].owner == self.name else ()),
        )
        order_engine = Engine(service.name, keys, order_reader, self.memory, Unstoppable())
        if self.name in TOPICS["operators"].readers:
            self.lanes.append(
                Operators(
                    orders=orders,
                    timers=self.timers,
                    sandbox=settings.sandbox,
                    engine=order_engine,
                    reader=order_reader,
                    dsn=settings.database,
                    member=self._member("operators"),
                    money_awake=self.money_awake,
                )
            )
        self.gateways = service._gateways(settings, keys) if service._gateways else {}
        self.calls = Calls(self.engine, self.gateways, self.door) if self.gateways else None
        routes = service._routes(self.door, settings, keys) if service._routes else []
        self.watch = Watch(self.name, self.halt, self.lanes)
        self._database_up = self._consuming = False
        host, _, port = settings.door.rpartition(":")
        doors = [*routes, *self.commands.routes(), *health.routes(self.vitals)]
        self.server = server(doors, host, int(port))    # SIGTERM is ours: door and lanes stop in order
        self._tasks: list[asyncio.Task[Any]] = []
        self._outside = AsyncExitStack()                  # the gateways' connections
        self._serving: asyncio.Task[None] | None = None
        self._broker: KafkaBroker | None = None

    def money_awake(self) -> bool:
        """Whether the money lane had a batch in the last second."""
        now = time.monotonic()
        return any(lane.name == "money" and now - lane.last_batch < 1.0 for lane in self.lanes)

    async def start(self) -> None:
        """Open the door as soon as the database answers; then Kafka, however long it takes."""
        self._keep("door", self.door.run)
        self._keep("outcomes", self.commands.outcomes.run)
        self._keep("watch", self.watch.look)
        self._tasks.append(asyncio.create_task(self.watch.beat(), name="beat"))
        self._serving = asyncio.create_task(self.server.serve())
        await asyncio.gather(*(self._open(lane) for lane in self.lanes))
        self._keep("timers", self.timers.run)
        if self.calls:
            for gateway in {id(each): each for each in self.gateways.values()}.values():
                if isinstance(gateway, AbstractAsyncContextManager):
                    await self._outside.enter_async_context(gateway)
            self._keep("calls", self.calls.run)
        self._keep("relay", self._relay)
        self._broker = KafkaBroker(
            self.settings.kafka.bootstrap,
            security=_security(self.settings.kafka),
            client_id=f"{self.name}-{self.settings.member}",
            logger=_shell_log(),
            request_timeout_ms=15_000,
            metadata_max_age_ms=30_000,
            allow_auto_create_topics=False,
            graceful_timeout=20,
            apply_types=False,      # a handler takes the records as they are; casting costs a thread a batch
            serializer=None,
        )
        for lane in self.lanes:
            lane.subscribe(self._broker)
        await _again_until(self._start_broker, "kafka")
        for lane in self.lanes:
            self._tasks.append(asyncio.create_task(lane.flush_often(), name=f"{lane.name} offsets"))
        self._consuming = True
        log.info("started", door=self.settings.door, lanes=[lane.name for lane in self.lanes])

    async def stop(self) -> None:
        """No new work, the batch in flight ends, offsets go out, the group hears goodbye, then everything
        closes.
        """
        await asyncio.gather(*(lane.last_flush() for lane in self.lanes if self._broker is not None))
        if self._broker is not None:
            await self._broker.stop()
        self.server.should_exit = True
        if self._serving is not None:
            await self._serving
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._outside.aclose()
        for lane in self.lanes:
            lane.stopping = True
            if lane.db is not None:
                lane.db.terminate()  # nothing is open in it; the member's name is free only now

    async def _open(self, lane: Lane) -> None:
        """A lane with its name, and with its beat from then on, however long Kafka takes."""

        async def opened() -> None:
            await lane.open()
            await self.halt.read(lane.db)

        await _again_until(opened, "database")
        self._tasks.append(asyncio.create_task(lane.beat(), name=f"{lane.name} beat"))

    async def _relay(self, db: asyncpg.Connection) -> None:
        """With a new producer each time: one whose sequence the broker refuses would be refused for ever."""
        producer = await self._start_producer()
        try:
            await Relay(self.name, self.memory, producer).run(db)
        finally:
            try:
                async with asyncio.timeout(5):
                    await producer.stop()
            except Exception as error:  # noqa: BLE001 -- what it could not send stands in `unsent`
                log.warning("producer_not_flushed", error=type(error).__name__)

    def _member(self, lane: str) -> str:
        return f"{self.name}-{lane}-{self.settings.member}" if self.settings.member >= 0 else ""

    async def _start_broker(self) -> None:
        assert self._broker is not None
        try:
            await self._broker.start()
        except Exception:
            await self._broker.stop()
            raise

    async def _start_producer(self) -> AIOKafkaProducer:
        kafka = self.settings.kafka
        sasl = (
            {
                "sasl_mechanism": "SCRAM-SHA-256",
                "sasl_plain_username": kafka.user,
                "sasl_plain_password": kafka.password,
            }
            if kafka.user
            else {}
        )
        producer = AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap,
            client_id=f"{self.name}-relay",
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            max_batch_size=900_000,
            linger_ms=0,
            request_timeout_ms=15_000,
            metadata_max_age_ms=30_000,
            security_protocol=kafka.security,
            **sasl,
        )
        try:
            await producer.start()
        except Exception:
            await producer.stop()
            raise
        return producer

    def _keep(self, what: str, run: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
        """A loop on a connection of its own, opened again with back-off whenever it ends."""

        async def keep() -> None:
            pause = 0.1
            while True:
                db, began = None, time.monotonic()
                try:
                    db = await connect(
                        self.settings.database, f"{self.name}-{what}", guarded=what in _LEADERS
                    )
                    self._database_up = True
                    await self.halt.read(db)
                    await run(db)
                except (Exception, asyncio.CancelledError) as error:
                    if is_ours_to_stop(error):
                        raise
                    self._database_up = db is not None and not db.is_closed()
                    log.warning("loop_ended", loop=what, error=f"{type(error).__name__}: {error}"[:300])
                finally:
                    if db is not None:
                        db.terminate()
                pause = 0.1 if time.monotonic() - began > _STEADY_SECONDS else min(pause * 2, 2.0)
                await asyncio.sleep(pause)

        self._tasks.append(asyncio.create_task(keep(), name=what))

    def vitals(self) -> health.Vitals:
        """How this process is, now."""
        subscribers = [task for lane in self.lanes if self._consuming for task in lane.sub.tasks]
        return health.Vitals(
            now=time.monotonic(),
            beat_at=self.watch.beat_at,
            lanes=tuple(lane.waiting() for lane in self.lanes),
            broker_up=any(lane.broker_up() for lane in self.lanes),
            database_up=self._database_up,
            halted=self.halt.declared,
            stopped=tuple(task.get_name() for task in [*self._tasks, *subscribers] if task.done()),
        )


def _parks_for(service: str, lane: str, lanes: Mapping[str, list[str]]) -> frozenset[str]:
    """The topics this service owns, in the first of its lanes that reads them."""
    before = {
        t
        for other, topics in lanes.items()
        if list(lanes).index(other) < list(lanes).index(lane)
        for t in topics
    }
    return frozenset(t for t in lanes[lane] if t not in before and t in TOPICS and TOPICS[t].owner == service)


def _shell_log() -> logging.Logger:
    """FastStream's own words: two lines a batch at INFO, so only its warnings; but for one, said at each
    start, that topics are not made by themselves: `topics apply` makes them.
    """
    logger = logging.getLogger("kafka_shell")
    logger.setLevel(logging.WARNING)
    logger.addFilter(_is_news)
    return logger


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Auto create topics is disabled")


def _security(kafka: Kafka) -> BaseSecurity | None:
    return SASLScram256(kafka.user, kafka.password, use_ssl=False) if kafka.user else None


async def _again_until(open_it: Callable[[], Awaitable[Any]], what: str) -> Any:
    pause = 0.1
    while True:
        try:
            return await open_it()
        except Exception as error:  # noqa: BLE001 -- a loop that ends in silence, or a start that gives up, is worse
            log.warning("not_there_yet", what=what, error=f"{type(error).__name__}: {error}"[:200])
        await asyncio.sleep(pause)
        pause = min(pause * 2, 2.0)
