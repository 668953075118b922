"""What does payment do? Given what is due, when someone pays, then books, facts and answers."""

from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from contracts.answers import Accepted
from contracts.billing import BillIssued
from contracts.enrollment import Contact, Identity, PersonRecorded
from contracts.payment import CartItem, FundsUnmatched, PaymentSettled, ReportPayment, StartPayment
from services.chassis.ids import uuid7
from services.payment import store
from services.payment.rules import OrderPlaced, OrderRefused, OrderState, ProviderPaid, number_of
from tests.ground import Database
from tests.people import LI_NA, REGION, WANG_JUN, YEAR, Citizen, instant
from tests.world import World, keyring, reason_of, world_of

PAID_AT = instant("2024-12-20T11:58+08:00")


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """Payment at noon; each test ends with books that balance and money that is all accounted for."""
    async with world_of("payment", database) as world:
        yield world
        await assert_books_balance(world)


async def assert_books_balance(world: World) -> None:
    """I1, I2 and I4 of the invariants."""
    accounts = dict(await world.db.fetch("select account, sum(amount_fen)::bigint from ledger group by 1"))
    receipts = await world.db.fetchval("select coalesce(sum(amount_fen), 0)::bigint from receipt")
    suspense = await world.db.fetchval("select coalesce(sum(amount_fen), 0)::bigint from funds")
    settled = await world.db.fetchval(
        "select coalesce(sum(amount_fen), 0)::bigint from order_item where status = 'SETTLED'"
    )
    assert sum(accounts.values()) == 0
    assert accounts.get(1002, 0) == receipts == settled + suspense
    assert (accounts.get(2202, 0), accounts.get(2203, 0)) == (-settled, -suspense)
    assert not await world.db.fetch(
        "select from obligation o full join order_item i using (obligation_id)"
        " where (o.status = 'SETTLED') <> (i.status = 'SETTLED') and i.status <> 'SUSPENSE'"
    )


def bill(citizen: Citizen, *, version: int = 1, fen: int = 40_000) -> BillIssued:
    return BillIssued(
        journey=citizen.journey, region_code=REGION, person_id=citizen.person_id,
        enrollment_id=citizen.enrollment_id, obligation_id=citizen.obligation_id, version=version,
        scheme="RESIDENT", insurance_year=YEAR, item="RESIDENT_MEDICAL_ANNUAL", category="", lines=[],
        due_fen=fen, subsidy_fen=67_000, closes_on=date(2025, 3, 31), policy="demo-2025/1", explanation=[],
    )  # fmt: skip


def recorded(citizen: Citizen) -> PersonRecorded:
    ring = keyring("enrollment")
    card = Identity(name=citizen.name, id_number=citizen.id_number)
    contact = Contact(name=citizen.name, phone=citizen.phone)
    return PersonRecorded(
        person_id=citizen.person_id, region_code=REGION, name_masked=citizen.name[0] + "*",
        for_payment=ring.seal(card, reader="payment", place=citizen.person_id),
        for_notify=ring.seal(contact, reader="notify", place=citizen.person_id),
    )  # fmt: skip


def reported(
    world: World, citizen: Citizen, *, ref: str = "bank-1", request_id: str = "", **more: Any
) -> ReportPayment:
    card = Identity(name=citizen.name, id_number=citizen.id_number)
    command = ReportPayment(
        request_id=request_id or f"r-{ref}", person_id=citizen.person_id, obligation_id=citizen.obligation_id,
        insurance_year=YEAR, amount_fen=40_000, channel_ref=ref, paid_at=PAID_AT, method="CASH",
        payer_saw=world.seal(card, by="bank", place=ref),
    )  # fmt: skip
    return replace(command, **more)


def cart(*citizens: Citizen, request_id: str = "cart-1", fen: int = 40_000) -> StartPayment:
    items = [
        CartItem(person_id=each.person_id, obligation_id=each.obligation_id, version=1, amount_fen=fen)
        for each in citizens
    ]
    return StartPayment(
        request_id=request_id, person_id=citizens[0].person_id, provider="wechat", items=items
    )


async def ordered(world: World, *citizens: Citizen, request_id: str = "cart-1") -> dict[str, Any]:
    """A started payment, as everything said about its order names it."""
    await world.when(cart(*citizens, request_id=request_id), by="alipay")
    order_id = await world.db.fetchval("select order_id::text from orders where request_id = $1", request_id)
    return {
        "order_id": order_id,
        "order_no": number_of(order_id),
        "person_id": citizens[0].person_id,
        "obligation_ids": [each.obligation_id for each in citizens],
    }


def callback(order: dict[str, Any], *, fen: int = 40_000, transaction: str = "4200-1") -> ProviderPaid:
    return ProviderPaid(
        **order, notice_id=transaction, state="SUCCESS", amount_fen=fen, payer_fen=fen, currency="CNY",
        transaction_id=transaction, paid_at=PAID_AT,
    )  # fmt: skip


async def status_of(world: World, citizen: Citizen) -> tuple[str, bool]:
    """Of the obligation: its state, and whether an order holds it."""
    (due,) = await world.kept(store.OBLIGATIONS, obligation_id=citizen.obligation_id)
    return due.status, due.order_id is not None


async def order_status(world: World, order: dict[str, Any]) -> str:
    (kept,) = await world.kept(store.ORDERS, order_id=order["order_id"])
    return kept.status


def suspended(world: World) -> list[tuple[str, int]]:
    """Reason and amount of what the last batch kept apart."""
    return [(fact.reason, fact.amount_fen) for fact in world.published if isinstance(fact, FundsUnmatched)]


# Through a provider


async def test_a_payer_hears_where_to_pay_once_the_provider_has_taken_the_order(world: World) -> None:
    await world.when(bill(LI_NA))

    order = await ordered(world, LI_NA)

    assert world.answers == []  # it comes with the provider's word
    assert await world.calls() == [("PlaceOrder", order["order_no"])]
    assert await status_of(world, LI_NA) == ("DUE", True)

    await world.tell(OrderPlaced(**order, amount_fen=40_000, pay_url="weixin://pay/1"))

    (answer,) = world.answers
    assert isinstance(answer, Accepted)
    assert (answer.request_id, answer.command) == ("cart-1", "payment.start_payment.v1")
    assert answer.result == {
        "order_id": order["order_id"],
        "order_no": order["order_no"],
        "amount_fen": 40_000,
        "pay_url": "weixin://pay/1",
    }


async def test_a_second_channel_is_locked_out_until_the_provider_refuses_the_first(world: World) -> None:
    await world.when(bill(LI_NA))
    order = await ordered(world, LI_NA)

    await world.when(cart(LI_NA, request_id="cart-2"))
    assert [reason_of(answer) for answer in world.answers] == ["BILL_LOCKED"]  # G13

    await world.tell(OrderRefused(**order, code="SYSTEM_BUSY", detail=""))
    assert [reason_of(answer) for answer in world.answers] == ["CHANNEL_DOWN"]
    assert (await order_status(world, order), await status_of(world, LI_NA)) == ("FAILED", ("DUE", False))

    await world.when(cart(LI_NA, request_id="cart-3"))
    assert world.answers == []


async def test_a_bill_that_is_not_known_yet_is_refused_and_may_be_tried_again(world: World) -> None:
    await world.when(cart(LI_NA))

    (answer,) = world.answers
    assert reason_of(answer) == "BILL_NOT_FOUND"
    assert await world.calls() == []


async def test_a_callback_settles_each_bill_of_a_family_cart(world: World) -> None:
    await world.when(bill(LI_NA), bill(WANG_JUN))
    order = await ordered(world, LI_NA, WANG_JUN)

    await world.tell(callback(order, fen=80_000))

    facts = [fact for fact in world.published if isinstance(fact, PaymentSettled)]
    assert [(fact.person_id, fact.item, fact.amount_fen, fact.channel_ref) for fact in facts] == [
        (LI_NA.person_id, 0, 40_000, "4200-1"),
        (WANG_JUN.person_id, 1, 40_000, "4200-1"),
    ]
    assert {fact.paid_at for fact in facts} == {PAID_AT}
    assert await order_status(world, order) == "SETTLED"
    assert await status_of(world, WANG_JUN) == ("SETTLED", True)


async def test_a_repeated_callback_has_one_effect(world: World) -> None:
    await world.when(bill(LI_NA))
    order = await ordered(world, LI_NA)

    await world.tell(callback(order), callback(order))
    assert len(world.published) == 1

    await world.tell(callback(order))
    assert world.published == []


async def test_a_wrong_amount_goes_to_suspense_and_the_bill_stays_due(world: World) -> None:
    await world.when(bill(LI_NA))
    order = await ordered(world, LI_NA)

    await world.tell(callback(order, fen=39_999))

    assert suspended(world) == [("AMOUNT_MISMATCH", 39_999)]  # G16
    assert (await order_status(world, order), await status_of(world, LI_NA)) == ("FAILED", ("DUE", False))


async def test_money_for_an_order_that_we_never_made_is_kept(world: World) -> None:
    stranger = {"order_id": uuid7(), "order_no": "somebody's", "person_id": "", "obligation_ids": []}

    await world.tell(callback(stranger))

    assert suspended(world) == [("ORDER_UNKNOWN", 40_000)]


async def test_a_late_success_after_the_counter_was_paid_is_money_paid_twice(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA))
    order = await ordered(world, LI_NA)
    await world.when(reported(world, LI_NA), by="bank")
    assert await status_of(world, LI_NA) == ("SETTLED", True)

    await world.tell(callback(order))

    assert suspended(world) == [("PAID_TWICE", 40_000)]  # G14
    assert await order_status(world, order) == "DUPLICATE"


async def test_without_a_callback_we_ask_by_plan_and_the_answer_counts_like_one(world: World) -> None:
    await world.when(bill(LI_NA))
    order = await ordered(world, LI_NA)

    await world.later("2024-12-20T12:00:40+08:00")
    assert ("AskOrder", f"{order['order_no']}.0") in await world.calls()

    await world.tell(OrderState(**order, round=0, state="USERPAYING"))
    await world.later("2024-12-20T12:02:10+08:00")
    assert ("AskOrder", f"{order['order_no']}.1") in await world.calls()

    paid: dict[str, Any] = {"transaction_id": "4200-1", "paid_at": PAID_AT, "amount_fen": 40_000}
    await world.tell(OrderState(**order, round=1, state="SUCCESS", **paid))
    assert [type(fact) for fact in world.published] == [PaymentSettled]

    await world.tell(callback(order))  # the callback comes after all
    assert world.published == []


async def test_an_order_that_nobody_pays_expires_and_its_late_money_still_settles(world: World) -> None:
    await world.when(bill(LI_NA))
    order = await ordered(world, LI_NA)
    await world.tell(OrderState(**order, round=4, state="NOTPAY"))
    assert (await order_status(world, order), await status_of(world, LI_NA)) == ("EXPIRED", ("DUE", False))

    await world.tell(callback(order))

    assert [type(fact) for fact in world.published] == [PaymentSettled]
    assert await order_status(world, order) == "SETTLED"


async def test_money_for_an_older_version_settles_the_version_that_the_payer_saw(world: World) -> None:
    await world.when(bill(LI_NA))
    order = await ordered(world, LI_NA)
    await world.when(bill(LI_NA, version=2, fen=12_000))

    await world.tell(callback(order))

    (fact,) = world.published
    assert isinstance(fact, PaymentSettled)
    assert (fact.version, fact.amount_fen) == (1, 40_000)


# At a counter


async def test_a_counters_money_settles_the_bill_in_one_go(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA))

    await world.when(reported(world, LI_NA), by="bank")

    (answer,) = world.answers
    assert isinstance(answer, Accepted)
    (fact,) = [fact for fact in world.published if isinstance(fact, PaymentSettled)]
    assert (fact.channel_code, fact.channel_ref, fact.paid_at) == ("bank", "bank-1", PAID_AT)
    assert answer.result == {"order_id": fact.order_id, "status": "SETTLED", "reason": ""}


async def test_a_report_under_another_request_id_hears_the_first_answer(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA))
    await world.when(reported(world, LI_NA), by="bank")
    (first,) = world.answers

    await world.when(reported(world, LI_NA, request_id="again"), by="bank")

    (second,) = world.answers
    assert isinstance(first, Accepted) and isinstance(second, Accepted)
    assert first.result == second.result
    assert world.published == []


async def test_two_reports_of_one_payment_in_one_batch_count_once(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA))

    await world.when(reported(world, LI_NA), reported(world, LI_NA, request_id="again"), by="bank")

    assert len(world.answers) == 2
    assert len(world.published) == 1


async def test_one_number_for_two_people_in_one_batch_counts_once(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA), bill(WANG_JUN), recorded(WANG_JUN))

    await world.when(reported(world, LI_NA), reported(world, WANG_JUN, request_id="another"), by="bank")

    assert sorted(reason_of(answer) for answer in world.answers) == ["", "IDEMPOTENCY_CONFLICT"]


async def test_one_number_for_two_payments_is_refused(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA), bill(WANG_JUN), recorded(WANG_JUN))
    await world.when(reported(world, LI_NA), by="bank")

    await world.when(reported(world, WANG_JUN, request_id="another"), by="bank")

    assert [reason_of(answer) for answer in world.answers] == ["IDEMPOTENCY_CONFLICT"]
    assert await status_of(world, WANG_JUN) == ("DUE", False)


async def test_money_from_somebody_else_goes_to_suspense_with_its_reason(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA))
    wrong = world.seal(Identity(name="张三", id_number=LI_NA.id_number), by="bank", place="bank-1")

    await world.when(reported(world, LI_NA, payer_saw=wrong), by="bank")

    (answer,) = world.answers
    assert isinstance(answer, Accepted)
    assert answer.result == {"order_id": "", "status": "SUSPENSE", "reason": "PERSON_MISMATCH"}
    assert suspended(world) == [("PERSON_MISMATCH", 40_000)]
    assert await status_of(world, LI_NA) == ("DUE", False)


async def test_a_bank_that_overtakes_bill_and_person_waits_for_both(world: World) -> None:
    await world.when(reported(world, LI_NA), by="bank")
    assert (world.answers, await world.parked()) == ([], [("AWAITS", "AWAITS_GROUND")])

    await world.when(recorded(LI_NA))
    assert (world.answers, await world.parked()) == ([], [("AWAITS", "AWAITS_GROUND")])

    await world.when(bill(LI_NA))

    assert [reason_of(answer) for answer in world.answers] == [""]
    assert [type(fact) for fact in world.published] == [PaymentSettled]
    assert await world.parked() == []


async def test_money_for_a_bill_that_never_comes_stands_in_suspense_after_a_while(world: World) -> None:
    await world.when(recorded(LI_NA))
    await world.when(reported(world, LI_NA), by="bank")
    await world.db.execute("update parked set first_at = first_at - $1::interval", timedelta(minutes=10))

    await world.when(recorded(LI_NA))  # touches the person only: the report waits for the bill
    assert world.answers == []
    await world.engine.redrive(world.db, [await world.db.fetchval("select seq from parked")])
    await world.listen()

    assert suspended(world) == [("BILL_NOT_FOUND", 40_000)]
    assert [reason_of(answer) for answer in world.answers] == [""]


# The database's last line


async def test_an_entry_that_does_not_balance_cannot_be_written(world: World) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="two legs"):
        await world.db.execute(
            "insert into ledger(entry_id, leg, account, amount_fen, posted_at) values"
            " (gen_random_uuid(), 1, 1002, 5, now())"
        )


async def test_the_books_cannot_be_changed_afterwards(world: World) -> None:
    for statement in (
        "update ledger set amount_fen = 1",
        "delete from ledger",
        "update receipt set reason = ''",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await world.db.execute(statement)


async def test_an_obligation_cannot_be_settled_twice(world: World) -> None:
    await world.when(bill(LI_NA), recorded(LI_NA))
    await world.when(reported(world, LI_NA), by="bank")

    with pytest.raises(asyncpg.UniqueViolationError):
        await world.db.execute(
            "insert into order_item select gen_random_uuid(), item, person_id, obligation_id, version,"
            " amount_fen, status from order_item"
        )
