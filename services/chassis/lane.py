"""How do records come in? A FastStream batch subscriber in the one shape that loses nothing on a real broker.

A record is done when its transaction has committed; only then does its offset enter `pending`, and only
pending offsets are ever committed to the broker. On any failure the lane seeks back, so that no later commit
passes over the hole.
"""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import asyncpg
from aiokafka import TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import IllegalStateError, KafkaError
from faststream.kafka import KafkaBroker

from services.chassis import health, metrics
from services.chassis.arrival import Arrival, Unreadable
from services.chassis.attempt import end_left_open
from services.chassis.batch import Engine, is_ours_to_stop
from services.chassis.database import ATTEMPT_SECONDS, IDLE_SECONDS, check, connect, holds, is_broken
from services.chassis.halt import Halted
from services.chassis.health import LaneVitals
from services.chassis.lag import Lag, Runs, by_partition
from services.chassis.lenient import Record
from services.chassis.meter import Metered
from services.chassis.polling import FOREIGN_REST_SECONDS, rest
from services.chassis.progress import Moved, Positions, Step, read_progress, save_progress
from services.chassis.shell import say_goodbye, subscriber
from services.chassis.telemetry import batch_span, log
from services.chassis.wire import Reader

MAX_RECORDS, MIN_RECORDS = 1000, 20
BULK_CPU_SECONDS = 0.005
OFFSETS_EVERY_SECONDS = 1.0
FENCED = 75


class Lane(ConsumerRebalanceListener):  # type: ignore[misc]
    """One consumer group of one service: one subscriber, one connection, one lock, one serial loop.

    member: the stable name that the connection guards with a session lock, or "" where nobody hands out
    names. money_awake: tells a bulk lane whether money had a batch in the last second, so that it takes
    small bites.
    """

    deadline_seconds = ATTEMPT_SECONDS  # of a whole batch; below graceful_timeout (20 s)

    def __init__(self, name: str, topics: list[str], engine: Engine, reader: Reader, dsn: str, member: str,
                 money_awake: Callable[[], bool]) -> None:
        self.name, self.topics, self.engine, self.reader = name, topics, engine, reader
        self.dsn, self.member = dsn, member
        self.group = f"{engine.service}-{name}"
        self.db: asyncpg.Connection | None = None
        self.lock = asyncio.Lock()
        self.stopping = False
        self.done: dict[TopicPartition, int] = {}          # as the database has it
        self.pending: dict[TopicPartition, int] = {}
        self.skipped: dict[TopicPartition, int] = {}       # offsets of batches that held nothing of ours
        # counts what makes fetched records come again; torn: some may have got lost on their way to us
        self.era, self.torn = 0, False
        self.dirty, self.compared = asyncio.Event(), asyncio.Event()
        self.last_batch = 0.0
        self.lag = Lag()
        self.sub: Any = None
        self._money_awake = money_awake

    def subscribe(self, broker: KafkaBroker) -> None:
        """Register with the shell."""
        self.sub = subscriber(
            broker, self.topics, self.handle, group=self.group, member=self.member, listener=self,
            max_records=MAX_RECORDS, fetching=self,
        )  # fmt: skip

    # The connection: no lock, no pen

    async def open(self) -> None:
        """Connect and win the member's name, waiting as long as it takes; before the consumer starts."""
        self.db = await connect(self.dsn, f"{self.group}-{os.getpid()}", guarded=bool(self.member))
        await check(self.db)
        waited = False
        while self.member and not await holds(self.db, self.member):
            if not waited:
                log.warning("member_name_taken", member=self.member)
                waited = True
            await asyncio.sleep(0.25)
        if self.member:
            self.db.add_termination_listener(lambda *_: self.lost("the connection ended"))

    def lost(self, why: str) -> None:
        """The connection, and with it the name, is gone: a guarded process ends at once and never writes
        again.
        """
        if self.stopping:
            return
        if self.member:
            log.error("fenced", member=self.member, why=why)
            os._exit(FENCED)
        if self.db is not None:
            self.db.terminate()         # it may hold locks
        self.db = None

    async def beat(self) -> None:
        """Keeps the guarded session alive, notices a freeze before the consumer can rejoin, and that somebody
        has set our progress.
        """
        while True:
            before = time.monotonic()
            await asyncio.sleep(IDLE_SECONDS / 3)
            frozen = time.monotonic() - before > IDLE_SECONDS * 0.8
            if self.member and (frozen or self.db is None or self.db.is_closed()):
                self.lost("frozen or closed")
            else:
                async with self.lock:
                    try:
                        await self._look()
                    except Exception as error:  # noqa: BLE001 -- whatever it is, the pen or the batch is gone
                        self.lost(f"the beat failed: {error}")

    # Rebalances: everything is revoked from everybody each time

    async def on_partitions_revoked(self, _: set[TopicPartition]) -> None:
        """Wait for the batch in flight, commit what is done in the old generation, forget it."""
        async with self.lock:
            self.compared.clear()
            self.era += 1
            try:
                await self._pass_skipped()
                await self.flush()
            finally:
                for offsets in (self.done, self.pending, self.skipped):
                    offsets.clear()
                self.lag.forget()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Ours now. If the broker's offset is past what the database has done, somebody skipped: go back and
        say so.

        No batch is handled before this comparison: it would move the very offset that is compared.
        """
        log.info("assigned", group=self.group, partitions=len(assigned))
        self.era += 1       # what was fetched since they were revoked comes again, perhaps from elsewhere
        while assigned and not self.stopping:
            try:
                await self._compare(assigned)
                break
            except Exception as error:  # noqa: BLE001 -- whatever it is, nothing is handled before it is done
                text = f"{type(error).__name__}: {error}"[:200]
                log.warning("offsets_not_compared", group=self.group, error=text)
                if is_broken(error):
                    self.lost(text)
                await asyncio.sleep(0.5)
        self.compared.set()

    async def _compare(self, assigned: set[TopicPartition]) -> None:
        """No offset is ever committed without its progress: where there is none, nothing was done."""
        consumer, partitions = self.sub.consumer, sorted(assigned)
        committed = await asyncio.gather(*(consumer.committed(partition) for partition in partitions))
        begins = await consumer.beginning_offsets(partitions)
        async with self.lock:
            self.done = await self._learn(partitions)
        for partition, offset in zip(partitions, committed):
            due = max(self.done[partition] + 1, begins[partition])
            if offset is not None and offset > due:
                metrics.fact_gap(self.engine.service, partition.topic)
                log.error("gap_refilled", group=self.group, topic=partition.topic,
                          partition=partition.partition, skipped=offset - due)
                consumer.seek(partition, due)
                self.era += 1

    async def _learn(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """What is done, as the database says."""
        if self.db is None:
            await self.open()
        await end_left_open(self.db)
        done = await read_progress(self.db, self.name, partitions)
        return {TopicPartition(*place): offset for place, offset in done.items()}

    async def _look(self) -> None:
        """Whether we still go on from where the database is."""
        if await self._learn(list(self.done)) != self.done or self.torn:
            await self._follow()

    async def _follow(self) -> None:
        """Somebody has set our progress, a commit's reply or what was fetched got lost: go on from where the
        database is. What was fetched before comes again.
        """
        self.done = await self._learn(sorted(self.sub.consumer.assignment()))
        self.era, self.torn = self.era + 1, False
        self.pending = {partition: offset + 1 for partition, offset in self.done.items() if offset >= 0}
        self.skipped.clear()
        self.lag.forget()
        self.dirty.set()
        log.warning("followed", group=self.group, partitions=len(self.done))
        for partition in self.done.keys() & self.sub.consumer.assignment():
            self.sub.consumer.seek(partition, self.done[partition] + 1)

    # Batches

    async def handle(self, records: tuple[Record, ...]) -> None:
        """One batch: done and remembered, or not done and sought back. Never raises."""
        era = self.era
        fetched = by_partition(records)
        self.lag.fetched(fetched)
        await self.compared.wait()
        async with self.lock:
            owned = self.sub.consumer.assignment()
            runs = {partition: run for partition, run in fetched.items() if partition in owned}
            if not runs or self.stopping:
                self.lag.forget()
                return
            self.torn |= era != self.era
            pause = await self._handle(runs)
        if pause:
            await asyncio.sleep(pause)  # outside the lock: a rebalance need not wait for it

    async def _handle(self, runs: Runs) -> float:
        """Under the lock. For how many seconds the lane should rest now."""
        started, most = time.monotonic(), self.sub.max_records
        records = sum(map(len, runs.values()))
        try:
            if self.db is None:
                await self.open()
            work = Metered(self._work(runs)) if self.name == "bulk" else self._work(runs)
            try:
                count = await work
            except Moved:
                await self._follow()
                return 0.0
        except (Exception, asyncio.CancelledError) as error:
            if is_ours_to_stop(error):
                raise
            self._seek_back(runs)
            return self._failed(error, runs)
        self._done(runs, count)
        metrics.batch(self.engine.service, self.name, count or 0, time.monotonic() - started)
        if isinstance(work, Metered) and count:
            self._govern(records, work.cpu)
        return rest(started, records, most, FOREIGN_REST_SECONDS if count is None else 0.0)

    def _done(self, runs: Runs, count: int | None) -> None:
        """Committed, or nothing of ours: these offsets may go out with the next flush."""
        if count:
            self.last_batch = time.monotonic()
        done = {partition: run[-1].offset + 1 for partition, run in runs.items()}
        if count is None:
            self.skipped |= done
        else:
            self.done |= {partition: run[-1].offset for partition, run in runs.items()}
            self.pending |= done
            self.skipped = {partition: o for partition, o in self.skipped.items() if partition not in done}
        self.lag.done(self.sub.consumer, runs)
        self.dirty.set()

    async def _work(self, runs: Runs) -> int | None:
        """How many messages of ours were done; None: there was nothing for us, and no transaction was needed.
        """
        if self.torn:
            raise Moved
        arrivals, unreadable = list[Arrival](), list[Unreadable]()
        positions: Positions = {}
        for partition, run in runs.items():
            positions[partition.topic, partition.partition] = Step(self.done[partition], run[-1].offset)
            some, others = self.reader.records(run)
            arrivals += some
            unreadable += others
        if not arrivals and not unreadable:
            self.engine.halt.check()
            return None
        with batch_span(self.engine.service, self.name, len(arrivals)):
            batch = (self.db, arrivals, unreadable, positions, self.name)
            failures = self.lag.failures(runs)
            await self.engine.run_within(*batch, seconds=self.deadline_seconds, failures=failures)
        return len(arrivals)

    def _seek_back(self, runs: Runs) -> None:
        owned = self.sub.consumer.assignment()
        for partition, run in runs.items():
            if partition in owned:  # else the next owner reads them from the committed offset
                self.sub.consumer.seek(partition, run[0].offset)

    def _failed(self, error: BaseException, runs: Runs) -> float:
        """How long to pause before the same comes again."""
        lost = is_broken(error) or self.db is None or self.db.is_closed()
        self.lag.put_back(runs, counts=not lost and not isinstance(error, Halted))
        if lost:
            self.lost(f"{type(error).__name__}: {error}")
        if isinstance(error, Halted):
            return 1.0
        failures = max(1, self.lag.failures(runs))
        text = f"{type(error).__name__}: {error}"[:300]
        log.warning("batch_put_back", group=self.group, failures=failures, error=text)
        return float(min(0.1 * 2 ** (failures - 1), 5.0))

    def _govern(self, records: int, cpu: float) -> None:
        """The next bulk batch should take 5 ms of CPU at most, by what this one took, while money is awake: a
        million bills never stand before a payment.
        """
        fits = int(BULK_CPU_SECONDS * records / cpu) if cpu else MAX_RECORDS
        self.sub.max_records = (
            max(MIN_RECORDS, min(MAX_RECORDS, fits)) if self._money_awake() else MAX_RECORDS
        )

    def waiting(self) -> LaneVitals:
        """What waits here, for the health page and the metrics. An order of an operator may take its time."""
        consumer = self.sub.consumer if self.sub is not None else None
        return self.lag.vitals(self.name, consumer, max(health.SILENT_SECONDS, 2 * self.deadline_seconds))

    def broker_up(self) -> bool:
        """Whether any connection to the broker stands."""
        client = getattr(self.sub.consumer, "_client", None) if self.sub is not None else None
        return client is not None and any(conn.connected() for conn in client._conns.values())

    # Offsets

    async def flush_often(self) -> None:
        """Commit what is done, at most once a second; idle costs nothing."""
        while True:
            await self.dirty.wait()
            await asyncio.sleep(OFFSETS_EVERY_SECONDS)
            self.dirty.clear()
            try:
                if self.skipped:
                    async with self.lock:
                        await self._pass_skipped()
                await self.flush()
            except Exception as error:  # noqa: BLE001 -- whatever the connection died of, the next flush comes
                log.warning("flush_failed", group=self.group, error=f"{type(error).__name__}: {error}"[:200])

    async def _pass_skipped(self) -> None:
        """Offsets of foreign records enter the database before the broker hears of them, so that a gap is
        always a gap.
        """
        if self.db is None or self.db.is_closed():
            return
        await end_left_open(self.db)    # its locks would keep others from coming to their end
        if skipped := dict(self.skipped):
            steps = {
                (p.topic, p.partition): Step(self.done[p], offset - 1) for p, offset in skipped.items()
            }
            try:
                await save_progress(self.db, self.name, steps)
            except Moved:
                await self._follow()
                return
            self.done |= {partition: offset - 1 for partition, offset in skipped.items()}
            self.pending |= skipped
            self.skipped.clear()

    async def flush(self) -> None:
        """Commit the offsets of what is done and still ours. A failure needs no repair: the next flush
        carries them.
        """
        consumer = self.sub.consumer
        if consumer is None:
            return
        owned = consumer.assignment()
        offsets = {partition: offset for partition, offset in self.pending.items() if partition in owned}
        if not offsets:
            return
        try:
            async with asyncio.timeout(0.8 * IDLE_SECONDS):    # the session's lock outlives it
                await consumer.commit(offsets)
        except (KafkaError, IllegalStateError, TimeoutError) as error:
            metrics.commit_failed(self.engine.service, self.name)
            log.warning("offsets_not_committed", group=self.group, error=type(error).__name__)
            return
        for partition, offset in offsets.items():
            if self.pending.get(partition) == offset:
                del self.pending[partition]

    async def last_flush(self) -> None:
        """Before the broker's stop: the batch in flight ends, its offsets go out, and the group hears
        goodbye at once.
        """
        self.stopping = True
        self.compared.set()         # who waits for the comparison sees that we stop
        async with self.lock:
            try:
                await self._pass_skipped()
                await self.flush()
            except Exception as error:  # noqa: BLE001 -- without its database too a process can stop
                log.warning("last_flush_failed", group=self.group, error=type(error).__name__)
        say_goodbye(self.sub.consumer)
