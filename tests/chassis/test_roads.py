"""Do all roads end in the same engine? The door, timers, calls, the relay, and an operator's orders."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec import Struct
from msgspec.json import decode

from contracts.answers import Accepted, Rejected
from contracts.billing import BILLS
from contracts.operations import AdvanceClock, Redrive, Republish, Resume
from sandbox.stack import Stack
from services.chassis.calls import NotSent, Unknown
from services.chassis.ids import uuid7
from services.chassis.subscriptions import Batch
from services.chassis.transaction import Transaction
from tests.chassis.running import partner, producing, running, say, until
from tests.chassis.toys import NOON, Remind, Toy, approved, owes, toy, waived
from tests.ground import Database


def now() -> datetime:
    return datetime.now(UTC)


async def test_a_timer_runs_at_its_instant_and_that_is_its_now(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made:
        due, later = NOON, now() + timedelta(days=400)

        @made.on(Later, refs=lambda message: [])
        async def set_timers(messages: Batch[Later], tx: Transaction) -> None:
            for message in messages:
                tx.at(due, Remind(enrollment_id=message.enrollment_id))
                tx.at(later, Remind(enrollment_id=uuid7()))

        async with running(broker, tmp_path, made.on) as run:
            first = uuid7()
            await run.door.tell(Later(enrollment_id=first))
            await until(lambda: _equal(made.said(), [first]))
            assert await made.rows("select ce_time from outbox where seq = 3") == [(due,)]
            assert len(await made.rows("select id from job")) == 1

            async with partner("operators", broker, tmp_path) as operators:
                order = AdvanceClock(
                    request_id="o-1", service="billing", operator="lin", to=later + timedelta(hours=1)
                )
                answer = await operators.ask(order)
            assert isinstance(answer, Accepted)
            assert await made.rows("select count(*) from job") == [(0,)]
            assert (await made.rows("select ce_time from outbox where seq = 3 order by batch_id"))[1] == (
                later,
            )


class Later(Struct, frozen=True, kw_only=True):
    """Asks for timers, or for a call."""

    enrollment_id: str


class Send(Struct, frozen=True, kw_only=True):
    """A request to a provider."""

    enrollment_id: str


class Sent(Struct, frozen=True, kw_only=True):
    """Its outcome."""

    enrollment_id: str


class Provider:
    """Takes every request and then loses its first answer; afterwards it knows what it took."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.asked = 0

    async def send(self, request: Struct) -> Struct:
        assert isinstance(request, Send)
        if not self.taken and self.asked == 0:
            self.taken.append(request.enrollment_id)
            raise Unknown("the answer was lost")
        raise NotSent("refused before it was read")

    async def ask(self, request: Struct) -> Struct | None:
        assert isinstance(request, Send)
        self.asked += 1
        return Sent(enrollment_id=request.enrollment_id) if request.enrollment_id in self.taken else None


async def test_an_unknown_outcome_is_asked_for_and_never_sent_again(
    database: Database, broker: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Provider()
    async with toy(database) as made:
        @made.on(Later, refs=lambda message: [owes(message.enrollment_id)])
        async def ask_outside(messages: Batch[Later], tx: Transaction) -> None:
            for message in messages:
                tx.call(Send(enrollment_id=message.enrollment_id), number=message.enrollment_id)

        @made.on(Sent, refs=lambda message: [owes(message.enrollment_id)])
        async def hear(messages: Batch[Sent], tx: Transaction) -> None:
            for message in messages:
                tx.publish(waived(message.enrollment_id, uuid7(), tx.now), sequence=1)

        async with running(broker, tmp_path, made.on, gateways={Send: provider}) as run:
            one = uuid7()
            await run.door.tell(Later(enrollment_id=one))
            await until(lambda: _equal(made.said(), [one]))
        assert provider.taken == [one]
        assert await made.rows("select count(*) from call") == [(0,)]


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
