"""What stands in the books when money comes in: receipt, ledger entries, suspense, and what is said of
them?"""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from contracts.message import EnrollmentId, ObligationId, OrderId, PersonId
from contracts.payment import FundsUnmatched, PaymentSettled
from contracts.reasons import Reason
from services.payment.rules import (
    DUE,
    FUNDS,
    ORDER,
    Account,
    DueEvent,
    DueStatus,
    Funds,
    FundsEvent,
    FundsStatus,
    Item,
    ItemStatus,
    Leg,
    Obligation,
    Order,
    OrderEvent,
    Receipt,
)
from services.payment.rules.orders import freed


class Money(Struct, frozen=True, gc=False):
    """What a channel claims, the same for both roads.

    person_id: who is told if it fits nothing; empty: nobody known. obligation_id: what a bank says it is for.
    now: business instant of the posting.
    """

    channel_code: str
    channel_ref: str
    amount_fen: int
    paid_at: datetime
    person_id: str
    obligation_id: str | None
    now: datetime


class Posted(Struct, frozen=True):
    """Money in the books: all rows that it makes or changes, and what is said of it, each with its
    sequence."""

    receipt: Receipt
    legs: list[Leg]
    order: Order | None = None
    items: list[Item] = []
    obligations: list[Obligation] = []
    funds: list[Funds] = []
    facts: list[tuple[PaymentSettled | FundsUnmatched, int]] = []


def post(
    money: Money, order: Order, shares: Sequence[tuple[Item, Obligation]], entry_ids: Sequence[str]
) -> Posted:
    """Captured money, share by share: into premiums where something is due, else into suspense.

    With it the order is over: what it locked and does not settle is free.
    """
    legs: list[Leg] = []
    items: list[Item] = []
    obligations: list[Obligation] = []
    funds: list[Funds] = []
    facts: list[tuple[PaymentSettled | FundsUnmatched, int]] = []
    sequence = order.sequence
    for (item, due), entry_id in zip(shares, entry_ids, strict=True):
        settled = DUE.get((due.status, DueEvent.PAID))
        if settled is None:
            reason = Reason.BILL_NOT_PAYABLE if due.status == DueStatus.WAIVED else Reason.PAID_TWICE
            items.append(replace(item, status=ItemStatus.SUSPENSE))
            funds.append(_funds(money, reason, due, item.amount_fen, entry_id, order.order_id))
            obligations += freed(order, [due])
            facts.append((_unmatched(funds[-1]), 1))
            legs += entry(entry_id, Account.SUSPENSE, item.amount_fen, order.order_id, money.now)
        else:
            sequence += 1
            items.append(replace(item, status=ItemStatus.SETTLED))
            obligations.append(replace(due, status=settled, order_id=order.order_id, locked_until=None))
            facts.append((_settled(money, item, due), sequence))
            legs += entry(entry_id, Account.PREMIUMS, item.amount_fen, order.order_id, money.now)
    ended = replace(
        order,
        status=ORDER[order.status, OrderEvent.TAKEN if len(funds) == len(items) else OrderEvent.POSTED],
        channel_ref=money.channel_ref,
        paid_at=money.paid_at,
        sequence=sequence,
    )
    receipt = _receipt(money, order.order_id, funds[0].reason if funds else "")
    return Posted(receipt, legs, ended, items, obligations, funds, facts)


def suspend(
    money: Money, reason: Reason, *, due: Obligation | None, entry_id: str, order_id: OrderId | None = None
) -> Posted:
    """Money that settles nothing, as a whole. due, order_id: what it was for, as far as we know."""
    funds = _funds(money, reason, due, money.amount_fen, entry_id, order_id)
    legs = entry(entry_id, Account.SUSPENSE, money.amount_fen, order_id, money.now)
    return Posted(_receipt(money, order_id, reason.name), legs, funds=[funds], facts=[(_unmatched(funds), 1)])


def entry(
    entry_id: str, account: Account, amount_fen: int, order_id: OrderId | None, now: datetime
) -> list[Leg]:
    """Money that came in through a channel, owed to whom the account names. Its two legs add up to 0 (I1)."""
    return [
        Leg(entry_id, 1, Account.CLEARING.code, amount_fen, order_id, now),
        Leg(entry_id, 2, account.code, -amount_fen, order_id, now),
    ]


def _receipt(money: Money, order_id: OrderId | None, reason: str) -> Receipt:
    return Receipt(
        money.channel_code,
        money.channel_ref,
        order_id,
        money.obligation_id,
        money.amount_fen,
        reason,
        money.paid_at,
        money.now,
    )


def _funds(
    money: Money,
    reason: Reason,
    due: Obligation | None,
    amount_fen: int,
    entry_id: str,
    order_id: OrderId | None,
) -> Funds:
    """Money that names no bill we know is a journey of its own."""
    return Funds(
        funds_id=entry_id,
        status=FUNDS[FundsStatus.ABSENT, FundsEvent.UNMATCHED],
        reason=reason.name,
        journey=due.journey if due else entry_id.replace("-", ""),
        region_code=due.region_code if due else "",
        person_id=money.person_id or None,
        enrollment_id=due.enrollment_id if due else None,
        obligation_id=due.obligation_id if due else None,
        order_id=order_id,
        amount_fen=amount_fen,
        channel_code=money.channel_code,
        channel_ref=money.channel_ref,
        received_at=money.now,
    )


def _unmatched(funds: Funds) -> FundsUnmatched:
    return FundsUnmatched(
        journey=funds.journey,
        region_code=funds.region_code,
        person_id=PersonId(funds.person_id or ""),
        enrollment_id=EnrollmentId(funds.enrollment_id or ""),
        obligation_id=ObligationId(funds.obligation_id or ""),
        funds_id=funds.funds_id,
        order_id=OrderId(funds.order_id or ""),
        amount_fen=funds.amount_fen,
        channel_code=funds.channel_code,
        channel_ref=funds.channel_ref,
        reason=funds.reason,
        received_at=funds.received_at,
    )


def _settled(money: Money, item: Item, due: Obligation) -> PaymentSettled:
    """Final for the version that the payer saw; what a newer one changes is billing's to adjust.

    Source: architecture §1, "PaymentSettled is final for the bill it names".
    """
    return PaymentSettled(
        journey=due.journey,
        region_code=due.region_code,
        person_id=due.person_id,
        enrollment_id=due.enrollment_id,
        obligation_id=due.obligation_id,
        version=item.version,
        order_id=item.order_id,
        item=item.item,
        amount_fen=item.amount_fen,
        channel_code=money.channel_code,
        channel_ref=money.channel_ref,
        paid_at=money.paid_at,
        posted_at=money.now,
    )
