"""Does a lane go on from where its database is, whoever has set that, and whatever got lost on the way?"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import CorruptRecordException

from contracts.enrollment import ENROLLMENTS
from sandbox.stack import Stack
from services.chassis.lane import Lane
from tests.chassis.running import producing, records_of, running, say, until
from tests.chassis.test_lane import at_rest, bills
from tests.chassis.toys import approved, toy
from tests.ground import Database


async def test_who_sets_progress_back_makes_an_idle_lane_read_again(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, producing(broker) as producer, running(broker, tmp_path, made.on):
        for _ in range(40):
            await say(producer, approved())
        await until(lambda: bills(made, 40))
        async with database.connect() as other:     # what was done is forgotten, so that it shows
            await other.execute("delete from billing.inbox; update billing.progress set \"offset\" = -1")
        await until(lambda: bills(made, 80))


@asynccontextmanager
async def set_back(
    database: Database, broker: Stack, folder: Path
) -> AsyncIterator[tuple[Lane, TopicPartition]]:
    """A lane under its lock that has done one fact, and its partition, which somebody has set back."""
    async with at_rest(database, broker, folder) as lane, lane.lock:
        partition = read_by(lane)
        async with database.connect() as other:
            await other.execute("update billing.progress set \"offset\" = -1")
        yield lane, partition


async def test_what_is_passed_over_does_not_undo_that_progress_was_set_back(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with set_back(database, broker, tmp_path) as (lane, partition):
        lane.skipped = {partition: lane.done[partition] + 10}
        await lane._pass_skipped()
        assert lane.done[partition] == -1
        assert (lane.skipped, lane.pending) == ({}, {})
        assert await lane.sub.consumer.position(partition) == 0


async def test_what_is_done_already_where_a_lane_follows_is_said_to_the_broker(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with at_rest(database, broker, tmp_path) as lane, lane.lock:
        partition = read_by(lane)
        before = lane.done[partition]
        async with database.connect() as other:
            on = "update billing.progress set \"offset\" = $1 + 1 where \"offset\" = $1"
            await other.execute(on, before)
        await lane._look()
        assert lane.pending == {partition: before + 2}


async def test_a_batch_from_where_somebody_has_set_back_is_not_done_and_leaves_nothing_to_be_passed_over(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with set_back(database, broker, tmp_path) as (lane, partition):
        lane.skipped = lane.pending = {partition: lane.done[partition] + 10}
        record = await fetched(broker, partition)
        assert await lane._handle({partition: [replace(record, offset=record.offset + 5)]}) == 0.0
        assert lane.done[partition] == -1
        assert (lane.skipped, lane.pending) == ({}, {})
        assert await lane.sub.consumer.position(partition) == 0


async def test_what_the_client_lost_with_an_error_comes_again(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    """It hands out nothing when one partition's bytes are broken, and stands behind what it had of others."""
    async with at_rest(database, broker, tmp_path) as lane, producing(broker) as producer:
        partition = read_by(lane)
        before, getmany = await fetched(broker, partition), lane.sub.consumer.getmany

        async def breaks(**_: object) -> None:
            lane.sub.consumer.getmany = getmany
            await producer.send_and_wait(
                ENROLLMENTS, before.value, before.key, partition.partition, headers=list(before.headers)
            )
            lane.sub.consumer.seek(partition, before.offset + 2)
            raise CorruptRecordException

        lane.sub.consumer.getmany = breaks

        async def is_done() -> bool:
            return bool(lane.done[partition] == before.offset + 1)

        await until(is_done)


async def test_what_could_not_be_said_when_partitions_were_given_away_is_not_said_later(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with at_rest(database, broker, tmp_path) as lane:
        async with lane.lock:
            lane.skipped = {TopicPartition(ENROLLMENTS, 3): 41}

            async def fails() -> None:
                raise TimeoutError

            lane._pass_skipped = fails  # type: ignore[method-assign]
        with pytest.raises(TimeoutError):
            await lane.on_partitions_revoked(set())
        assert (lane.done, lane.skipped, lane.pending) == ({}, {}, {})
        lane.compared.set()


async def fetched(stack: Stack, partition: TopicPartition) -> ConsumerRecord:
    return next(r for r in await records_of(stack, ENROLLMENTS) if r.partition == partition.partition)


def read_by(lane: Lane) -> TopicPartition:
    """Where its only fact was."""
    (partition,) = (partition for partition, done in lane.done.items() if done >= 0)
    return partition
