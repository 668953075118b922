"""Who may pay while somebody else does, and is a bill that nobody pays ever locked for good?"""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from contracts.billing import BillWaived
from contracts.payment import StartPayment
from services.payment.rules import OrderRefused, OrderState
from tests.ground import Database
from tests.payment.scene import (
    assert_books_balance,
    bill,
    callback,
    cart,
    order_status,
    ordered,
    status_of,
    suspended,
)
from tests.people import LI_NA, WANG_JUN, Citizen
from tests.world import World, reason_of, refused, world_of


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """Payment at noon; each test ends with books that balance and money that is all accounted for."""
    async with world_of("payment", database) as world:
        yield world
        await assert_books_balance(world)


def waiver(citizen: Citizen, *, version: int) -> BillWaived:
    return replace(citizen.bill_waived(), version=version)


def again(citizen: Citizen, *, version: int) -> StartPayment:
    """The citizen wants to pay the newest bill."""
    wish = cart(citizen, request_id=f"again-{version}")
    return replace(wish, items=[replace(wish.items[0], version=version)])


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


async def test_money_for_a_waived_bill_leaves_it_free_to_be_paid_when_it_is_due_again(world: World) -> None:
    await world.when(bill(LI_NA))
    order = await ordered(world, LI_NA)
    await world.when(waiver(LI_NA, version=2))

    await world.tell(callback(order))
    assert suspended(world) == [("BILL_NOT_PAYABLE", 40_000)]
    assert (await order_status(world, order), await status_of(world, LI_NA)) == (
        "DUPLICATE",
        ("WAIVED", False),
    )

    await world.when(bill(LI_NA, version=3))
    await world.when(again(LI_NA, version=3))
    assert world.answers == []  # the order is on its way to the provider


async def test_a_family_cart_with_one_bill_waived_locks_neither_afterwards(world: World) -> None:
    await world.when(bill(LI_NA), bill(WANG_JUN))
    order = await ordered(world, LI_NA, WANG_JUN)
    await world.when(waiver(WANG_JUN, version=2))

    await world.tell(callback(order, fen=80_000))

    assert await status_of(world, LI_NA) == ("SETTLED", True)
    assert await status_of(world, WANG_JUN) == ("WAIVED", False)


@pytest.mark.parametrize(
    "end",
    [
        {"round": 4, "state": "NOTPAY"},
        {"round": 0, "state": "CLOSED"},
        {"round": 0, "state": "SUCCESS", "transaction_id": "1", "paid_at": "2024-12-20T04:00:00Z",
         "amount_fen": 39_999},
    ],
    ids=["nobody paid", "the provider closed it", "another amount"],
)  # fmt: skip
async def test_an_order_that_ends_while_its_bill_is_waived_leaves_no_lock(
    world: World, end: dict[str, Any]
) -> None:
    await world.when(bill(LI_NA))
    order = await ordered(world, LI_NA)
    await world.when(waiver(LI_NA, version=2))

    await world.tell(msgspec.convert({**order, **end}, OrderState))

    assert await status_of(world, LI_NA) == ("WAIVED", False)


async def test_a_lock_has_an_end_though_the_provider_never_says_what_became_of_the_order(
    world: World,
) -> None:
    await world.when(bill(LI_NA))
    order = await ordered(world, LI_NA)

    await world.at("2024-12-20T13:04+08:00")
    await world.when(again(LI_NA, version=1))
    assert [reason_of(answer) for answer in world.answers] == ["BILL_LOCKED"]

    await world.at("2024-12-20T13:06+08:00")
    await world.when(again(LI_NA, version=1))
    assert world.answers == []

    await world.tell(callback(order))  # the first money still settles; the second order's goes back
    assert await status_of(world, LI_NA) == ("SETTLED", True)


@pytest.mark.parametrize("bills", [0, 6])
async def test_a_cart_of_no_bill_or_of_too_many_is_refused_before_anything_is_locked(
    world: World, bills: int
) -> None:
    citizens = [replace(LI_NA, number=number) for number in range(1, 7)]
    await world.when(*map(bill, citizens))
    wish = replace(cart(*citizens), items=cart(*citizens).items[:bills])
    assert world.arrived(wish, by="wechat").refs == ()

    await world.when(wish)

    (answer,) = world.answers
    assert (reason_of(answer), refused(answer).field) == ("SCHEMA_INVALID", "items")
    assert await status_of(world, LI_NA) == ("DUE", False)
