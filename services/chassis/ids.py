"""How are things named? Time-ordered ids, and the partition a key belongs to."""

from functools import lru_cache

from aiokafka.partitioner import murmur2
from uuid_utils import uuid7 as _uuid7

from contracts.topics import PARTITIONS


def uuid7() -> str:
    """A new time-ordered id by the system clock, as text."""
    return str(_uuid7())


def millis(uuid: str) -> int:
    """The system time in a uuid7, milliseconds since the epoch. ValueError: not a version-7 uuid."""
    if len(uuid) != 36 or uuid[14] != "7":
        raise ValueError(f"not a uuid7: {uuid[:40]}")
    return int(uuid[:8] + uuid[9:13], 16)


@lru_cache(maxsize=20_000)
def partition_of(key: str) -> int:
    """Where the broker's default partitioner puts a key; 4 µs, so it is taken from the consumed record where
    there is one, and a person's next fact remembers it.
    """
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS
