"""How are both loops driven by hand, message by message, without a broker and without waiting?"""

import asyncio
import importlib
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import asyncpg
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch
from msgspec import Struct

from bench import raw_loop
from bench.clients import Record, send
from contracts.topics import PARTITIONS, SERVICES
from sandbox.stack import Stack
from services.chassis.arrival import Arrival
from services.chassis.batch import Engine
from services.chassis.database import connect
from services.chassis.halt import Halt
from services.chassis.keys import load_keyring
from services.chassis.progress import Place, Positions, Step, read_progress
from services.chassis.relay import Memory, Relay
from services.chassis.settings import Kafka
from services.chassis.subscriptions import LANES
from services.chassis.wire import Reader

_BATCH_BYTES = 900_000


class Letter(Struct, frozen=True, gc=False):
    """A record as a consumer of Kafka gets it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class Mail:
    """What stands on the topics. bytes: said, as they are; packed: the same as lz4 in batches, which
    chance in ids makes a per cent larger or smaller.
    """

    def __init__(self, now_ms: int) -> None:
        self.letters: dict[str, list[Letter]] = {}
        self.bytes = self.packed = 0
        self._now_ms, self._read = now_ms, Counter[tuple[str, str]]()

    def put(self, topic: str, record: Record) -> None:
        """One more at the end."""
        run = self.letters.setdefault(topic, [])
        run.append(
            Letter(
                topic, record.part, len(run), self._now_ms, record.key, record.value, tuple(record.headers)
            )
        )

    def unread(self, reader: str, topics: list[str]) -> list[list[Letter]]:
        """What this reader has not had yet, by partition, and has now."""
        runs: dict[tuple[str, int], list[Letter]] = {}
        for topic in topics:
            letters = self.letters.get(topic, [])
            for letter in letters[self._read[reader, topic] :]:
                runs.setdefault((topic, letter.partition), []).append(letter)
            self._read[reader, topic] = len(letters)
        return list(runs.values())


class _Batch:
    """A real batch, to be weighed, and what is in it."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._builder = BatchBuilder(_BATCH_BYTES, DefaultRecordBatch.CODEC_LZ4)

    def append(self, *, key: bytes, value: bytes, timestamp: None, headers: list[tuple[str, bytes]]) -> Any:
        """None: it is full."""
        put = self._builder.append(timestamp=timestamp, key=key, value=value, headers=headers)
        if put is not None:
            self.records.append(Record(0, key, value, headers))
        return put

    def close(self) -> None:
        """Nothing more."""
        self._builder.close()

    def size(self) -> int:
        """As it would go to the broker."""
        return len(self._builder._build())


class Post:
    """Stands where a relay has its producer: what would go to the broker goes to the mail."""

    def __init__(self, mail: Mail) -> None:
        self._mail = mail

    def create_batch(self) -> _Batch:
        """Empty."""
        return _Batch()

    async def send_batch(self, batch: _Batch, topic: str, *, partition: int) -> "asyncio.Future[None]":
        """It has arrived."""
        self._mail.packed += batch.size()
        for record in batch.records:
            said = (
                record.key,
                record.value,
                *(part for name, value in record.headers for part in (name, value)),
            )
            self._mail.bytes += sum(map(len, said))
            self._mail.put(topic, Record(partition, record.key, record.value, record.headers))
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Side(Protocol):
    """One of the loops. prefix: of its topics; schemas: of its schemas' names."""

    prefix: str
    schemas: str
    connections: list[asyncpg.Connection]

    async def turn(self) -> int:
        """Everybody handles once what waits for him, and it is sent; how many messages that were."""


class Engines:
    """The four services' engines with their own handlers, in this process."""

    prefix = schemas = ""

    def __init__(self, mail: Mail) -> None:
        self._mail, self.connections = mail, list[asyncpg.Connection]()
        self._engines: dict[str, tuple[Engine, Relay, asyncpg.Connection]] = {}
        self._readers: dict[tuple[str, str], tuple[Reader, list[str], dict[Place, int]]] = {}

    async def open(self, stack: Stack, keys: Path, port: int, exits: AsyncExitStack) -> None:
        """Connect: the engines by the tapped port, the relays not."""
        for service in SERVICES:
            on = importlib.import_module(f"services.{service}.handlers").on
            ring, memory = load_keyring(str(keys / f"{service}.json")), Memory()
            memory.leading = True
            url = stack.database_url(service)
            db = await connect(url.replace(f":{stack.pg_port}/", f":{port}/"), "bench")
            relaying = await connect(url, "bench")
            self.connections += (db, relaying)
            for each in (db, relaying):
                exits.callback(each.terminate)
            engine = Engine(service, ring, Reader(on, None, ring, frozenset()), memory, Halt())
            self._engines[service] = engine, Relay(service, memory, Post(self._mail)), relaying
            for lane in LANES:
                if topics := on.topics(lane):
                    places = [(topic, part) for topic in topics for part in range(PARTITIONS)]
                    done = await read_progress(relaying, lane, places)
                    self._readers[service, lane] = Reader(on, lane, ring, frozenset()), topics, done

    async def turn(self) -> int:
        """See Side."""
        count = 0
        for number, (service, (engine, relay, relaying)) in enumerate(self._engines.items()):
            for lane in LANES:
                if (service, lane) in self._readers:
                    count += await self._batch(engine, self.connections[2 * number], lane)
            while await relay.turn(relaying):
                pass
        return count

    async def _batch(self, engine: Engine, db: asyncpg.Connection, lane: str) -> int:
        reader, topics, done = self._readers[engine.service, lane]
        positions: Positions = {}
        arrivals = list[Arrival]()
        for run in self._mail.unread(f"{engine.service}-{lane}", topics):
            place = run[-1].topic, run[-1].partition
            positions[place] = Step(done[place], run[-1].offset)
            some, unreadable = reader.records(run)
            if unreadable:
                raise SystemExit(f"{engine.service} cannot read {unreadable[0]}")
            arrivals += some
        if arrivals:
            await engine.run(db, arrivals, (), positions, lane)
            done |= {place: step.last for place, step in positions.items()}
        return len(arrivals)


class RawEngines:
    """The four raw loops, in this process."""

    prefix, schemas = "raw.", "raw_"

    def __init__(self, mail: Mail) -> None:
        self._mail, self.connections = mail, list[asyncpg.Connection]()
        self._loops: list[tuple[raw_loop.Loop, list[str]]] = []

    async def open(
        self, stack: Stack, dsn: str, keys: Path, skew_seconds: float, port: int, exits: AsyncExitStack
    ) -> None:
        """Connect, by the tapped port."""
        for service in SERVICES:
            role = importlib.import_module(f"bench.raw.{service}")
            place = raw_loop.Place(
                service=service,
                dsn=dsn.replace(f":{stack.pg_port}/", f":{port}/"),
                kafka=Kafka(bootstrap=stack.kafka_admin),
                keys=str(keys / f"{service}.json"),
                prefix=self.prefix,
                skew_seconds=skew_seconds,
            )
            loop = raw_loop.Loop(place, role.STEPS)
            self._loops.append((loop, [self.prefix + name for name in role.READS]))
            self.connections.append(await loop.connect())
            exits.callback(self.connections[-1].terminate)

    async def turn(self) -> int:
        """See Side."""
        count = 0
        for (loop, topics), db in zip(self._loops, self.connections):
            batch = loop.sort(self._mail.unread(loop.place.service, topics))
            if batch and not await loop.transact(db, batch, again=False):
                raise SystemExit("a fact came twice")
            count += sum(map(len, batch.values()))
            for batch_id in sorted(loop.memory):
                for topic, records in loop.records(loop.memory.pop(batch_id)).items():
                    await send(Post(self._mail), topic, records)
        return count
