"""May this order be made, when do we ask about it, and when is it over?"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import replace

from contracts.billing import BillIssued, BillSettled, BillWaived
from contracts.message import ObligationId, OrderId, PersonId
from contracts.payment import CartItem, StartPayment
from contracts.policy import in_force
from contracts.reasons import Reason, Refused, refused
from services.payment.rules import (
    DUE,
    ORDER,
    AskOrder,
    DueEvent,
    DueStatus,
    Item,
    ItemStatus,
    Obligation,
    Order,
    OrderEvent,
    OrderState,
    OrderStatus,
    PlaceOrder,
    number_of,
)

PROVIDERS = ("wechat",)
CHINA = ZoneInfo("Asia/Shanghai")

# How long a payer may take; then the provider closes the order by itself. Source: domain.md D, "about half an
# hour".
PAY_WITHIN = timedelta(minutes=30)

# When we ask the provider about an order without a callback, counted from its birth. Source: domain.md B2, C
# status_query_plan.
QUERY_PLAN = (
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(hours=1),
)

# An order that nobody hears of locks its bills until a little after the plan's last question, whose answer
# should come first. Then another order may take over: the first to be paid settles, the other's money goes
# back. Source: domain.md B6.4, "lock stays until known or policy limit".
LOCKED_FOR = QUERY_PLAN[-1] + timedelta(minutes=5)

_OVER = frozenset(
    {"CLOSED", "REVOKED", "PAYERROR", "REFUND"}
)  # the provider will not take money for it any more
_RANK = {reason.name: rank for rank, reason in enumerate(Reason)}


class QueryOrder(Struct, frozen=True, kw_only=True):
    """Timer: no callback so far? round: which of QUERY_PLAN, from 0."""

    order_id: OrderId
    round: int


class Born(Struct, frozen=True):
    """Billing speaks of it for the first time."""

    obligation: Obligation


class Changed(Struct, frozen=True):
    """Another version, or another state."""

    obligation: Obligation


class Unchanged(Struct, frozen=True):
    """It came late or twice."""


class Awaited(Struct, frozen=True):
    """What it speaks of has not arrived yet."""


class Starts(Struct, frozen=True):
    """The order, and the obligations that it locks."""

    order: Order
    items: list[Item]
    locked: list[Obligation]


class Refuses(Struct, frozen=True):
    """Nothing changes; the payer hears why."""

    refusal: Refused


class Asks(Struct, frozen=True):
    """The provider is to be asked."""

    question: AskOrder


class AsksLater(Struct, frozen=True):
    """Not paid so far; the next planned question."""

    at: datetime
    timer: QueryOrder


class Ends(Struct, frozen=True):
    """The order is over without money; what it locked is free."""

    order: Order
    freed: list[Obligation]


def hear(fact: BillIssued | BillWaived, known: Obligation | None) -> Born | Changed | Unchanged:
    """What a bill does to the obligation. Only a newer version counts; what is settled stays settled."""
    if known is not None and known.version >= fact.version:
        return Unchanged()
    event = DueEvent.ISSUED if isinstance(fact, BillIssued) else DueEvent.WAIVED
    now = known.status if known else DueStatus.ABSENT
    then = DUE.get((now, event))
    due_fen = fact.due_fen if isinstance(fact, BillIssued) else 0
    if then is None:
        return Unchanged()
    if known is None:
        return Born(
            Obligation(
                fact.obligation_id,
                fact.person_id,
                fact.enrollment_id,
                fact.journey,
                fact.region_code,
                fact.insurance_year,
                fact.version,
                due_fen,
                then,
            )
        )
    return Changed(replace(known, version=fact.version, due_fen=due_fen, status=then))


def close(fact: BillSettled, known: Obligation | None) -> Changed | Unchanged | Awaited:
    """Billing says it is settled. It says so of our own PaymentSettled, so this is nearly always no news."""
    if known is None:
        return Awaited()
    closed = DUE.get((known.status, DueEvent.CLOSED))
    if closed is None:
        return Unchanged()
    return Changed(replace(known, status=closed, order_id=fact.order_id, locked_until=None))


def start(
    command: StartPayment,
    *,
    obligations: Mapping[str, Obligation],
    identified: Collection[str],
    order_id: OrderId,
    partner: str,
    now: datetime,
) -> Starts | Refuses:
    """May this cart be paid? Of the reasons against its items the first in the order of Reason is the answer.

    identified: whom of payer and insured the partner has identified; another channel's bill is no bill to it.
    """
    wanted = {item.obligation_id for item in command.items}
    if len(wanted) < len(command.items):
        got = f"{len(wanted)} of {len(command.items)}"
        rule = "each item names another obligation"
        return Refuses(refused(Reason.SCHEMA_INVALID, field="items", got=got, rule=rule))
    if command.provider not in PROVIDERS:
        return Refuses(
            refused(
                Reason.CHANNEL_NOT_ENABLED,
                field="provider",
                expected=", ".join(PROVIDERS),
                got=command.provider,
            )
        )
    if command.person_id not in identified:
        return Refuses(refused(Reason.PERSON_NOT_FOUND, field="person_id", got=command.person_id))
    known = [due for each in wanted if (due := obligations.get(ObligationId(each)))]
    dues: dict[str, Obligation] = {due.obligation_id: due for due in known if due.person_id in identified}
    against = [
        no
        for at, item in enumerate(command.items)
        if (no := _against(at, item, dues.get(item.obligation_id), now))
    ]
    if against:
        return Refuses(min(against, key=lambda refusal: _RANK[refusal.code]))
    locked = [
        replace(obligations[item.obligation_id], order_id=order_id, locked_until=now + LOCKED_FOR)
        for item in command.items
    ]
    return Starts(_born(command, order_id, partner, now), _items(command, order_id), locked)


def _born(command: StartPayment, order_id: OrderId, partner: str, now: datetime) -> Order:
    return Order(
        order_id,
        PersonId(command.person_id),
        command.provider,
        partner,
        command.request_id,
        sum(item.amount_fen for item in command.items),
        OrderStatus.PENDING,
        "",
        now,
        None,
        0,
    )


def _items(command: StartPayment, order_id: OrderId) -> list[Item]:
    return [
        Item(
            order_id,
            at,
            PersonId(item.person_id),
            ObligationId(item.obligation_id),
            item.version,
            item.amount_fen,
            ItemStatus.OPEN,
        )
        for at, item in enumerate(command.items)
    ]


def too_late(due: Obligation, paid_at: datetime) -> bool:
    """Whether money of this instant buys no cover in its year any more: who pays after the window waits, and
    cover ends with the year. Source: 国办发〔2024〕38号.
    """
    return paid_at.astimezone(CHINA).date() > in_force(due.region_code, due.insurance_year).last_pay_day


def _against(at: int, item: CartItem, due: Obligation | None, now: datetime) -> Refused | None:
    """Why this item can't be paid now, guards in the order of Reason."""
    if due is None:
        return refused(Reason.BILL_NOT_FOUND, field=f"items[{at}].obligation_id", got=item.obligation_id)
    if too_late(due, now + PAY_WITHIN):
        rule = "cover could not begin in its year any more"
        return refused(Reason.WINDOW_CLOSED, field=f"items[{at}].obligation_id", rule=rule)
    if item.version != due.version:
        return refused(
            Reason.BILL_NOT_CURRENT,
            field=f"items[{at}].version",
            expected=str(due.version),
            got=str(item.version),
        )
    if due.status == DueStatus.WAIVED:
        return refused(
            Reason.BILL_NOT_PAYABLE,
            field=f"items[{at}].obligation_id",
            expected=DueStatus.DUE,
            got=due.status,
        )
    if due.status == DueStatus.SETTLED:
        return refused(Reason.BILL_ALREADY_SETTLED, field=f"items[{at}].obligation_id")
    if due.locked_until is not None and now < due.locked_until:
        return refused(
            Reason.BILL_LOCKED,
            field=f"items[{at}].obligation_id",
            rule=f"free in {_minutes(due.locked_until - now)} minutes at most",
        )
    if item.amount_fen != due.due_fen:
        return refused(
            Reason.AMOUNT_MISMATCH,
            field=f"items[{at}].amount_fen",
            expected=str(due.due_fen),
            got=str(item.amount_fen),
        )
    if item.person_id != due.person_id:
        return refused(Reason.PERSON_MISMATCH, field=f"items[{at}].person_id", got=item.person_id)
    return None


def _minutes(left: timedelta) -> int:
    """In whole minutes, rounded up. Golden case G13."""
    return -(-left // timedelta(minutes=1))


def placing(order: Order, items: list[Item]) -> PlaceOrder:
    """What the provider is asked to do. The payer reads no name and no number of a person."""
    return PlaceOrder(
        order_id=order.order_id,
        order_no=number_of(order.order_id),
        person_id=order.person_id,
        obligation_ids=[item.obligation_id for item in items],
        provider=order.channel_code,
        amount_fen=order.amount_fen,
        description=f"城乡居民基本医疗保险费 {len(items)} 人次",
        expires_at=order.created_at + PAY_WITHIN,
    )


def first_question(order: Order) -> AsksLater:
    """When we ask for the first time, should no callback come."""
    return AsksLater(order.created_at + QUERY_PLAN[0], QueryOrder(order_id=order.order_id, round=0))


def query(timer: QueryOrder, order: Order, items: list[Item]) -> Asks | Unchanged:
    """A planned question is due: it is asked while nobody knows what became of the order."""
    if order.status != OrderStatus.PENDING:
        return Unchanged()
    return Asks(
        AskOrder(
            order_id=order.order_id,
            order_no=number_of(order.order_id),
            person_id=order.person_id,
            round=timer.round,
            obligation_ids=[item.obligation_id for item in items],
            provider=order.channel_code,
        )
    )


def refuse(order: Order, obligations: list[Obligation]) -> Ends | Unchanged:
    """The provider will not take the order, now or later."""
    return _end(order, OrderEvent.REFUSED, obligations)


def unpaid(state: OrderState, order: Order, obligations: list[Obligation]) -> AsksLater | Ends | Unchanged:
    """The provider's answer says that no money came. Only a pending order can end by it (a sync never undoes
    money).

    An order it does not know (ABSENT) may still be on its way there, so that is no end before the plan's.
    """
    if order.status != OrderStatus.PENDING:
        return Unchanged()
    if state.state in _OVER:
        return _end(order, OrderEvent.REFUSED, obligations)
    following = state.round + 1
    if following == len(QUERY_PLAN):
        return _end(order, OrderEvent.UNPAID, obligations)
    return AsksLater(
        order.created_at + QUERY_PLAN[following], QueryOrder(order_id=order.order_id, round=following)
    )


def _end(order: Order, event: OrderEvent, obligations: list[Obligation]) -> Ends | Unchanged:
    ended = ORDER.get((order.status, event))
    if ended is None:
        return Unchanged()
    return Ends(replace(order, status=ended), freed(order, obligations))


def freed(order: Order, obligations: list[Obligation]) -> list[Obligation]:
    """What this order locks, unlocked. What it has settled, or another order holds, stays as it is."""
    return [
        replace(due, order_id=None, locked_until=None)
        for due in obligations
        if due.order_id == order.order_id and due.status != DueStatus.SETTLED
    ]
