"""Does verify see each invariant broken? Each is broken on purpose, on a real database and a real broker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from cli import verify
from cli.invariants import INVARIANTS
from contracts.billing import BillWaived
from contracts.message import EnrollmentId, ObligationId, PersonId
from sandbox.stack import Stack
from services.chassis.ids import uuid7
from tests.cli.healthy import NOON, Year
from tests.ground import Database

EVERY = ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I12", "I13", "I14", "I15", "I16", "I20"]


@pytest.fixture
async def year(database: Database, broker: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Year]:
    monkeypatch.setattr(verify, "PATIENCE_SECONDS", 0.0)
    async with database.connect() as db:
        year = Year(broker, db)
        await year.live()
        yield year


async def broken(year: Year) -> dict[str, str]:
    return {result.id: result.what for result in await verify.check(year.stack) if not result.ok}


async def test_nothing_is_wrong_with_an_ordinary_year(year: Year) -> None:
    results = await verify.check(year.stack)
    assert [result.id for result in results] == EVERY
    assert {result.id: result.what for result in results if not result.ok} == {}
    assert all(result.rows == 0 for result in results)


async def test_nothing_is_wrong_with_an_empty_stack(database: Database, broker: Stack) -> None:
    assert all(result.ok for result in await verify.check(broker))


def changed(sql: str) -> Callable[[Year], Awaitable[None]]:
    async def change(year: Year) -> None:
        tag = await year.db.execute(sql)
        assert not tag.endswith(" 0"), "nothing was broken"

    return change


async def second_order(year: Year) -> None:
    await year.put_order(order_id=uuid7())


async def second_cover(year: Year) -> None:
    await year.put(
        "enrollment.coverage",
        person_id=year.person,
        region_code="990100",
        insurance_year=2025,
        enrollment_id=uuid7(),
        scheme="RESIDENT",
        status="ACTIVE",
        approved_at=NOON,
        paid_at=NOON,
        late=False,
        starts_on=date(2025, 1, 1),
        ends_on=date(2025, 12, 31),
        sequence=1,
    )


@pytest.mark.parametrize(
    ("invariant", "breaks"),
    [
        ("I1", changed("update payment.ledger set amount_fen = -39999 where leg = 2")),
        ("I1", changed("delete from payment.ledger where leg = 2")),
        ("I2", changed("update payment.receipt set amount_fen = 40001")),
        ("I2", Year.funds),
        ("I3", second_order),
        ("I3", changed("update payment.ledger set amount_fen = amount_fen * 2")),
        ("I4", changed("update payment.order_item set status = 'OPEN'")),
        ("I4", changed("update payment.order_item set amount_fen = 39900")),
        ("I4", changed("update payment.obligation set status = 'DUE'")),
        ("I5", Year.funds),
        ("I6", lambda year: year.bill(obligation_id=uuid7(), person_id=uuid7(), subsidy_fen=67001)),
        (
            "I6",
            changed(
                "update payment.outbox set payload = convert_to(replace(convert_from(payload, 'UTF8'),"
                " '40000', '400.5'), 'UTF8')"
            ),
        ),
        ("I7", second_cover),
        ("I8", changed("update billing.bill set status = 'ISSUED', order_id = null")),
        ("I13", changed("delete from billing.inbox")),
        ("I13", changed("delete from payment.obligation")),
        ("I13", changed("delete from notify.notification")),
        ("I16", changed("update billing.bill set status = 'ISSUED', order_id = null")),
        ("I16", changed("update enrollment.coverage set status = 'PENDING'")),
        ("I16", changed("delete from enrollment.coverage")),
    ],
)
async def test_a_broken_row_is_seen(
    year: Year, invariant: str, breaks: Callable[[Year], Awaitable[None]]
) -> None:
    await breaks(year)
    found = await broken(year)
    assert invariant in found, found
    assert "NOT SO" in found[invariant]
    assert "Do: " in found[invariant]


@pytest.mark.parametrize(
    ("invariant", "takes", "gives"),
    [
        (
            "I3",
            "alter table payment.receipt drop constraint pk_receipt",
            "alter table payment.receipt add constraint pk_receipt primary key (channel_code, channel_ref)",
        ),
        (
            "I4",
            "drop index payment.uq_order_item_settled",
            "create unique index uq_order_item_settled on payment.order_item (obligation_id)"
            " where status = 'SETTLED'",
        ),
        (
            "I7",
            "alter table enrollment.person drop constraint uq_person_identity_index",
            "alter table enrollment.person add constraint uq_person_identity_index unique (identity_index)",
        ),
    ],
)
async def test_a_missing_unique_index_is_seen(year: Year, invariant: str, takes: str, gives: str) -> None:
    await year.db.execute(takes)
    try:
        assert "has no unique index" in (await broken(year))[invariant]
    finally:
        await year.db.execute(gives)
    assert await broken(year) == {}


def waived(year: Year) -> BillWaived:
    return BillWaived(
        journey=year.journey,
        region_code="990100",
        person_id=PersonId(year.person),
        version=1,
        category="orphan",
        enrollment_id=EnrollmentId(year.enrollment),
        obligation_id=ObligationId(year.obligation),
        scheme="RESIDENT",
        insurance_year=2025,
        subsidy_fen=107000,
        policy="demo-2025/1",
        waived_at=NOON,
    )


async def test_a_row_that_never_reached_its_topic_is_seen(year: Year) -> None:
    await year.say("billing", waived(year), sequence=2, record=False)
    assert "does not have it" in (await broken(year))["I12"]


async def test_a_row_that_waits_to_be_sent_is_no_loss_until_it_waits_too_long(year: Year) -> None:
    await year.say("billing", waived(year), sequence=2, record=False)
    await year.put("billing.unsent", batch_id=len(year.events))
    assert await broken(year) == {}
    await year.db.execute("update billing.unsent set at = $1", datetime.now(UTC) - timedelta(minutes=2))
    assert "wait to be sent" in (await broken(year))["I12"]


@pytest.mark.parametrize("ce_id", ["", "x", "01931a00-0000-7000-8000-000000000001"])
async def test_a_record_that_nobody_of_ours_has_said_is_seen(year: Year, ce_id: str) -> None:
    head = [("ce_id", ce_id.encode()), ("ce_type", b"billing.bill_waived.v1")]
    year.send("billing.bills", b"{}", head)
    assert "stands in no outbox" in (await broken(year))["I12"]


async def test_a_fact_that_was_passed_over_is_seen(year: Year) -> None:
    await year.say("billing", waived(year), sequence=2)
    await year.progress("payment", "bulk", "billing.bills", year.offsets["BillWaived"])
    found = await broken(year)
    assert "payment has consumed billing.bills" in found["I14"]
    assert "for new" in found["I20"]
    await year.park("payment", event_id=year.events["BillWaived"])
    assert await broken(year) == {}


async def test_a_command_without_an_answer_is_seen(year: Year) -> None:
    head = [("ce_type", b"payment.start_payment.v1")]
    offset = year.send("channels.wechat", b'{"request_id": "r-77"}', head)
    assert await broken(year) == {}
    await year.progress("payment", "money", "channels.wechat", offset)
    assert "channels.wechat" in (await broken(year))["I14"]
    await year.put(
        "payment.request", partner="wechat", request_id="r-77", command="x", digest=b"", key=year.person
    )
    assert await broken(year) == {}


async def test_garbage_that_was_consumed_and_not_parked_is_seen(year: Year) -> None:
    offset = year.send("channels.wechat", b"\x00\xff", [])
    await year.progress("enrollment", "money", "channels.wechat", offset)
    assert "channels.wechat" in (await broken(year))["I14"]
    await year.park(
        "enrollment",
        state="QUARANTINED",
        reason="BODY_INVALID",
        topic="channels.wechat",
        partition=year.part,
        **{'"offset"': offset},
    )
    assert await broken(year) == {}


async def test_an_offset_committed_before_its_work_is_seen(year: Year) -> None:
    admin = AdminClient({"bootstrap.servers": year.stack.kafka_admin, "log_level": 0})
    offset = year.offsets["PaymentSettled"]

    def commit(to: int) -> None:
        told = ConsumerGroupTopicPartitions(
            "billing-money", [TopicPartition("payment.payments", year.part, to)]
        )
        admin.alter_consumer_group_offsets([told])["billing-money"].result()

    commit(offset + 1)
    assert await broken(year) == {}
    commit(offset + 2)
    assert "billing-money committed" in (await broken(year))["I15"]


async def test_an_older_person_than_was_read_is_seen(year: Year) -> None:
    head = [("ce_id", uuid7().encode()), ("ce_type", b"enrollment.person_recorded.v1"), ("ce_sequence", b"2")]
    offset = year.send("enrollment.people", b"{}", head)
    await year.put("payment.person", person_id=year.person, identity="{}", sequence=1)
    assert "I20" not in await broken(year)
    await year.progress("payment", "bulk", "enrollment.people", offset)
    assert "older version" in (await broken(year))["I20"]
    await year.db.execute("update payment.person set sequence = 2")
    assert "I20" not in await broken(year)


async def test_what_catches_up_in_time_is_not_broken(year: Year, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PATIENCE_SECONDS", 20.0)
    await year.db.execute("update enrollment.coverage set status = 'PENDING'")
    asking = asyncio.create_task(verify.check(year.stack))
    looks = "query like '%its coverage is%'"
    seen_broken = f"select exists (select from pg_stat_activity where usename = 'auditor' and {looks})"
    async with asyncio.timeout(10):
        while not await year.db.fetchval(seen_broken):
            await asyncio.sleep(0.01)
    await year.db.execute("update enrollment.coverage set status = 'ACTIVE'")
    assert all(result.ok for result in await asking)


def test_every_invariant_is_named_once_and_says_what_to_do() -> None:
    assert len({invariant.id for invariant in INVARIANTS}) == len(INVARIANTS)
    assert all(invariant.says and invariant.todo for invariant in INVARIANTS)
    assert {i.id for i in INVARIANTS} <= set(EVERY)
