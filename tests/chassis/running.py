"""How does a test run a whole toy service? In this process, on the real broker and database, with the keys
of a sandbox.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from msgspec import Struct
from msgspec.json import encode

from contracts.message import contract_of
from sandbox.keys import make_keys
from sandbox.partner import Partner
from sandbox.stack import Stack
from services.chassis.calls import Gateway
from services.chassis.ids import partition_of, uuid7
from services.chassis.keys import load_keyring
from services.chassis.service import Running, Service
from services.chassis.settings import Settings
from services.chassis.subscriptions import Subscriptions


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running(
    stack: Stack,
    folder: Path,
    on: Subscriptions,
    *,
    member: int = 0,
    gateways: Mapping[type[Struct], Gateway] | None = None,
) -> AsyncIterator[Running]:
    """The service of these subscriptions, started; stopped at the end as by SIGTERM."""
    make_keys(folder / "keys")
    settings = Settings(
        service=on.service,
        member=member,
        database=stack.database_url(on.service),
        keys=str(folder / "keys" / f"{on.service}.json"),
        door=f"127.0.0.1:{free_port()}",
        sandbox=True,
        kafka=stack.kafka(on.service),
    )
    run = Running(Service(on.service, on, gateways=(lambda *_: gateways) if gateways else None), settings)
    try:
        await asyncio.wait_for(run.start(), 30)
        yield run
    finally:
        await run.stop()


@asynccontextmanager
async def partner(code: str, stack: Stack, folder: Path) -> AsyncIterator[Partner]:
    """A partner that signs with its own keys and hears its answers."""
    make_keys(folder / "keys")
    keys = load_keyring(folder / "keys" / f"{code}.json")
    one = Partner(code, stack.kafka(code), keys, lambda: datetime.now(UTC))
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


@asynccontextmanager
async def producing(stack: Stack) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=stack.kafka_admin, acks="all")
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def say(producer: AIOKafkaProducer, fact: Struct, *, event_id: str = "", **extra: bytes) -> None:
    """A fact as its owner's relay would send it."""
    contract = contract_of(fact)
    key: str = getattr(fact, contract.key)
    headers = [
        ("ce_id", (event_id or uuid7()).encode()),
        ("ce_type", contract.type.encode()),
        ("ce_sequence", b"1"),
        *extra.items(),
    ]
    await producer.send(
        contract.topic, encode(fact), key=key.encode(), partition=partition_of(key), headers=headers
    )


async def records_of(stack: Stack, topic: str) -> list[Any]:
    """Everything on a topic now."""
    consumer = AIOKafkaConsumer(bootstrap_servers=stack.kafka_admin, enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, n) for n in range(4)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        got: list[Any] = []
        while any([await consumer.position(p) < ends[p] for p in partitions]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                got += records
        return got
    finally:
        await consumer.stop()


async def until(what: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> None:
    """Wait for a condition, with a deadline. It may raise while it does not hold yet."""
    end = time.monotonic() + seconds
    while True:
        try:
            if await what():
                return
        except AssertionError:
            pass
        if time.monotonic() > end:
            assert await what(), "the deadline passed"
            return
        await asyncio.sleep(0.02)
