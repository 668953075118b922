"""Does everything that was said reach its topic, and can nothing block those behind it?"""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from msgspec.json import decode
from typing_extensions import override

from contracts.answers import Accepted
from contracts.billing import BILLS, QueryBill
from contracts.enrollment import EnrollmentApproved
from contracts.operations import Republish
from contracts.topics import MAX_MESSAGE_BYTES
from sandbox.stack import Stack
from services.chassis.database import connect
from services.chassis.ids import uuid7
from services.chassis.relay import AT_MOST, Memory, Relay, send_again
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.transaction import Transaction
from tests.chassis.running import partner, producing, records_of, running, say, until
from tests.chassis.toys import NOON, Toy, approved, person, toy, waived
from tests.ground import Database


class Slow(AIOKafkaProducer):  # type: ignore[misc]
    """A producer whose broker takes its time."""

    def __init__(self, stack: Stack, ready: asyncio.Event) -> None:
        super().__init__(bootstrap_servers=stack.kafka_admin, acks="all")
        self.ready, self.begun = ready, asyncio.Event()

    @override
    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        self.begun.set()
        await self.ready.wait()
        return await super().send_batch(batch, topic, partition=partition)


async def test_a_relay_whose_broker_is_slow_keeps_its_session(
    database: Database, broker: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.chassis.database.IDLE_SECONDS", 0.6)
    ready = asyncio.Event()
    async with toy(database) as made, Slow(broker, ready) as slow:
        await made.run(made.arrived(approved()))
        session = await connect(database.url("billing"), "relay")
        await session.execute("set idle_session_timeout = '600ms'")
        turn = asyncio.create_task(Relay("billing", Memory(), slow).turn(session))
        await slow.begun.wait()
        ((began,),) = await made.rows("select clock_timestamp()")

        async def silent_for_long() -> bool:
            return await made.rows("select clock_timestamp() - interval '2 s' > $1", began) == [(True,)]

        await until(silent_for_long)
        ready.set()

        assert await turn == 1
        assert await made.rows("select count(*) from unsent") == [(0,)]
        await session.close()


async def test_a_batch_whose_rows_are_not_found_stays_to_be_sent(database: Database, broker: Stack) -> None:
    async with toy(database) as made, Slow(broker, asyncio.Event()) as slow:
        await made.db.execute("insert into unsent default values")

        with pytest.raises(LookupError, match="is to be sent"):
            await Relay("billing", Memory(), slow).turn(made.db)

        assert await made.rows("select count(*) from unsent") == [(1,)]


async def test_what_goes_out_while_all_is_to_be_said_again_goes_out_again_behind_the_rest(
    database: Database, broker: Stack
) -> None:
    """On a compacted topic what stands last is what counts."""
    ready = asyncio.Event()
    async with toy(database) as made, Slow(broker, ready) as slow, producing(broker) as fast:
        person_id, begin = uuid7(), datetime.now(UTC)
        old, new = approved(person_id=person_id), approved(person_id=person_id)
        await made.run(made.arrived(old))
        await Relay("billing", Memory(), fast).turn(made.db)
        await made.run(made.arrived(new))
        session = await connect(database.url("billing"), "relay")
        relay = Relay("billing", Memory(), slow)
        turn = asyncio.create_task(relay.turn(session))
        await slow.begun.wait()
        assert await send_again(made.db, begin) == 2
        ready.set()
        await turn
        await relay.turn(session)
        await session.close()

        said = [decode(record.value)["enrollment_id"] for record in await records_of(broker, BILLS)]
        assert said == [fact.enrollment_id for fact in (old, new, old, new)]


async def test_a_relay_looks_again_at_once_only_while_a_turn_leaves_something(
    database: Database, broker: Stack
) -> None:
    async with toy(database) as made, producing(broker) as producer:
        for _ in range(AT_MOST + 1):
            await made.run(made.arrived(approved()))
        memory = Memory()
        relay = Relay("billing", memory, producer)

        assert (await relay.turn(made.db), memory.fresh.is_set()) == (AT_MOST, True)
        memory.fresh.clear()
        assert (await relay.turn(made.db), memory.fresh.is_set()) == (1, False)


class Talkative(Toy):
    """Answers a question with more than anybody reads."""

    @override
    def _subscriptions(self) -> Subscriptions:
        on = Subscriptions("billing")

        @on(QueryBill, refs=lambda c: [person(c.person_id)])
        async def query(commands: Batch[QueryBill], tx: Transaction) -> None:
            for command in commands:
                tx.accept(command, much="參" * MAX_MESSAGE_BYTES)

        @on(EnrollmentApproved, refs=lambda f: [person(f.person_id)], lane="money")
        async def bill(facts: Batch[EnrollmentApproved], tx: Transaction) -> None:
            for fact in facts:
                tx.publish(waived(fact.enrollment_id, fact.person_id, tx.now), sequence=1)

        return on


async def test_an_answer_too_large_to_send_is_parked_and_blocks_nothing_behind_it(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database, Talkative) as made:
        ask = QueryBill(request_id="r-1", person_id=uuid7(), insurance_year=2025)
        await made.run(made.arrived(ask))
        await made.run(made.arrived(fact := approved()))

        async with running(broker, tmp_path, made.on):
            await until(lambda: sent(made, 1))

        assert [r.key.decode() for r in await records_of(broker, BILLS)] == [fact.person_id]
        assert await made.rows("select state, reason from parked") == [("PARKED", "HANDLER_FAILED")]
        assert await made.said("answer.rejected.v1") == ["r-1"]


async def test_what_was_said_reaches_its_topic_in_order_with_its_envelope(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, producing(broker) as producer:
        # committed by a process that died before it sent
        for _ in range(6):
            await made.run(*(made.arrived(approved()) for _ in range(5)))
        async with running(broker, tmp_path, made.on):
            for _ in range(100):
                await say(producer, approved())
            await until(lambda: sent(made, 130))
        said = await in_order(made)
        records = await records_of(broker, BILLS)

        assert by_partition((r.partition, dict(r.headers)["ce_id"].decode()) for r in records) == said
        headers = dict(records[0].headers)
        assert headers["ce_type"] == b"billing.bill_waived.v1"
        assert headers["traceparent"].split(b"-")[1].decode() == decode(records[0].value)["journey"]


async def test_a_lost_tail_of_a_topic_is_said_again_under_the_same_ids_in_the_same_order(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, partner("operators", broker, tmp_path) as operators:
        async with running(broker, tmp_path, made.on):
            await made.run(*(made.arrived(approved()) for _ in range(10)))
            await until(lambda: sent(made, 10))
            begin = datetime.now(UTC)
            for _ in range(5):
                await made.run(*(made.arrived(approved()) for _ in range(10)))
            await until(lambda: sent(made, 60))
            order = Republish(request_id="o-1", service="billing", operator="lin", since=begin)
            answer = await operators.ask(order)
            assert isinstance(answer, Accepted)
            assert answer.result == {"batches": 5}
            await until(lambda: sent(made, 60))
        whole, tail = await in_order(made), await in_order(made, since=begin)
        records = await records_of(broker, BILLS)

        heard = by_partition((r.partition, dict(r.headers)["ce_id"].decode()) for r in records)
        assert heard == {part: ids + tail.get(part, []) for part, ids in whole.items()}


async def in_order(made: Toy, since: datetime = NOON) -> dict[int, list[str]]:
    """Event ids of the bills that were said, by partition, as they were said."""
    sql = "select part, ce_id::text from outbox where topic = $1 and at >= $2 order by batch_id, n"
    return by_partition(await made.rows(sql, BILLS, since))


def by_partition(rows: Iterable[tuple[Any, ...]]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for part, ce_id in rows:
        found.setdefault(part, []).append(ce_id)
    return found


async def sent(made: Toy, count: int) -> bool:
    """So many bills were said, and nothing waits to be sent."""
    return len(await made.said()) == count and await made.rows("select count(*) from unsent") == [(0,)]
