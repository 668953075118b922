"""What is the rule for a payment: which order may be made, whose money is it, and what does it settle?"""

from msgspec import Struct

from contracts.message import Instant

# ---- What payment and the provider say to each other (the gateway sends the first, the second come back as messages)


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
    """The provider waits for the payer. pay_url: what the QR code says; empty when it was paid before we could ask."""

    amount_fen: int
    pay_url: str


class OrderRefused(_Order, frozen=True, kw_only=True):
    """The provider will not take this order, now or later. code: the provider's own. detail: its words, for a log."""

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
    person_id and obligation_ids are empty when the order was not made through our gateway; order_id is then a made-up
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


MOST_OBLIGATIONS_IN_AN_ORDER = 5    # what the provider's 128 characters of `attach` hold beside the payer


def number_of(order_id: str) -> str:
    """The provider's number for an order: our uuid without dashes (out_trade_no, at most 32 of [0-9A-Za-z_-])."""
    return order_id.replace("-", "")
