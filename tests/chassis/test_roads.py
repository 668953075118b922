"""Does what was said reach its topic, and is done what an operator orders?"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec.json import decode

from contracts.answers import Accepted, Rejected
from contracts.billing import BILLS
from contracts.operations import Redrive, Republish, Resume
from sandbox.stack import Stack
from tests.chassis.running import partner, producing, running, say, until
from tests.chassis.toys import Toy, approved, toy
from tests.ground import Database


def now() -> datetime:
    return datetime.now(UTC)


async def test_what_was_said_reaches_the_topic_in_order_with_its_envelope(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, producing(broker) as producer:
        # committed by a process that died before it sent
        await made.run(*(made.arrived(approved()) for _ in range(3)))
        before = await made.said()
        async with running(broker, tmp_path, made.on):
            for _ in range(20):
                await say(producer, approved())
            await until(lambda: _equal(made.rows("select count(*) from unsent"), [(0,)]))
            await until(lambda: _equal(_count(made), 23))
        records = await records_of(broker, BILLS)
        assert sorted(await made.said()) == sorted(dict(r.headers)["ce_subject"].decode() for r in records)
        assert [
            dict(r.headers)["ce_subject"].decode()
            for r in records
            if dict(r.headers)["ce_subject"].decode() in before
        ]
        headers = dict(records[0].headers)
        assert headers["ce_type"] == b"billing.bill_waived.v1"
        assert headers["traceparent"].split(b"-")[1].decode() == decode(records[0].value)["journey"]


async def test_an_operator_redrives_and_resumes_by_signed_orders(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with (
        toy(database) as made,
        producing(broker) as producer,
        partner("operators", broker, tmp_path) as operators,
    ):
        facts = [approved() for _ in range(30)]
        made.poisoned = {fact.enrollment_id for fact in facts}
        async with running(broker, tmp_path, made.on) as run:
            for fact in facts:
                await say(producer, fact)
            await until(lambda: _equal(made.rows("select count(*) from halt"), [(1,)]))
            assert run.halt.declared
            made.poisoned = set()

            resumed = await operators.ask(Resume(request_id="o-1", service="billing", operator="lin"))
            assert isinstance(resumed, Accepted)
            assert resumed.result == {"was_halted": True}
            counted = await operators.ask(Redrive(request_id="o-2", service="billing", operator="lin"))
            assert isinstance(counted, Accepted)
            assert counted.result["redriven"] == 0
            redriven = await operators.ask(
                Redrive(request_id="o-3", service="billing", operator="lin", dry_run=False)
            )
            assert isinstance(redriven, Accepted)
            assert redriven.result["redriven"] == counted.result["left"]
            await until(lambda: _equal(_count(made), 30))


async def test_an_order_that_fails_is_refused_and_the_next_one_is_done(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with (
        toy(database) as made,
        partner("operators", broker, tmp_path) as operators,
        running(broker, tmp_path, made.on),
    ):
        failing = Redrive(request_id="o-1", service="billing", operator="lin", seqs=[2**63], dry_run=False)
        answer = await operators.ask(failing)
        assert isinstance(answer, Rejected)
        assert answer.refusal.code == "UNDER_REPAIR"
        resumed = await operators.ask(Resume(request_id="o-2", service="billing", operator="lin"))
        assert isinstance(resumed, Accepted)


async def test_an_order_under_a_used_request_id_is_not_done(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, partner("operators", broker, tmp_path) as operators:
        fact = approved()
        made.poisoned = {fact.enrollment_id}
        await made.run(made.arrived(fact))
        made.poisoned = set()
        async with running(broker, tmp_path, made.on):
            await operators.ask(Redrive(request_id="o-1", service="billing", operator="lin"))
            other = Redrive(request_id="o-1", service="billing", operator="lin", dry_run=False)
            answer = await operators.ask(other)
            assert isinstance(answer, Rejected)
            assert answer.refusal.code == "IDEMPOTENCY_CONFLICT"
            assert await made.said() == []


async def test_a_lost_tail_of_a_topic_is_said_again_under_the_same_ids(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, partner("operators", broker, tmp_path) as operators:
        begin = now()
        async with running(broker, tmp_path, made.on):
            await made.run(*(made.arrived(approved()) for _ in range(3)))
            await until(lambda: _equal(made.rows("select count(*) from unsent"), [(0,)]))
            answer = await operators.ask(
                Republish(request_id="o-1", service="billing", operator="lin", since=begin)
            )
            assert isinstance(answer, Accepted)
            await until(lambda: _equal(made.rows("select count(*) from unsent"), [(0,)]))
        ids = [dict(record.headers)["ce_id"] for record in await records_of(broker, BILLS)]
        assert len(ids) == 6
        assert len(set(ids)) == 3


async def _count(made: Toy) -> int:
    return len(await made.said())


async def _equal(getting: Any, expected: Any) -> bool:
    got = await getting
    assert got == expected
    return True


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
