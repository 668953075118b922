"""What does this work cost at least? The same rows, facts and checks as the services, in plain loops
without a framework.

`python -m bench.raw_loop FILE`: one service's loop. Consume at most 1000 → decode → inbox, locks,
the business's statements, outbox → commit → produce. It *is* the limit that the benchmark quotes, so whatever
makes it faster without giving up a guarantee belongs here: COPY, an inbox that only counts, a narrow outbox,
a relay that reads its own memory in the order of `unsent`, lz4 at level 1, lean decoding, whole batches of
their producers at once. Left out on purpose: parking, waiting messages, refusals, timers, tracing, metrics.
What does not fit ends the process, and the round has no figure.
"""

import asyncio
import gc
import importlib
import signal
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from msgspec import Struct

from bench.clients import Record, producer, send, whole_batches
from bench.raw.batch import TOPICS, TYPES, Batch, Records, Said, Step
from sandbox.lifeline import end_with_parent
from sandbox.partner import kafka_options
from services.chassis.database import flat_lists
from services.chassis.keys import load_keyring
from services.chassis.refs import number_of
from services.chassis.relay import cheap_lz4
from services.chassis.settings import Kafka

MAX_BATCHES, MAX_RECORDS = 8, 1000      # of producers, taken at once; in a transaction, as in the services
OFFSETS_SECONDS = 0.2
Sorted = dict[bytes, Records]
_SESSION = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "timezone": "UTC",
}
_LOCK = "select count(pg_advisory_xact_lock(k)) from unnest($1::bigint[]) k"
_SEE = "insert into inbox(ce_id) select unnest($1::uuid[]) on conflict do nothing"
_OUT = ("batch_id", "n", "part", "topic", "type", "seq", "key", "ce_id", "subject", "ce_time", "payload")


class Place(Struct, frozen=True, kw_only=True):
    """What one loop reads when it starts. skew_seconds: business clock minus system clock."""

    service: str
    dsn: str
    kafka: Kafka
    keys: str
    prefix: str
    skew_seconds: float


class Loop:
    """One service: a consumer, a connection, a relay. steps: by ce_type."""

    def __init__(self, place: Place, steps: dict[bytes, Step]) -> None:
        self.place, self.steps = place, steps
        self.topics = [place.prefix + name for name in TOPICS]
        self.keys, self.skew = load_keyring(place.keys), timedelta(seconds=place.skew_seconds)
        self.source = f"/{place.service}".encode()
        self.salt = number_of(f"raw|{place.service}")  # lock keys are one space in a database
        self.memory: dict[int, list[Said]] = {}
        self.fresh, self.stop = asyncio.Event(), asyncio.Event()

    async def consume(self, consumer: AIOKafkaConsumer) -> None:
        """Batch after batch; offsets follow the commits at most every 200 ms."""
        db, committed, dirty = await self.connect(), time.monotonic(), False
        while not self.stop.is_set():
            polled = await consumer.getmany(timeout_ms=500, max_records=MAX_BATCHES)
            heard = [record for runs in polled.values() for run in runs for record in run]
            for begin in range(0, len(heard), MAX_RECORDS):
                batch = self.sort([heard[begin : begin + MAX_RECORDS]])
                if batch and not await self.transact(db, batch, again=False):
                    await self.transact(db, batch, again=True)
            dirty = dirty or bool(polled)
            if dirty and time.monotonic() - committed > OFFSETS_SECONDS:
                await consumer.commit()
                committed, dirty = time.monotonic(), False
        await consumer.commit()
        await consumer.stop()

    def sort(self, runs: Iterable[Records]) -> Sorted:
        """By type, without what others handle."""
        batch: Sorted = {}
        for run in runs:
            for record in run:
                kind = record.headers[3][1]
                if kind in self.steps:
                    batch.setdefault(kind, []).append(record)
        return batch

    async def transact(self, db: asyncpg.Connection, batch: Sorted, *, again: bool) -> bool:
        """One batch. False: some facts were handled before, so it must run again and ask which."""
        await db.execute("begin")
        try:
            keys = {int(r.key[24:], 16) ^ self.salt for records in batch.values() for r in records}
            await db.fetchval(_LOCK, sorted(keys))
            fresh = await self.unseen(db, batch, again=again)
            if fresh is None:
                await db.execute("rollback")
                return False
            work = Batch(db, self.keys, self.place.prefix, datetime.now(UTC) + self.skew)
            for kind, records in fresh.items():
                if records:
                    await self.steps[kind].run(work, records)
            batch_id = 0
            if work.said:
                batch_id = await db.fetchval("insert into unsent default values returning batch_id")
                await work.copy("outbox", _OUT, [(batch_id, n, *said) for n, said in enumerate(work.said)])
            await db.execute("commit")
        except BaseException:
            if not db.is_closed():
                await db.execute("rollback")
            raise
        if work.said:
            self.memory[batch_id] = work.said
            self.fresh.set()
        return True

    async def unseen(self, db: asyncpg.Connection, batch: Sorted, *, again: bool) -> Sorted | None:
        """The batch without the facts that were handled before. None: there are some; which, is asked the
        second time only, because asking costs more than counting.
        """
        facts = [kind for kind in batch if self.steps[kind].is_fact]
        ids = sorted(record.headers[1][1].decode() for kind in facts for record in batch[kind])
        if not again:
            seen = ids and await db.execute(_SEE, ids) != f"INSERT 0 {len(ids)}"
            return None if seen else batch
        fresh = {row[0].encode() for row in await db.fetch(f"{_SEE} returning ce_id::text", ids)}
        return batch | {kind: [r for r in batch[kind] if r.headers[1][1] in fresh] for kind in facts}

    async def relay(self, out: AIOKafkaProducer) -> None:
        """What `unsent` names, in its order: from memory, or from the rows if another life of this process
        wrote them.
        """
        db = await self.connect()
        while True:
            self.fresh.clear()
            ids = [row[0] for row in await db.fetch("select batch_id from unsent order by batch_id limit 4")]
            if not ids:
                try:
                    async with asyncio.timeout(0.5):
                        await self.fresh.wait()
                except TimeoutError:
                    pass
                continue
            said = [
                message
                for batch_id in ids
                for message in self.memory.pop(batch_id, None) or await _read(db, batch_id)
            ]
            sends = []
            for topic, records in self.records(said).items():
                sends += await send(out, topic, records)
            await asyncio.gather(*sends)
            await db.execute("delete from unsent where batch_id = any($1::bigint[])", ids)

    def records(self, said: list[Said]) -> dict[str, list[Record]]:
        """Messages with their headers rebuilt, by topic."""
        by_topic: dict[str, list[Record]] = {}
        times: dict[datetime, bytes] = {}
        for part, topic, kind, seq, key, ce_id, subject, ce_time, payload in said:
            at = times.get(ce_time) or times.setdefault(ce_time, ce_time.isoformat().encode())
            headers = [
                ("ce_specversion", b"1.0"),
                ("ce_id", ce_id.encode()),
                ("ce_source", self.source),
                ("ce_type", TYPES[kind]),
                ("ce_time", at),
                ("ce_subject", subject.encode()),
                ("ce_sequence", b"%d" % seq),
                ("content-type", b"application/json"),
            ]
            by_topic.setdefault(self.topics[topic], []).append(Record(part, key.encode(), payload, headers))
        return by_topic

    async def connect(self) -> asyncpg.Connection:
        """A connection in this service's schema."""
        settings = _SESSION | {"search_path": f"raw_{self.place.service}"}
        return await asyncpg.connect(
            self.place.dsn, ssl="disable", server_settings=settings, max_cached_statement_lifetime=0
        )


async def _read(db: asyncpg.Connection, batch_id: int) -> list[Said]:
    rows = await db.fetch(
        "select part, topic, type, seq, key::text, ce_id::text, subject, ce_time, payload from outbox"
        " where batch_id = $1 order by n",
        batch_id,
    )
    return [Said(*row) for row in rows]


async def main(place: Place) -> None:
    """Run until ended."""
    cheap_lz4()
    flat_lists()
    whole_batches()
    role = importlib.import_module(f"bench.raw.{place.service}")
    loop = Loop(place, role.STEPS)
    out = producer(place.kafka)
    await out.start()
    topics = [place.prefix + name for name in role.READS]
    consumer = AIOKafkaConsumer(
        *topics,
        **kafka_options(place.kafka),
        group_id=f"raw-{place.service}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=500,
        max_partition_fetch_bytes=1_048_576,
    )
    await consumer.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 50)  # a batch holds many objects at once, hardly any in a cycle
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, loop.stop.set)
    end_with_parent()
    relay = asyncio.create_task(loop.relay(out))
    await loop.consume(consumer)
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    await out.stop()



if __name__ == "__main__":
    uvloop.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Place)))
