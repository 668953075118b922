"""`python -m bench.peers.careful FILE`: one service."""

import asyncio
import importlib
import signal
import sys
from pathlib import Path

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord

from bench.peers.careful.transaction import Handlers, Transaction
from bench.raw_loop import Place
from sandbox.lifeline import end_with_parent

RELAYED, AGAIN_SECONDS, IDLE_SECONDS = 100, 0.1, 0.5
_NEXT = "select id, topic, key, type, ce_id::text, payload from unsent order by id limit $1"
_DONE = "delete from unsent where id = any($1::bigint[])"


class Service:
    """A consumer, a pool of connections, a relay."""

    def __init__(self, place: Place, handlers: Handlers, pool: asyncpg.Pool) -> None:
        self.place, self.handlers, self.pool = place, handlers, pool
        self.fresh, self.stop = asyncio.Event(), asyncio.Event()

    async def consume(self, consumer: AIOKafkaConsumer) -> None:
        """Partitions side by side, the messages of each in their order; offsets follow what is committed."""
        while not self.stop.is_set():
            polled = await consumer.getmany(timeout_ms=500, max_records=100)
            await asyncio.gather(*(self.one_by_one(records) for records in polled.values()))
            if polled:
                await consumer.commit()
        await consumer.stop()

    async def one_by_one(self, records: list[ConsumerRecord]) -> None:
        """Each until it is done."""
        for record in records:
            kind = record.headers[3][1].decode()
            while kind in self.handlers and not await self.handle(kind, record):
                await asyncio.sleep(AGAIN_SECONDS)

    async def handle(self, kind: str, record: ConsumerRecord) -> bool:
        """One message, one transaction. False: it failed and has left nothing."""
        decode, handler, is_fact = self.handlers[kind]
        async with self.pool.acquire() as db:
            try:
                async with db.transaction():
                    tx = Transaction(db, self.place, kind, record)
                    message = decode(record.value)
                    if await (tx.is_new_fact() if is_fact else tx.is_new_command(message)):
                        await handler(message, tx)
            except (asyncpg.PostgresError, OSError):
                return False
        self.fresh.set()
        return True

    async def relay(self, out: AIOKafkaProducer) -> None:
        """Publish in the order of the outbox, and forget what the broker has."""
        while True:
            self.fresh.clear()
            rows = await self.pool.fetch(_NEXT, RELAYED)
            if not rows:
                try:
                    async with asyncio.timeout(IDLE_SECONDS):
                        await self.fresh.wait()
                except TimeoutError:
                    pass
                continue
            sends = []
            for _, topic, key, kind, ce_id, payload in rows:
                source = self.place.service.encode()
                headers = [("content-type", b"application/json"), ("ce_id", ce_id.encode()),
                           ("ce_source", source), ("ce_type", kind.encode())]  # fmt: skip
                sends.append(await out.send(topic, payload, key=key.encode(), headers=headers))
            await asyncio.gather(*sends)
            await self.pool.execute(_DONE, [row[0] for row in rows])


async def main(place: Place) -> None:
    """Run until ended."""
    name = place.prefix.rstrip(".")
    role = importlib.import_module(f"bench.peers.careful.{place.service}")
    out = AIOKafkaProducer(bootstrap_servers=place.kafka.bootstrap, acks="all", enable_idempotence=True)
    consumer = AIOKafkaConsumer(
        *(place.prefix + topic for topic in role.READS),
        bootstrap_servers=place.kafka.bootstrap,
        group_id=f"{name}-{place.service}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    schema = {"search_path": f"{name}_{place.service}", "timezone": "UTC"}
    async with asyncpg.create_pool(
        place.dsn, min_size=2, max_size=8, ssl="disable", server_settings=schema
    ) as pool:
        service = Service(place, role.handlers, pool)
        await asyncio.gather(out.start(), consumer.start())
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.stop.set)
        end_with_parent()
        relay = asyncio.create_task(service.relay(out))
        await service.consume(consumer)
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
        await out.stop()



uvloop.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Place)))
