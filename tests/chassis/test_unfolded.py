"""Does a batch that unfolds to gigabytes cost a lane no more than a look at it?"""

import gzip
import resource
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from contracts.enrollment import ENROLLMENTS
from sandbox.stack import Stack
from services.chassis import lenient
from services.chassis.ids import partition_of
from services.chassis.unfolded import MOST_BYTES
from tests.chassis.running import producing, running, say, until
from tests.chassis.toys import Toy, approved, toy
from tests.ground import Database

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
LARGE = 100 * 2**20


def batch(codec: str, *values: bytes) -> bytes:
    """A record batch as a broker hands it out, at offset 0."""
    made = DefaultRecordBatchBuilder(
        magic=2, compression_type=CODECS[codec], is_transactional=0, producer_id=-1, producer_epoch=-1,
        base_sequence=-1, batch_size=10**9,
    )
    for offset, value in enumerate(values):
        made.append(offset, 0, b"k", value, [("ce_type", b"t")])
    return bytes(made.build())


def read(data: bytes) -> list[tuple[int, bytes | None]]:
    records, found = lenient.Records(data), []
    while records.has_next():
        found += [(record.offset, record.value) for record in records.next_batch()]
    return found


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_what_unfolds_to_too_much_is_one_unreadable_record_in_the_place_of_the_last(codec: str) -> None:
    data = batch(codec, b"first", bytes(LARGE), b"last")
    assert len(data) < 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert read(data + batch("gzip", b"next")) == [(2, None), (0, b"next")]

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 1, 500, 70_000, 5_000_000])
def test_an_honest_batch_is_read_whatever_its_size_and_codec(codec: str, size: int) -> None:
    values = [b"{}", b'{"person_id":"' * (size // 14), bytes(range(256)) * (size // 256)]
    assert read(batch(codec, *values)) == list(enumerate(values))


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_what_cannot_be_told_is_not_unfolded(codec: str) -> None:
    data = bytearray(batch(codec, b"x" * MOST_BYTES))
    del data[-3:]
    data[8:12] = (len(data) - 12).to_bytes(4)

    assert read(bytes(data)) == [(0, None)]


def test_many_streams_behind_the_first_cost_no_more_than_a_look() -> None:
    data = bytearray(batch("gzip", b"first"))
    data += gzip.compress(b"") * 50_000
    data[8:12] = (len(data) - 12).to_bytes(4)
    began = time.process_time()

    assert read(bytes(data)) == [(0, None)]

    assert time.process_time() - began < 0.2


async def bills(made: Toy) -> bool:
    return len(await made.said()) == 1


async def test_a_lane_goes_on_behind_it(
    database: Database, broker: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what is there now comes back afterwards
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)
    made = fetcher.PartitionRecords._consumer_record
    monkeypatch.setattr(fetcher.PartitionRecords, "_consumer_record", made)
    lenient.install()
    fact = approved()
    forger = AIOKafkaProducer(
        bootstrap_servers=broker.kafka_admin, compression_type="zstd", max_batch_size=2 * LARGE,
        max_request_size=2 * LARGE,
    )
    await forger.start()
    try:
        bomb = forger.create_batch()
        bomb.append(key=b"k", value=bytes(LARGE), timestamp=None)
        bomb.close()
        await (await forger.send_batch(bomb, ENROLLMENTS, partition=partition_of(fact.person_id)))
    finally:
        await forger.stop()
    async with toy(database) as made, producing(broker) as producer:
        await say(producer, fact)
        async with running(broker, tmp_path, made.on):
            await until(lambda: bills(made))
