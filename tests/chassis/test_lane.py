"""Does a lane lose nothing on a real broker, whatever fails around it?"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from contracts.enrollment import ENROLLMENTS, EnrollmentSubmitted
from sandbox.stack import Stack
from services.chassis.ids import partition_of, uuid7
from services.chassis.lag import Runs
from services.chassis.lane import MAX_RECORDS, Lane
from services.chassis.subscriptions import Batch
from services.chassis.transaction import Transaction
from tests.chassis.running import producing, running, say, until
from tests.chassis.toys import Toy, approved, owes, submitted, toy
from tests.ground import Database


async def bills(made: Toy, count: int) -> bool:
    assert len(await made.said()) == count
    return True


async def committed(stack: Stack) -> int:
    """The sum of the group's committed offsets over the topic's partitions, less where the topic begins."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=stack.kafka_admin, group_id="billing-money", enable_auto_commit=False
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(ENROLLMENTS, n) for n in range(4)]
        begin = await consumer.beginning_offsets(partitions)
        return sum([(await consumer.committed(p) or begin[p]) - begin[p] for p in partitions])
    finally:
        await consumer.stop()


async def test_facts_are_handled_and_their_offsets_follow(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, producing(broker) as producer:
        for _ in range(300):
            await say(producer, approved())
        async with running(broker, tmp_path, made.on):
            await until(lambda: bills(made, 300))
        assert await committed(broker) == 300


async def test_a_batch_that_fails_for_a_passing_reason_comes_again(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, producing(broker) as producer:
        async with running(broker, tmp_path, made.on) as run:
            engine, failures = (
                run.engine,
                [TimeoutError("away"), asyncio.CancelledError("a stray one"), OSError("network")],
            )
            whole = engine.run

            async def sometimes(*args: object, **kwargs: object) -> None:
                if failures:
                    raise failures.pop()
                await whole(*args, **kwargs)  # type: ignore[arg-type]

            engine.run = sometimes  # type: ignore[method-assign]
            for _ in range(50):
                await say(producer, approved())
            await until(lambda: bills(made, 50))
        assert not failures
        assert await committed(broker) == 50


async def milliseconds(db: asyncpg.Connection, setting: str) -> int:
    return int(await db.fetchval("select setting from pg_settings where name = $1 and unit = 'ms'", setting))


async def test_a_message_whose_handler_never_ends_is_parked_after_five_tries_and_the_rest_goes_on(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    """Every limit as it stands, made smaller in the same proportion: the lane's own comes first, so that the
    connection, and with it the process, outlives a handler that hangs.
    """
    smaller, lost = 1 / 40, list[str]()
    async with toy(database) as made, producing(broker) as producer:
        facts = [approved() for _ in range(8)]
        made.endless = {facts[3].enrollment_id}
        async with running(broker, tmp_path, made.on) as run:
            (lane,) = (lane for lane in run.lanes if lane.name == "money")
            lane.lost = lost.append  # type: ignore[method-assign,assignment]
            async with lane.lock:
                assert lane.db is not None
                for setting in ("idle_in_transaction_session_timeout", "transaction_timeout"):
                    limit = await milliseconds(lane.db, setting)
                    assert limit > lane.deadline_seconds * 1000
                    await lane.db.execute(f"set {setting} = {int(limit * smaller)}")
            lane.deadline_seconds *= smaller
            for fact in facts:
                await say(producer, fact)
            await until(lambda: bills(made, 7), 30)
            assert lost == []
        assert await made.rows("select state, reason from parked") == [("PARKED", "HANDLER_FAILED")]


async def test_what_goes_well_in_other_partitions_forgives_a_message_that_never_ends_nothing(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    """While it hangs again and again, batches without it succeed in between."""
    async with toy(database) as made, producing(broker) as producer:
        hanging = approved()
        made.endless = {hanging.enrollment_id}
        async with running(broker, tmp_path, made.on) as run:
            (lane,) = (lane for lane in run.lanes if lane.name == "money")
            lane.deadline_seconds /= 40
            seek_back = lane._seek_back

            def and_then_others_come_first(runs: Runs) -> None:
                seek_back(runs)
                ((partition, run),) = runs.items()
                lane._done({TopicPartition(ENROLLMENTS, (partition.partition + 1) % 4): run}, None)
                lane.skipped.clear()        # nobody reads that one's offset: it is not there

            lane._seek_back = and_then_others_come_first  # type: ignore[method-assign]
            await say(producer, hanging)
            await until(lambda: parked(made, 1), 30)
        assert await made.rows("select state, reason from parked") == [("PARKED", "HANDLER_FAILED")]


async def parked(made: Toy, count: int) -> bool:
    return await made.rows("select count(*) from parked") == [(count,)]


async def test_nothing_is_handled_before_the_offsets_could_be_compared(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, producing(broker) as producer:
        for _ in range(3):
            await say(producer, approved())
        refusals, looked = [OSError("the broker is away"), KafkaError("and again")], Lane._compare

        async def at_first_in_vain(lane: Lane, assigned: set[TopicPartition]) -> None:
            if refusals and lane.name == "money":
                assert lane.last_batch == 0.0
                raise refusals.pop()
            await looked(lane, assigned)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Lane, "_compare", at_first_in_vain)
            async with running(broker, tmp_path, made.on):
                await until(lambda: bills(made, 3), 30)
        assert refusals == []


@asynccontextmanager
async def at_rest(database: Database, broker: Stack, folder: Path) -> AsyncIterator[Lane]:
    """The money lane of a service that has done its only fact."""
    async with toy(database) as made, producing(broker) as producer:
        await say(producer, approved())
        async with running(broker, folder, made.on) as run:
            await until(lambda: bills(made, 1), 30)
            (lane,) = (lane for lane in run.lanes if lane.name == "money")
            yield lane


async def test_what_a_batch_left_open_when_its_time_was_up_takes_no_progress_along(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with at_rest(database, broker, tmp_path) as lane:
        async with lane.lock:
            assert lane.db is not None
            await lane.db.execute("begin")
            with pytest.raises(asyncpg.PostgresError):
                await lane.db.execute("select 1 / 0")
            lane.skipped = {TopicPartition(ENROLLMENTS, 3): 41}
            await lane._pass_skipped()
            await lane.db.execute("begin; update progress set \"offset\" = 0")
            done = await lane._learn([TopicPartition(ENROLLMENTS, 3)])
        assert done == {TopicPartition(ENROLLMENTS, 3): 40}


async def test_what_a_batch_left_open_lets_go_of_its_locks_when_the_partitions_are_given_away(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    """Another member may wait for them, and the group for that member."""
    async with at_rest(database, broker, tmp_path) as lane:
        async with lane.lock:
            assert lane.db is not None
            await lane.db.execute("begin")
            await lane.db.execute("select pg_advisory_xact_lock(7)")
        await lane.on_partitions_revoked(set())
        async with database.connect() as other:
            assert await other.fetchval("select pg_try_advisory_lock(7)")
        lane.compared.set()


async def test_foreign_garbage_between_facts_costs_none_of_them(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, producing(broker) as producer:
        fact = approved()
        partition = partition_of(fact.person_id)
        type_header = ("ce_type", b"enrollment.enrollment_approved.v1")
        for value, headers in [
            (b"\xff\xfe", []),
            (None, []),
            (b"{}", [("ce_type", b"\xff")]),
            (b"{}", [type_header]),
            (b"{}", [type_header, ("ce_id", uuid7().encode())]),
            (None, [type_header, ("ce_id", uuid7().encode())]),
            (b"[" * 10_000, [type_header, ("ce_id", uuid7().encode())]),
            (b"{}", [("", b""), type_header, ("ce_id", b"not a uuid")]),
        ]:
            await producer.send(ENROLLMENTS, value, key=b"k", partition=partition, headers=headers)
        await say(producer, fact)
        async with running(broker, tmp_path, made.on):
            await until(lambda: bills(made, 1))
        refused = await made.rows("select reason from parked where state = 'QUARANTINED' order by seq")
        assert len(refused) == 5        # the other three are for enrollment to keep, whose topic it is
        assert await committed(broker) == 9


async def test_offsets_moved_past_unread_facts_are_refilled(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, producing(broker) as producer:
        facts = [approved() for _ in range(40)]
        async with running(broker, tmp_path, made.on):
            await say(producer, facts[0])
            await until(lambda: bills(made, 1))
        for fact in facts[1:]:      # partitions, too, of which nothing was done yet
            await say(producer, fact)
        await producer.flush()
        await skip_to_end(broker)

        async with running(broker, tmp_path, made.on):
            await until(lambda: bills(made, 40))


async def skip_to_end(stack: Stack) -> dict[TopicPartition, int]:
    """The group's offsets stand where the topic ends now; where that is."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=stack.kafka_admin, group_id="billing-money", enable_auto_commit=False
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(ENROLLMENTS, n) for n in range(4)]
        consumer.assign(partitions)
        ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        await consumer.commit(ends)
        return ends
    finally:
        await consumer.stop()


async def test_a_second_process_of_one_name_waits_until_the_first_has_gone(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    started, enough = asyncio.Event(), asyncio.Event()

    async def second() -> None:
        async with running(broker, tmp_path, made.on):
            started.set()
            await enough.wait()

    async with toy(database) as made, producing(broker) as producer:
        async with running(broker, tmp_path, made.on):
            waiting = asyncio.create_task(second())
            await say(producer, approved())
            await until(lambda: bills(made, 1))
            assert not started.is_set()
        await say(producer, approved())
        await until(lambda: bills(made, 2))
        assert started.is_set()
        enough.set()
        await waiting


async def test_a_bulk_batch_is_small_while_money_is_awake_and_large_when_it_sleeps(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, producing(broker) as producer:

        @made.on(EnrollmentSubmitted, refs=lambda fact: [owes(fact.enrollment_id)], lane="bulk")
        async def burn(facts: Batch[EnrollmentSubmitted], tx: Transaction) -> None:
            for _ in facts:
                sum(range(20_000))

        async with running(broker, tmp_path, made.on) as run:
            bulk = next(lane for lane in run.lanes if lane.name == "bulk")
            money = next(lane for lane in run.lanes if lane.name == "money")
            money.last_batch = time.monotonic() + 1_000     # money had a batch just now, and goes on
            for _ in range(400):
                await say(producer, submitted())
            await until(lambda: _inbox(made, 400))
            assert bulk.sub.max_records < 100

            money.last_batch = 0.0
            await say(producer, submitted())
            await until(lambda: _inbox(made, 401))
            await until(lambda: _largest(bulk))


async def _inbox(made: Toy, count: int) -> bool:
    return await made.rows("select count(*) from inbox") == [(count,)]


async def _largest(lane: Lane) -> bool:
    return bool(lane.sub.max_records == MAX_RECORDS)
