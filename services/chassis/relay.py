"""How does what was said reach the topics? One leader a service sends the rows in their order."""

import asyncio
import time
from collections import OrderedDict
from datetime import datetime
from functools import lru_cache, partial

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.codec import lz4_encode
from aiokafka.record import _crecords

from services.chassis import metrics
from services.chassis.database import holds, while_beating
from services.chassis.outbox import Said
from services.chassis.polling import news, rest
from services.chassis.telemetry import is_sampled, span_of

AT_MOST, ENOUGH = 32, 2000       # batches a turn; messages a turn
# A message as `Said` has it.
MESSAGE = (
    "part, topic, type, seq, key, ce_id::text, subject, ce_time, replace(journey::text, '-', ''), payload"
)
_READ = f"select {MESSAGE} from outbox where batch_id = $1 and at = $2 order by n"  # noqa: S608 -- our names
_NEXT = "select batch_id, at, again from unsent order by batch_id limit $1"
# What is to be sent again meanwhile, behind the older ones, stays.
_SENT = """delete from unsent u using unnest($1::bigint[], $2::int[]) sent(batch_id, again)
where u.batch_id = sent.batch_id and u.again = sent.again"""
_AGAIN = """insert into unsent(batch_id, at) select distinct batch_id, at from outbox where at >= $1
on conflict (batch_id) do update set again = unsent.again + 1"""
_VERSION, _JSON = ("ce_specversion", b"1.0"), ("content-type", b"application/json")


@lru_cache(maxsize=256)
def _same(source: str, type: str, instant: datetime) -> tuple[tuple[str, bytes], ...]:
    """What all messages of one type and transaction have in common."""
    return (
        ("ce_source", source.encode()),
        ("ce_type", type.encode()),
        ("ce_time", instant.isoformat().encode()),
    )


def headers(said: Said, source: str) -> list[tuple[str, bytes]]:
    """The CloudEvents binary headers of a message, by rule from its row."""
    built = [
        _VERSION,
        ("ce_id", said.ce_id.encode()),
        *_same(source, said.type, said.ce_time),
        ("ce_subject", said.subject.encode()),
        ("ce_sequence", b"%d" % said.seq),
        _JSON,
    ]
    if said.journey:
        flags = "01" if is_sampled(said.journey) else "00"
        span = span_of(said.ce_id)
        built.append(("traceparent", f"00-{said.journey}-{span}-{flags}".encode()))
    return built


def cheap_lz4() -> None:
    """From now on this process's producers compress at lz4's level 1, which costs 4 times less CPU for 6 %
    more bytes than aiokafka's level 9. It has no setting for it.
    """
    _crecords.default_records.lz4_encode = partial(lz4_encode, level=1)


async def send_again(db: asyncpg.Connection, since: datetime) -> int:
    """Everything that was said since then goes out again, in its order; how many batches."""
    return int((await db.execute(_AGAIN, since)).rpartition(" ")[2])


class Memory:
    """The writer's own messages until the relay has sent them; bounded, because the rows hold them anyway.

    leading: whether this process relays; nothing is kept in one that does not.
    """

    def __init__(self, limit_bytes: int = 64_000_000) -> None:
        self._batches: OrderedDict[int, tuple[list[Said], int]] = OrderedDict()
        self._bytes, self._limit = 0, limit_bytes
        self.leading = False
        self.fresh = asyncio.Event()

    def put(self, batch_id: int, said: list[Said]) -> None:
        """After the commit: these wait to be sent."""
        if self.leading:
            size = sum(len(message.payload) for message in said)
            self._batches[batch_id] = said, size
            self._bytes += size
            while self._bytes > self._limit:
                self._bytes -= self._batches.popitem(last=False)[1][1]
        self.fresh.set()

    def take(self, batch_id: int) -> list[Said] | None:
        """A batch, if it is still here."""
        said, size = self._batches.pop(batch_id, (None, 0))
        self._bytes -= size
        return said

    def forget(self, up_to: int) -> None:
        """What is left of batches that were sent from their rows, because the relay saw them before they
        were put.
        """
        for batch_id in [batch_id for batch_id in self._batches if batch_id <= up_to]:
            self.take(batch_id)


class Relay:
    """Sends what was said, in the order of `unsent`; one leader a service, holding a session lock on its
    connection.

    No transaction is open while it sends. A crash between send and delete sends the batch again; readers
    know the ids.
    """

    def __init__(self, service: str, memory: Memory, producer: AIOKafkaProducer) -> None:
        self.service, self.memory, self.producer = service, memory, producer
        self._source = f"/{service}"

    async def run(self, connection: asyncpg.Connection) -> None:
        """Relay until cancelled or an error; the caller opens a new connection and starts again."""
        while not await self.leads(connection):  # noqa: ASYNC110 -- a lock in the database raises no event
            await asyncio.sleep(0.25)
        while True:
            self.memory.fresh.clear()
            began = time.monotonic()
            count = await self.turn(connection)
            if count:
                await asyncio.sleep(rest(began, count))
            await news(self.memory.fresh, 0.5)      # another member's batches raise no event here

    async def leads(self, connection: asyncpg.Connection) -> bool:
        """Whether the lock is ours now, on this session."""
        self.memory.leading = await holds(connection, f"{self.service}-relay")
        return self.memory.leading

    async def turn(self, connection: asyncpg.Connection) -> int:
        """Send the oldest batches and take them off `unsent`. Returns how many messages; 0: nothing to do."""
        rows = await connection.fetch(_NEXT, AT_MOST)
        said: list[Said] = []
        sent: dict[int, int] = {}
        for batch_id, at, again in rows:
            said += self.memory.take(batch_id) or await self._read(connection, batch_id, at)
            sent[batch_id] = again
            if len(said) >= ENOUGH:
                break
        if not sent:
            return 0
        if len(rows) == AT_MOST or len(sent) < len(rows):
            self.memory.fresh.set()     # more is waiting
        await while_beating(connection, self._send(said))
        await connection.execute(_SENT, list(sent), list(sent.values()))
        self.memory.forget(max(sent))
        metrics.relay_sent(self.service, len(said))
        return len(said)

    async def _read(self, connection: asyncpg.Connection, batch_id: int, at: datetime) -> list[Said]:
        found = [Said(*record) for record in await connection.fetch(_READ, batch_id, at)]
        if not found:
            raise LookupError(f"batch {batch_id} of {at} is to be sent, and its rows are not in the outbox")
        return found

    async def _send(self, said: list[Said]) -> None:
        runs: dict[tuple[str, int], list[Said]] = {}
        for message in said:
            runs.setdefault((message.topic, message.part), []).append(message)
        sends = []
        for (topic, part), run in runs.items():
            batch = self.producer.create_batch()
            for message in run:
                parts = {
                    "key": message.key.encode(),
                    "value": message.payload,
                    "timestamp": None,
                    "headers": headers(message, self._source),
                }
                # full: it goes first, the next one follows in the same partition
                if batch.append(**parts) is None:
                    batch.close()
                    sends.append(await self.producer.send_batch(batch, topic, partition=part))
                    batch = self.producer.create_batch()
                    batch.append(**parts)
            batch.close()
            sends.append(await self.producer.send_batch(batch, topic, partition=part))
        await asyncio.gather(*sends)
