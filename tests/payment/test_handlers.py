"""What does payment do when someone pays through a provider? Given what is due, then books, facts and
answers.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from contracts.answers import Accepted
from contracts.payment import PaymentSettled
from services.chassis.ids import uuid7
from services.payment.rules import OrderPlaced, OrderState
from tests.ground import Database
from tests.payment.scene import (
    PAID_AT,
    assert_books_balance,
    bill,
    callback,
    cart,
    known,
    order_status,
    ordered,
    recorded,
    reported,
    status_of,
    suspended,
)
from tests.people import LI_NA, WANG_JUN
from tests.world import World, reason_of, refused, world_of


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """Payment at noon; each test ends with books that balance and money that is all accounted for."""
    async with world_of("payment", database) as world:
        yield world
        await assert_books_balance(world)


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


async def test_a_bill_that_is_not_known_yet_is_refused_and_may_be_tried_again(world: World) -> None:
    await known(world, LI_NA)
    await world.when(cart(LI_NA))

    (answer,) = world.answers
    assert reason_of(answer) == "BILL_NOT_FOUND"
    assert await world.calls() == []


async def test_another_channels_bill_is_no_bill_to_a_channel_until_it_has_identified_the_person(
    world: World,
) -> None:
    await world.when(bill(LI_NA), bill(WANG_JUN), LI_NA.identified("wechat"), WANG_JUN.identified("alipay"))

    await world.when(cart(WANG_JUN, LI_NA, request_id="cart-2"), by="alipay")
    assert [reason_of(answer) for answer in world.answers] == ["BILL_NOT_FOUND"]
    assert await status_of(world, LI_NA) == ("DUE", False)

    await world.when(LI_NA.identified("alipay"))
    await world.when(cart(WANG_JUN, LI_NA, request_id="cart-3"), by="alipay")
    assert world.answers == []  # the order is on its way to the provider


async def test_a_payer_whom_the_channel_has_not_identified_pays_nothing(world: World) -> None:
    await world.when(bill(LI_NA), LI_NA.identified("wechat"))

    await world.when(cart(LI_NA), by="alipay")

    (answer,) = world.answers
    assert (reason_of(answer), refused(answer).field) == ("PERSON_NOT_FOUND", "person_id")


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


async def test_unpaid_orders_of_strangers_never_wait_for_each_other(world: World) -> None:
    await world.when(bill(LI_NA), bill(WANG_JUN))
    orders = [await ordered(world, each, request_id=f"cart-{each.person_id}") for each in (LI_NA, WANG_JUN)]

    of_state = world.on.by_type["OrderState"].refs
    one, other = (of_state(OrderState(**order, round=0, state="USERPAYING")) for order in orders)

    assert set(one).isdisjoint(other)
