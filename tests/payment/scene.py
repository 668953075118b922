"""Who is billed, pays and reports in payment's tests, and do the books balance in the end?"""

from datetime import date
from typing import Any

from msgspec.structs import replace

from contracts.billing import BillIssued
from contracts.enrollment import Contact, Identity, PersonRecorded
from contracts.payment import CartItem, FundsUnmatched, ReportPayment, StartPayment
from services.payment import store
from services.payment.rules import ProviderPaid, number_of
from tests.people import REGION, YEAR, Citizen, instant
from tests.world import World, keyring

PAID_AT = instant("2024-12-20T11:58+08:00")


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
        "select from (select * from obligation where status = 'SETTLED') o"
        " full join (select * from order_item where status = 'SETTLED') i using (obligation_id, order_id)"
        " where o.status is null or i.status is null"
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


async def known(world: World, *citizens: Citizen) -> None:
    """Both online channels have identified them."""
    await world.when(*(each.identified(channel) for each in citizens for channel in ("wechat", "alipay")))


async def ordered(world: World, *citizens: Citizen, request_id: str = "cart-1") -> dict[str, Any]:
    """A started payment at a channel that knows them, as everything said about its order names it."""
    await known(world, *citizens)
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
