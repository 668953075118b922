"""Whose money is it, and what does it settle? What fits nothing goes to suspense; it is never dropped."""

import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from contracts.enrollment import NAME_DOTS, Identity
from contracts.message import OrderId, PersonId
from contracts.payment import ReportPayment
from contracts.policy import in_force
from contracts.reasons import Reason, Refused, refused
from services.payment.rules import (
    ORDER,
    DueStatus,
    Item,
    ItemStatus,
    Obligation,
    Order,
    OrderEvent,
    OrderState,
    OrderStatus,
    ProviderPaid,
    Receipt,
)
from services.payment.rules.books import Money, Posted, post, suspend
from services.payment.rules.orders import CHINA, Unchanged, freed, too_late

# How far a bank's pay time may lie ahead of our clock. Source: reliability I26.
AHEAD = timedelta(minutes=5)

# How many whole days after the window a bank's word for a pay time inside it is believed. Source: domain G18.
BELIEVED_FOR = timedelta(days=1)

# How long a bank's report waits for a bill or a person that we do not know yet, by the system clock; then its
# money stands in suspense. A fast bank overtakes our own BillIssued by seconds; ten minutes outlast a
# restart.
PATIENCE = timedelta(minutes=10)


class Known(Struct, frozen=True):
    """The bank reported it before, under another request id."""

    receipt: Receipt


class Conflicts(Struct, frozen=True):
    """The bank used one transaction number for two different payments."""

    receipt: Receipt


class AwaitsBill(Struct, frozen=True):
    """The bank overtook our own reading of the bill."""


class AwaitsPerson(Struct, frozen=True):
    """The bank overtook our copy of the person."""


def paid(state: OrderState) -> ProviderPaid | None:
    """The provider's answer as the callback that we missed. None: it says that no money came."""
    if state.state != "SUCCESS" or state.paid_at is None:
        return None
    return ProviderPaid(
        provider=state.provider,
        order_id=state.order_id,
        order_no=state.order_no,
        person_id=state.person_id,
        obligation_ids=state.obligation_ids,
        notice_id="",
        state=state.state,
        amount_fen=state.amount_fen,
        payer_fen=state.payer_fen,
        currency=state.currency,
        transaction_id=state.transaction_id,
        paid_at=state.paid_at,
    )


def capture(
    told: ProviderPaid,
    *,
    receipt: Receipt | None,
    order: Order | None,
    items: Sequence[Item],
    obligations: Mapping[str, Obligation],
    entry_ids: Sequence[str],
    now: datetime,
) -> Posted | Unchanged:
    """What money through a provider settles; captured is settled here (settle_on = CHANNEL_CAPTURE).

    The provider's signed pay time counts, however late we hear of it (golden case G18). A success after the
    order failed or expired still settles what is due; what another order settled meanwhile stands in suspense
    (G14). entry_ids: one for each item, at least one. ValueError: the callback names other obligations than
    the order, so not all that it settles are locked.
    """
    if receipt is not None or told.state != "SUCCESS":
        return Unchanged()  # heard twice, by callback or by asking
    money = Money(
        told.provider, told.transaction_id, told.amount_fen, told.paid_at, told.person_id, None, now
    )
    if order is None:
        return suspend(money, Reason.ORDER_UNKNOWN, due=None, entry_id=entry_ids[0])
    if {item.obligation_id for item in items} != set(told.obligation_ids):
        raise ValueError(f"order {order.order_id} and its callback name different obligations")
    only = obligations[items[0].obligation_id] if len(items) == 1 else None
    if told.currency != "CNY" or told.amount_fen != order.amount_fen:
        return _mispaid(money, Reason.AMOUNT_MISMATCH, order, only, obligations, entry_ids[0])
    if any(too_late(due, told.paid_at) for due in obligations.values()):
        return _mispaid(money, Reason.WINDOW_CLOSED, order, only, obligations, entry_ids[0])
    captured = ORDER.get((order.status, OrderEvent.PAID))
    if captured is None:  # this very order was paid before, under another transaction
        return suspend(money, Reason.PAID_TWICE, due=only, entry_id=entry_ids[0], order_id=order.order_id)
    shares = [(item, obligations[item.obligation_id]) for item in items]
    return post(money, replace(order, status=captured), shares, entry_ids)


def _mispaid(
    money: Money,
    reason: Reason,
    order: Order,
    only: Obligation | None,
    obligations: Mapping[str, Obligation],
    entry_id: str,
) -> Posted:
    """Not what the order is for: the money goes back, the order is over, its bills stay due (G16)."""
    suspended = suspend(money, reason, due=only, entry_id=entry_id, order_id=order.order_id)
    failed = ORDER.get((order.status, OrderEvent.MISPAID))
    if failed is None:
        return suspended
    unlocked = freed(order, list(obligations.values()))
    return replace(suspended, order=replace(order, status=failed), obligations=unlocked)


def report(
    command: ReportPayment,
    *,
    channel: str,
    receipt: Receipt | None,
    due: Obligation | None,
    person: Identity | None,
    payer: Identity,
    waited: timedelta,
    order_id: OrderId,
    entry_id: str,
    now: datetime,
) -> Posted | Known | Conflicts | AwaitsBill | AwaitsPerson:
    """What money at a bank's or agency's counter settles: its word is checked against bill and person.

    person: as enrollment recorded it; payer: as the bank identified it. waited: so far, for person or bill.
    """
    patient = waited < PATIENCE
    if receipt is not None:
        before = (receipt.amount_fen, receipt.obligation_id)
        return Known(receipt) if before == (command.amount_fen, command.obligation_id) else Conflicts(receipt)
    money = Money(
        channel,
        command.channel_ref,
        command.amount_fen,
        command.paid_at,
        command.person_id,
        command.obligation_id,
        now,
    )
    if person is None:
        if patient:
            return AwaitsPerson()
        return suspend(money, Reason.PERSON_NOT_FOUND, due=due, entry_id=entry_id)
    if due is None:
        return AwaitsBill() if patient else suspend(money, Reason.BILL_NOT_FOUND, due=None, entry_id=entry_id)
    verdict = judge(command, due=due, person=person, payer=payer, now=now)
    if isinstance(verdict, Misfits):
        return suspend(money, verdict.reason, due=due, entry_id=entry_id)
    order = Order(
        order_id,
        PersonId(command.person_id),
        channel,
        channel,
        command.request_id,
        command.amount_fen,
        ORDER[OrderStatus.PENDING, OrderEvent.PAID],
        "",
        now,
        None,
        0,
    )
    item = Item(
        order_id, 0, due.person_id, due.obligation_id, due.version, command.amount_fen, ItemStatus.OPEN
    )
    return post(money, order, [(item, due)], [entry_id])


class Fits(Struct, frozen=True):
    """Person, amount and period are the bill's, and it is still due."""


class Misfits(Struct, frozen=True):
    """The first reason why it is not this bill's money."""

    reason: Reason


def judge(
    command: ReportPayment, *, due: Obligation, person: Identity, payer: Identity, now: datetime
) -> Fits | Misfits:
    """Does a counter's money fit the bill? Guards in the order of Reason. Source: domain F3, B11, B14, G16.

    The counter's own pay time decides, in China's days: not before the window opened, and one inside it is
    believed until the day file should be there (G18). After the window it fits, and cover waits, as long as
    cover can still begin in its year.
    """
    if command.paid_at > now + AHEAD:
        return Misfits(Reason.TIME_IN_FUTURE)
    window = in_force(due.region_code, due.insurance_year).window
    paid_on, heard_on = command.paid_at.astimezone(CHINA).date(), now.astimezone(CHINA).date()
    if paid_on < window.opens or too_late(due, command.paid_at):
        return Misfits(Reason.WINDOW_CLOSED)
    if paid_on <= window.closes < heard_on - BELIEVED_FOR:
        return Misfits(Reason.PAY_TIME_UNPROVEN)
    if due.status == DueStatus.WAIVED:
        return Misfits(Reason.BILL_NOT_PAYABLE)
    if command.amount_fen != due.due_fen:
        return Misfits(Reason.AMOUNT_MISMATCH)
    if command.insurance_year != due.insurance_year:
        return Misfits(Reason.PERIOD_MISMATCH)
    if command.person_id != due.person_id or not same_person(payer, person):
        return Misfits(Reason.PERSON_MISMATCH)
    if due.status == DueStatus.SETTLED:
        return Misfits(Reason.PAID_TWICE)
    return Fits()


def same_person(one: Identity, other: Identity) -> bool:
    """Whether two records name one person: same number, same name but for spaces, width and the dot's shape.

    Simplified and traditional characters differ: the registration must be corrected first (domain E8).
    """
    return one == other or (_number(one) == _number(other) and _name(one) == _name(other))


def _number(identity: Identity) -> str:
    return identity.id_number.strip().upper()


def _name(identity: Identity) -> str:
    return "".join(unicodedata.normalize("NFKC", identity.name.translate(NAME_DOTS)).split())


def answer(receipt: Receipt) -> dict[str, str]:
    """What the bank hears about its report, now and whenever it repeats it."""
    status = ItemStatus.SUSPENSE if receipt.reason else ItemStatus.SETTLED
    return {"order_id": receipt.order_id or "", "status": status, "reason": receipt.reason}


def conflict(command: ReportPayment, receipt: Receipt) -> Refused:
    """One number, two payments: the second is not counted, and the bank must find out which is true."""
    return refused(
        Reason.CHANNEL_REF_TAKEN,
        field="channel_ref",
        rule="a transaction number names one payment for ever",
        expected=f"{receipt.amount_fen} fen for {receipt.obligation_id}",
        got=f"{command.amount_fen} fen for {command.obligation_id}",
    )
