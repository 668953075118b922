"""What if a batch of records is not as aiokafka expects? It would never read past it again.

The broker takes such a batch from anybody who may write. One with a header's name that is no text is read
once more, slowly, with the name mended. One that would unfold to gigabytes is not unfolded: one unreadable
record stands for it. Every other batch is read as fast as before, and of its records what a lane looks at.
"""

from collections.abc import Iterator
from typing import Any, Self, SupportsIndex

from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from msgspec import Struct
from typing_extensions import override

from services.chassis.unfolded import is_too_large

# of a batch: where its length stands, which counts what follows it; its version; its codec; its records
_LENGTH_AT, _BEFORE_LENGTH_ENDS, _MAGIC_AT, _CODEC_AT, _RECORDS_AT = 8, 12, 16, 22, 61


class Record(Struct, frozen=True, gc=False):
    """What a lane looks at of a record; aiokafka's own has eleven fields, made by Python. timestamp: ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Records:
    """The batches of one fetched piece of a partition, as aiokafka's own class gives them."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = memoryview(data), 0
        self._fast: Any = MemoryRecords(data)
        self.has_next, self.size_in_bytes = self._fast.has_next, self._fast.size_in_bytes

    def next_batch(self) -> "_Batch":
        """The next one. CorruptRecordException: what stands there is none."""
        batch, begin = self._fast.next_batch(), self._at
        length = int.from_bytes(self._data[begin + _LENGTH_AT : begin + _BEFORE_LENGTH_ENDS])
        self._at = begin + _BEFORE_LENGTH_ENDS + length
        return _Batch(batch, self._data[begin : self._at])


class _Batch:
    def __init__(self, fast: Any, data: memoryview) -> None:
        self._fast, self._data = fast, data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fast, name)

    def __next__(self) -> Any:
        return next(self._fast)

    def __iter__(self) -> Iterator[Any]:
        if self._data[_MAGIC_AT] == 2 and is_too_large(self._data[_CODEC_AT] & 7, self._data[_RECORDS_AT:]):
            yield _StandIn(self._fast)
            return
        try:
            yield from self._fast
        except UnicodeDecodeError:
            yield from _SlowBatch(self._data.tobytes())  # the fetcher skips the offsets that it has


class _StandIn:
    """What a lane sees of a batch that is not unfolded, in the place of its last record: a type that nobody
    knows, so that the topic's owner keeps it.
    """

    key = value = None
    headers = (("ce_type", b"a batch that unfolds to more than 64 MiB"),)

    def __init__(self, batch: Any) -> None:
        self.offset, self.timestamp = batch.next_offset - 1, batch.max_timestamp


class _SlowBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    @override
    def __iter__(self) -> Self:
        super().__iter__()
        self._buffer: bytearray = _Mended(self._buffer)
        return self


class _Mended(bytearray):
    """Bytes of which every slice decodes."""

    @override
    def __getitem__(self, at: SupportsIndex | slice) -> Any:
        got = super().__getitem__(at)
        return _Mended(got) if isinstance(got, bytearray) else got

    @override
    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, "replace")


def _record(_: Any, place: TopicPartition, it: Any) -> Record:
    return Record(
        place.topic, place.partition, it.offset, it.timestamp, it.key, it.value, tuple(it.headers)
    )


def install() -> None:
    """From now on this process's consumers read any header."""
    fetcher.MemoryRecords, fetcher.PartitionRecords._consumer_record = Records, _record
