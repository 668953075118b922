"""What if a header's name is no text? aiokafka raises, and would never read past that record again.

The broker takes such a record from anybody who may write. Its batch is read once more, slowly, with the name
mended; every other batch is read as fast as before.
"""

from collections.abc import Iterator
from typing import Any, Self, SupportsIndex

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from typing_extensions import override

# of a batch: where its length stands, which counts what follows it
_LENGTH_AT, _BEFORE_LENGTH_ENDS = 8, 12


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
        try:
            yield from self._fast
        except UnicodeDecodeError:
            yield from _SlowBatch(self._data.tobytes())  # the fetcher skips the offsets that it has


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


def install() -> None:
    """From now on this process's consumers read any header."""
    fetcher.MemoryRecords = Records
