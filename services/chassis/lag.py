"""How far behind is a lane, since when has nothing moved in it, and how often has the same come back?"""

import time
from itertools import groupby
from operator import attrgetter

from aiokafka import AIOKafkaConsumer, TopicPartition

from services.chassis.health import LaneVitals
from services.chassis.lenient import Record

Runs = dict[TopicPartition, list[Record]]


def by_partition(records: tuple[Record, ...]) -> Runs:
    """What was fetched, each partition in its order."""
    runs: Runs = {}
    for (topic, partition), run in groupby(records, key=attrgetter("topic", "partition")):
        runs.setdefault(TopicPartition(topic, partition), []).extend(run)
    return runs


class Lag:
    """Knows from the first fetch on what waits, also when nothing ever gets done."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._next: dict[TopicPartition, int] = {}      # the first offset that is not done
        # the first offset of what was put back, and how often that was
        self._failed: dict[TopicPartition, tuple[int, int]] = {}
        self._newest_ms = 0     # when the newest one done was written; the first fetched, when none is done

    def fetched(self, runs: Runs) -> None:
        """These wait now."""
        for partition, run in runs.items():
            self._next.setdefault(partition, run[0].offset)
            self._newest_ms = self._newest_ms or run[0].timestamp
        self._since = self._since or time.monotonic()

    def put_back(self, runs: Runs, *, counts: bool) -> None:
        """A batch has ended, though without a commit: the lane lives, and after five of them it parks.
        counts: the batch may be to blame.
        """
        self._since = time.monotonic()
        for partition, run in runs.items() if counts else ():
            self._failed[partition] = (run[0].offset, self._times(partition, run) + 1)

    def failures(self, runs: Runs) -> int:
        """How often what begins these runs was put back already. What is done beside it forgives nothing."""
        return max(self._times(partition, run) for partition, run in runs.items())

    def _times(self, partition: TopicPartition, run: list[Record]) -> int:
        offset, times = self._failed.get(partition, (-1, 0))
        return times if offset == run[0].offset else 0

    def done(self, consumer: AIOKafkaConsumer, runs: Runs) -> None:
        """These are done, and the rest has waited since now."""
        self._next |= {partition: run[-1].offset + 1 for partition, run in runs.items()}
        for partition in runs:
            self._failed.pop(partition, None)
        self._newest_ms = max(run[-1].timestamp for run in runs.values())
        self._since = time.monotonic() if self._records(consumer) else None

    def forget(self) -> None:
        """The partitions go to somebody."""
        self._next.clear()
        self._failed.clear()
        self._since = None

    def vitals(self, name: str, consumer: AIOKafkaConsumer | None, patience_seconds: float) -> LaneVitals:
        """For the health page and the metrics."""
        records = self._records(consumer) if consumer is not None else 0
        age = max(0.0, time.time() - self._newest_ms / 1000) if records else 0.0
        return LaneVitals(
            name=name, records=records, seconds=age, since=self._since, patience_seconds=patience_seconds
        )

    def _records(self, consumer: AIOKafkaConsumer) -> int:
        """How many wait in the partitions that are ours, as far as fetches have told."""
        owned = consumer.assignment()
        return sum(
            max(0, (consumer.highwater(partition) or 0) - offset)
            for partition, offset in self._next.items() if partition in owned
        )
