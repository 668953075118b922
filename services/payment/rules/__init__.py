"""What do payment's rules speak of: messages to and from the provider, what payment keeps, and the states it
can be in?

May this order be made, and when do we ask about it: `orders`. Whose money is it, and what does it settle:
`money`. What stands in the books then: `books`.
"""

from datetime import datetime
from enum import Enum, StrEnum

from msgspec import Struct

from contracts.enrollment import Identity
from contracts.message import EnrollmentId, Instant, ObligationId, OrderId, PersonId, Sealed

# ---- What payment and the provider say to each other (the gateway sends the first, the second come back as
# messages)


class _Order(Struct, frozen=True, kw_only=True):
    """Names an order in everything said about it.

    order_no: what the provider calls it, ours, the same for ever: number_of(order_id).
    person_id (the payer) and obligation_ids are what refs need; the provider carries them for us.
    """

    provider: str = "wechat"
    order_id: str
    order_no: str
    person_id: str
    obligation_ids: list[str]


class PlaceOrder(_Order, frozen=True, kw_only=True):
    """Please take money for this order. Safe to send twice: the provider knows order_no.

    description: what the payer reads, without personal data. expires_at: instant after which nobody can pay.
    """

    amount_fen: int
    description: str
    expires_at: Instant


class OrderPlaced(_Order, frozen=True, kw_only=True):
    """The provider waits for the payer. pay_url: what the QR code says; empty when it was paid before we
    could ask."""

    amount_fen: int
    pay_url: str


class OrderRefused(_Order, frozen=True, kw_only=True):
    """The provider will not take this order, now or later. code: the provider's own. detail: its words, for a
    log."""

    code: str
    detail: str


class AskOrder(_Order, frozen=True, kw_only=True):
    """Was it paid? No callback came. round: which of the planned questions this is, from 0."""

    round: int


class OrderState(_Order, frozen=True, kw_only=True):
    """What the provider, signed, says about an order when asked.

    state: SUCCESS, NOTPAY, USERPAYING, CLOSED, REVOKED, PAYERROR, REFUND, or ABSENT: it never heard of it.
    amount_fen, currency: of the order as the provider holds it. transaction_id, paid_at: once paid.
    """

    round: int
    state: str
    amount_fen: int = 0
    payer_fen: int = 0
    currency: str = "CNY"
    transaction_id: str = ""
    paid_at: Instant | None = None


class ProviderPaid(_Order, frozen=True, kw_only=True):
    """A verified callback: the payer paid. It may come again, late, and for an order we never made.

    Verified means: the provider said it to us as merchant. Amount, state and order are still to be judged.
    person_id and obligation_ids are empty when the order was not made through our gateway; order_id is then a
    made-up
    uuid that no order has, the same for the same order_no, so that refs and look-ups need no special case.
    amount_fen: what we get. payer_fen: what left the payer's purse. paid_at: the provider's word.
    notice_id: the callback's own id, the same in every repeat.
    """

    notice_id: str
    state: str
    amount_fen: int
    payer_fen: int
    currency: str
    transaction_id: str
    paid_at: Instant


def number_of(order_id: str) -> str:
    """The provider's number for an order: our uuid without dashes (out_trade_no, at most 32 of
    [0-9A-Za-z_-])."""
    return order_id.replace("-", "")


# ---- What payment keeps: a value's fields are its table's columns, in their order


class Obligation(Struct, frozen=True, gc=False):
    """What a person owes. order_id: of the live order that holds the pay lock until locked_until, or that
    paid it (SETTLED).
    """

    obligation_id: ObligationId
    person_id: PersonId
    enrollment_id: EnrollmentId
    journey: str
    region_code: str
    insurance_year: int
    version: int
    due_fen: int
    status: str
    order_id: OrderId | None = None
    locked_until: datetime | None = None


class Person(Struct, frozen=True):
    """Who somebody is, still sealed; the seal's place is the person id."""

    person_id: PersonId
    identity: Sealed[Identity]
    sequence: int


class Identification(Struct, frozen=True):
    """A channel knows a person."""

    person_id: PersonId
    channel_code: str
    sequence: int


class Order(Struct, frozen=True, gc=False):
    """One attempt to pay. channel_code: who takes the money. partner, request_id: who asked for it."""

    order_id: OrderId
    person_id: PersonId
    channel_code: str
    partner: str
    request_id: str
    amount_fen: int
    status: str
    channel_ref: str
    created_at: datetime
    paid_at: datetime | None
    sequence: int


class Item(Struct, frozen=True, gc=False):
    """One obligation in an order, as the payer saw it. item: its position, from 0."""

    order_id: OrderId
    item: int
    person_id: PersonId
    obligation_id: ObligationId
    version: int
    amount_fen: int
    status: str


class Receipt(Struct, frozen=True, gc=False):
    """Money that a channel says it took. obligation_id: what a bank said it is for. reason: why not all of it
    settled."""

    channel_code: str
    channel_ref: str
    order_id: OrderId | None
    obligation_id: str | None
    amount_fen: int
    reason: str
    paid_at: datetime
    received_at: datetime


class Leg(Struct, frozen=True, gc=False):
    """One side of an entry in the books: signed fen, debit positive."""

    entry_id: str
    leg: int
    account: int
    amount_fen: int
    order_id: OrderId | None
    posted_at: datetime


class Funds(Struct, frozen=True, gc=False):
    """Money in suspense. funds_id is also its entry's id. What we do not know is None."""

    funds_id: str
    status: str
    reason: str
    journey: str
    region_code: str
    person_id: str | None
    enrollment_id: str | None
    obligation_id: str | None
    order_id: str | None
    amount_fen: int
    channel_code: str
    channel_ref: str
    received_at: datetime


class Account(Enum):
    """Chart of accounts (会计科目): code, Chinese name, the side on which it grows.

    A new account is a row here and in tables.py.
    """

    CLEARING = 1002, "渠道待清算资金", "DEBIT"
    PREMIUMS = 2202, "应付基金保费", "CREDIT"
    SUSPENSE = 2203, "待处理款项", "CREDIT"

    def __init__(self, code: int, zh: str, grows: str) -> None:
        self.code, self.zh, self.grows = code, zh, grows


# ---- States. What stands in no row of a table came late or twice and changes nothing. Source: domain.md B2


class DueStatus(StrEnum):
    """Of an obligation. ABSENT has no row: billing has not spoken of it yet."""

    ABSENT = "ABSENT"
    DUE = "DUE"
    WAIVED = "WAIVED"
    SETTLED = "SETTLED"


class DueEvent(StrEnum):
    """ISSUED, WAIVED: a newer version from billing. PAID: money of ours. CLOSED: billing says it is
    settled."""

    ISSUED = "ISSUED"
    WAIVED = "WAIVED"
    PAID = "PAID"
    CLOSED = "CLOSED"


DUE: dict[tuple[str, str], DueStatus] = {
    (DueStatus.ABSENT, DueEvent.ISSUED): DueStatus.DUE,
    (DueStatus.ABSENT, DueEvent.WAIVED): DueStatus.WAIVED,
    (DueStatus.DUE, DueEvent.ISSUED): DueStatus.DUE,  # re-rated: another version, another amount
    (DueStatus.DUE, DueEvent.WAIVED): DueStatus.WAIVED,
    (DueStatus.DUE, DueEvent.PAID): DueStatus.SETTLED,
    (DueStatus.DUE, DueEvent.CLOSED): DueStatus.SETTLED,
    (DueStatus.WAIVED, DueEvent.ISSUED): DueStatus.DUE,  # the category was taken back
    (DueStatus.WAIVED, DueEvent.CLOSED): DueStatus.SETTLED,
}


class OrderStatus(StrEnum):
    """CAPTURED: the channel says so, verified. SETTLED: posted. DUPLICATE: captured for what was settled
    before."""

    PENDING = "PENDING"
    CAPTURED = "CAPTURED"
    CAPTURED_LATE = "CAPTURED_LATE"
    SETTLED = "SETTLED"
    DUPLICATE = "DUPLICATE"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"


class OrderEvent(StrEnum):
    """REFUSED: the provider will not take it, or has closed it. MISPAID: not the order's amount. UNPAID:
    asked in vain to
    the end of the plan. POSTED: in the books. TAKEN: nothing that it was for is still due."""

    REFUSED = "REFUSED"
    UNPAID = "UNPAID"
    PAID = "PAID"
    MISPAID = "MISPAID"
    POSTED = "POSTED"
    TAKEN = "TAKEN"


ORDER: dict[tuple[str, str], OrderStatus] = {
    (OrderStatus.PENDING, OrderEvent.REFUSED): OrderStatus.FAILED,
    (OrderStatus.PENDING, OrderEvent.UNPAID): OrderStatus.EXPIRED,
    (OrderStatus.PENDING, OrderEvent.MISPAID): OrderStatus.FAILED,
    (OrderStatus.PENDING, OrderEvent.PAID): OrderStatus.CAPTURED,
    (OrderStatus.FAILED, OrderEvent.PAID): OrderStatus.CAPTURED_LATE,  # money wins over what we concluded
    (OrderStatus.EXPIRED, OrderEvent.PAID): OrderStatus.CAPTURED_LATE,
    (OrderStatus.CAPTURED, OrderEvent.POSTED): OrderStatus.SETTLED,
    (OrderStatus.CAPTURED, OrderEvent.TAKEN): OrderStatus.DUPLICATE,
    (OrderStatus.CAPTURED_LATE, OrderEvent.POSTED): OrderStatus.SETTLED,
    (OrderStatus.CAPTURED_LATE, OrderEvent.TAKEN): OrderStatus.DUPLICATE,
}


class ItemStatus(StrEnum):
    """What became of one obligation's share of an order."""

    OPEN = "OPEN"
    SETTLED = "SETTLED"
    SUSPENSE = "SUSPENSE"


class FundsStatus(StrEnum):
    """Of money in suspense. ABSENT has no row. Matching and giving back come with refunds."""

    ABSENT = "ABSENT"
    RECEIVED = "RECEIVED"


class FundsEvent(StrEnum):
    """What can happen to money that settles nothing."""

    UNMATCHED = "UNMATCHED"


FUNDS: dict[tuple[str, str], FundsStatus] = {(FundsStatus.ABSENT, FundsEvent.UNMATCHED): FundsStatus.RECEIVED}
