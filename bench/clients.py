"""How do the load generator and the raw loop reach Kafka? The cheapest client for each side, the same for
both loops.
"""

import asyncio
import time
from collections.abc import Iterator
from itertools import accumulate
from random import Random
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from msgspec import Struct

from contracts.topics import PARTITIONS
from sandbox.partner import BATCH_BYTES, kafka_options
from services.chassis.settings import Kafka

Headers = list[tuple[str, bytes]]


class Record(Struct, frozen=True, gc=False):
    """One message on its way out."""

    part: int
    key: bytes
    value: bytes
    headers: Headers


class Heard(Struct, frozen=True, gc=False):
    """One message as it came in."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: Headers


def whole_batches() -> None:
    """aiokafka's consumers hand out a producer's batch as one list, of what is looked at. Record by record,
    through three iterators and as dataclasses of eleven fields, they cost as much again as decoding.
    max_records counts batches then. For topics without transactions.
    """

    def unpack(self: Any) -> Iterator[list[Heard]]:
        topic, part = self._tp
        while self._records.has_next():
            batch, begin = self._records.next_batch(), self.next_fetch_offset
            if not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            self.next_fetch_offset = batch.next_offset
            if not batch.is_control_batch:
                yield [Heard(topic, part, r.key, r.value, r.headers) for r in batch if r.offset >= begin]

    fetcher.PartitionRecords._unpack_records = unpack


def producer(kafka: Kafka, **more: Any) -> AIOKafkaProducer:
    """A durable producer for whole batches: acks from all, idempotent, lz4."""
    return AIOKafkaProducer(
        **kafka_options(kafka),
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        max_batch_size=BATCH_BYTES,
        request_timeout_ms=30_000,
        **more,
    )


async def consumer_at_end(kafka: Kafka, topics: list[str]) -> AIOKafkaConsumer:
    """A consumer of whole topics without a group that hears what comes from now on."""
    consumer = AIOKafkaConsumer(**kafka_options(kafka), enable_auto_commit=False, fetch_max_wait_ms=500)
    await consumer.start()
    partitions = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
    consumer.assign(partitions)
    await consumer.seek_to_end(*partitions)
    for partition in partitions:
        await consumer.position(partition)  # seek_to_end is lazy
    return consumer


async def send(producer: AIOKafkaProducer, topic: str, records: list[Record]) -> list[Any]:
    """Put records into batches by partition, in their order; the futures of the batches."""
    runs: dict[int, list[Record]] = {}
    for record in records:
        runs.setdefault(record.part, []).append(record)
    sends = []
    for part, run in runs.items():
        batch = producer.create_batch()
        for record in run:
            if (
                batch.append(key=record.key, value=record.value, timestamp=None, headers=record.headers)
                is None
            ):
                batch.close()
                sends.append(await producer.send_batch(batch, topic, partition=part))
                batch = producer.create_batch()
                batch.append(key=record.key, value=record.value, timestamp=None, headers=record.headers)
        batch.close()
        sends.append(await producer.send_batch(batch, topic, partition=part))
    return sends


def arrivals(records: list[Record], rate: float, random: Random) -> list[float]:
    """When each is due, in seconds from the beginning: people come by chance, at this rate."""
    return list(accumulate(random.expovariate(rate) for _ in records))


async def stream(producer: AIOKafkaProducer, topic: str, due: list[tuple[float, Record]]) -> None:
    """Send each when it is due, in seconds since the epoch; who is late sends what has piled up at once. One
    stream to a producer: two would wait for each other's batches until aiokafka loses its patience.
    """
    sends: list[Any] = []
    done = 0
    while done < len(due):
        now, first = time.time(), done
        while done < len(due) and due[done][0] <= now:
            done += 1
        if done > first:
            sends += await send(producer, topic, [record for _, record in due[first:done]])
        else:
            await asyncio.sleep(due[done][0] - now)
    await asyncio.gather(*sends)
