"""What payment says and hears: whether money arrived and whose it is."""

from typing import Annotated

from msgspec import Meta, Struct

from contracts.enrollment import Identity
from contracts.message import (
    Code,
    EnrollmentId,
    Fen,
    Instant,
    ObligationId,
    OrderId,
    PaidFen,
    PersonId,
    RequestId,
    Sealed,
    Uuid,
    Year,
    command,
    fact,
)

PAYMENTS = "payment.payments"
MOST_ITEMS = 5  # what the provider's 128 characters of `attach` hold beside the payer


class CartItem(Struct, frozen=True, kw_only=True):
    """One obligation in an order, with the bill version and amount the payer saw."""

    person_id: Uuid
    obligation_id: Uuid
    version: int
    amount_fen: PaidFen


@command(to="payment")
class StartPayment(Struct, frozen=True, kw_only=True):
    """A payer wants to pay for a few obligations, each another (家庭共济 cart). The record key is the payer's
    person_id.

    Accepted once the provider has taken the order: {"order_id", "order_no", "amount_fen", "pay_url"}.
    """

    request_id: RequestId
    person_id: Uuid
    provider: Code
    items: Annotated[list[CartItem], Meta(min_length=1, max_length=MOST_ITEMS)]


@command(to="payment", money=True)
class ReportPayment(Struct, frozen=True, kw_only=True):
    """A bank or counter took money for one obligation. Accepted: {"order_id", "status", "reason"?}.

    status is SETTLED or SUSPENSE: money that fits nothing is kept and goes back, never refused.
    channel_ref: the bank's own transaction number, unique for ever. paid_at: instant, the bank's word.
    payer_saw: whom the bank identified; the seal's place is channel_ref.
    """

    request_id: RequestId
    person_id: Uuid
    obligation_id: Uuid
    insurance_year: Year
    amount_fen: PaidFen
    channel_ref: Code
    paid_at: Instant
    method: Code
    payer_saw: Sealed[Identity]


@fact(by="payment", topic=PAYMENTS, subject="order_id")
class PaymentSettled(Struct, frozen=True, kw_only=True):
    """Money is posted to one obligation, once and finally. item: position in the order, from 0."""

    journey: str
    region_code: str
    person_id: PersonId
    enrollment_id: EnrollmentId
    obligation_id: ObligationId
    version: int
    order_id: OrderId
    item: int
    amount_fen: Fen
    channel_code: str
    channel_ref: str
    paid_at: Instant
    posted_at: Instant


@fact(by="payment", topic=PAYMENTS, subject="funds_id")
class FundsUnmatched(Struct, frozen=True, kw_only=True):
    """Money arrived that settles nothing; it stands in suspense and goes back. reason: a code of
    contracts.reasons.

    obligation_id and enrollment_id are empty when it names none that we know.
    """

    journey: str
    region_code: str
    person_id: PersonId
    enrollment_id: str
    obligation_id: str
    funds_id: str
    order_id: str
    amount_fen: Fen
    channel_code: str
    channel_ref: str
    reason: str
    received_at: Instant
