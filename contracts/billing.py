"""What billing says and hears: what is due, until when, and why."""

from msgspec import Struct

from contracts.message import (
    CivilDate,
    EnrollmentId,
    Fen,
    Instant,
    ObligationId,
    OrderId,
    PersonId,
    RequestId,
    Uuid,
    Year,
    command,
    fact,
)

BILLS = "billing.bills"


class Line(Struct, frozen=True, kw_only=True):
    """One line of a bill. kind: STANDARD, SUBSIDY or LTC. payable: counts into due. fen may be inside
    another line.
    """

    kind: str
    fen: int
    payable: bool
    label_zh: str


@command(to="billing")
class QueryBill(Struct, frozen=True, kw_only=True):
    """What does this person owe for a year? Accepted: {"obligation_id", "version", "status", "due_fen",
    "closes_on", "lines", "explanation"}; refused BILL_NOT_FOUND while there is none, PERSON_NOT_FOUND where
    the person is another channel's: identify first (RegisterAccount)."""

    request_id: RequestId
    person_id: Uuid
    insurance_year: Year


class _Due(Struct, frozen=True, kw_only=True):
    """What every fact about a bill carries. version: 1.. of the obligation; the bill's id is
    obligation_id/version.
    """

    journey: str
    region_code: str
    person_id: PersonId
    enrollment_id: EnrollmentId
    obligation_id: ObligationId
    version: int


@fact(by="billing", topic=BILLS, subject="obligation_id")
class BillIssued(_Due, frozen=True, kw_only=True):
    """Something is due. closes_on: last civil day of the window. explanation: why this amount, step by step,
    Chinese.
    """

    scheme: str
    insurance_year: int
    item: str
    category: str
    lines: list[Line]
    due_fen: Fen
    subsidy_fen: Fen
    closes_on: CivilDate
    policy: str
    explanation: list[str]


@fact(by="billing", topic=BILLS, subject="obligation_id")
class BillWaived(_Due, frozen=True, kw_only=True):
    """Nothing is due: the public pays it all. Coverage may rest on it. waived_at: business instant."""

    scheme: str
    insurance_year: int
    category: str
    subsidy_fen: Fen
    policy: str
    waived_at: Instant


@fact(by="billing", topic=BILLS, subject="obligation_id")
class BillSettled(_Due, frozen=True, kw_only=True):
    """The obligation is paid in full; coverage may rest on it. paid_at: the channel's signed pay time
    (instant).
    """

    order_id: OrderId
    paid_fen: Fen
    paid_at: Instant
