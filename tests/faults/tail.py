"""How does a broker forget what it has acknowledged? The newest batches are cut off its files while it is
dead.

As by a power cut: what was replicated nowhere and not yet on the disk is gone, and the broker starts over
the rest.
"""

import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

_HEAD = struct.Struct(">qi")        # of a record batch: its first offset, the bytes that follow
_LAST_DELTA, _FIRST_TIME = 23, 27
_EARLIER = timedelta(seconds=10)    # a row is written before its record


class _Batch(NamedTuple):
    at: int
    records: int
    time_ms: int


def truncate(data: Path, topic: str, records: int) -> tuple[int, datetime]:
    """Cut the newest batches, at least so many records where there are so many, off the topic's longest
    partition. How many records are gone, and since when what must be said again was said.
    """
    log = max((log for folder in data.glob(f"{topic}-*") for log in folder.glob("*.log")),
              key=lambda path: path.stat().st_size)
    batches, gone = _batches(log.read_bytes()), 0
    cut = len(batches)
    while cut > 0 and gone < records:
        cut -= 1
        gone += batches[cut].records
    if not gone:
        return 0, datetime.now(UTC)
    with log.open("r+b") as file:
        file.truncate(batches[cut].at)
    since = min(batch.time_ms for batch in batches[cut:])
    return gone, datetime.fromtimestamp(since / 1000, UTC) - _EARLIER


def _batches(content: bytes) -> list[_Batch]:
    """Whole ones; what the broker was writing when it died is none."""
    found, at = [], 0
    while at + _HEAD.size <= len(content):
        _, length = _HEAD.unpack_from(content, at)
        if length <= 0 or at + _HEAD.size + length > len(content):
            break
        (last,) = struct.unpack_from(">i", content, at + _LAST_DELTA)
        (time_ms,) = struct.unpack_from(">q", content, at + _FIRST_TIME)
        found.append(_Batch(at, last + 1, time_ms))
        at += _HEAD.size + length
    return found
