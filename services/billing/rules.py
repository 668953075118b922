"""What is the rule for what a person owes, why, and what a payment does to it?"""

from datetime import date, datetime
from enum import StrEnum
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from contracts.billing import Line
from contracts.enrollment import EnrollmentApproved
from contracts.payment import PaymentSettled
from contracts.policy import Policy, in_force, named
from contracts.reasons import Reason, Refused, refused

ORDINARY = "ordinary"       # who is certified in no category 普通居民


class BillState(StrEnum):
    """Of a bill 缴费单, one version of what is owed. SUPERSEDED: re-rated, a later version counts."""

    NONE = "NONE"
    ISSUED = "ISSUED"
    WAIVED = "WAIVED"
    SETTLED = "SETTLED"
    SUPERSEDED = "SUPERSEDED"


class BillEvent(StrEnum):
    """What billing hears of: the agency's approval, the money."""

    APPROVED = "APPROVED"
    PAID = "PAID"


_S, _H = BillState, BillEvent
# What may come of each event in each state; one heard twice leaves the state as it is, a payment before its
# bill waits. Money for what was waived is a bug (payment never takes any): it is parked.
TRANSITIONS: dict[tuple[BillState, BillEvent], frozenset[BillState]] = {
    (_S.NONE, _H.APPROVED): frozenset({_S.ISSUED, _S.WAIVED}),
    (_S.NONE, _H.PAID): frozenset({_S.NONE}),
    (_S.ISSUED, _H.APPROVED): frozenset({_S.ISSUED}),
    (_S.ISSUED, _H.PAID): frozenset({_S.SETTLED}),
    (_S.WAIVED, _H.APPROVED): frozenset({_S.WAIVED}),
    (_S.WAIVED, _H.PAID): frozenset(),
    (_S.SETTLED, _H.APPROVED): frozenset({_S.SETTLED}),
    (_S.SETTLED, _H.PAID): frozenset({_S.SETTLED}),
    (_S.SUPERSEDED, _H.APPROVED): frozenset({_S.SUPERSEDED}),
    (_S.SUPERSEDED, _H.PAID): frozenset({_S.SETTLED}),     # the money was for this version
}


class Bill(Struct, frozen=True, gc=False):
    """One version of what is owed; the fields are the columns of tables.Bill."""

    obligation_id: str
    version: int
    enrollment_id: str
    person_id: str
    region_code: str
    scheme: str
    insurance_year: int
    category: str
    certified: list[str]
    due_fen: int
    subsidy_fen: int
    policy: str
    closes_on: date
    status: str
    order_id: str | None
    issued_at: datetime
    paid_at: datetime | None
    sequence: int


class Identification(Struct, frozen=True, gc=False):
    """A channel that knows a person; the fields are the columns of tables.Identification."""

    person_id: str
    channel_code: str
    sequence: int


class Assessment(Struct, frozen=True, gc=False):
    """What a person of a category owes under a policy (核定). due_fen: the sum of the payable lines.

    subsidy_fen: all that the public pays. explanation: why, step by step, in Chinese.
    """

    category: str
    due_fen: int
    subsidy_fen: int
    lines: list[Line]
    explanation: list[str]


class Due(Struct, frozen=True, gc=False):
    """Something is owed."""

    bill: Bill
    assessment: Assessment


class Waived(Struct, frozen=True, gc=False):
    """The public pays it all."""

    bill: Bill


class AlreadyBilled(Struct, frozen=True, gc=False):
    """Heard twice: one bill for a person, scheme and year."""


class Settled(Struct, frozen=True, gc=False):
    """Paid in full."""

    bill: Bill


class Unchanged(Struct, frozen=True, gc=False):
    """Heard twice."""


class Awaits(Struct, frozen=True, gc=False):
    """Paid before we know what is owed: the topics are independent."""


class Shown(Struct, frozen=True, gc=False):
    """What a person may know of his bill."""

    bill: Bill
    assessment: Assessment


def category_of(certified: tuple[str, ...], *, policy: Policy) -> str:
    """The category that counts: of several, the one that owes least (precedence LOWEST_DUE, our default).

    Source: S3:147-155. KeyError: one that the policy does not know; enrollment takes none such in.
    """
    categories = policy.resident.categories
    return min(certified, key=lambda key: categories[key].due_fen, default=ORDINARY)


@lru_cache(maxsize=4096)
def premium(certified: tuple[str, ...], *, policy: Policy) -> Assessment:
    """What is owed for a year (个人缴费), in fen, with its lines and why; the same for all of one category.

    The personal part, less what the public pays of it for the category; long-term care is inside; what the
    public pays on top stands beside it. Source: S3:145-160 (B2-B7).
    """
    resident, category = policy.resident, category_of(certified, policy=policy)
    due = resident.personal_fen if category == ORDINARY else resident.categories[category].due_fen
    relief = resident.personal_fen - due
    lines = [Line(kind="STANDARD", fen=resident.personal_fen, payable=True, label_zh="个人缴费标准")]
    if relief:
        zh = resident.categories[category].zh
        lines.append(Line(kind="SUBSIDY", fen=-relief, payable=True, label_zh=f"资助参保（{zh}）"))
    lines.append(Line(kind="LTC", fen=policy.ltc.fen, payable=False, label_zh="其中：长期护理保险（已含）"))
    lines.append(Line(kind="SUBSIDY", fen=resident.subsidy_fen, payable=False, label_zh="财政补助"))
    return Assessment(category=category, due_fen=due, subsidy_fen=resident.subsidy_fen + relief, lines=lines,
                      explanation=_explained(category, certified, due, policy))


def assess(
    fact: EnrollmentApproved, known: Bill | None, *, obligation_id: str, now: datetime
) -> Due | Waived | AlreadyBilled:
    """What an approval makes a person owe: one bill for a person, scheme and year, or none if nothing is due.

    known: the bill that stands for them. obligation_id: for a new one.
    """
    if known is not None:
        return AlreadyBilled()
    policy = in_force(fact.region_code, fact.insurance_year)
    assessment = premium(tuple(fact.categories), policy=policy)
    bill = Bill(
        obligation_id=obligation_id, version=1, enrollment_id=fact.enrollment_id, person_id=fact.person_id,
        region_code=fact.region_code, scheme=fact.scheme, insurance_year=fact.insurance_year,
        category=assessment.category, certified=fact.categories, due_fen=assessment.due_fen,
        subsidy_fen=assessment.subsidy_fen,
        policy=policy.ref, closes_on=policy.window.closes,
        status=BillState.ISSUED if assessment.due_fen else BillState.WAIVED,
        order_id=None, issued_at=now, paid_at=None, sequence=1,
    )
    return Due(bill, assessment) if assessment.due_fen else Waived(bill)


def settle(fact: PaymentSettled, bill: Bill | None) -> Settled | Unchanged | Awaits:
    """What money does to the bill version that it names. Payment has verified and posted it: it is final.

    Also for a superseded version, because the payer was shown that one. Source: architecture.md §1.
    """
    if bill is None:
        return Awaits()
    if bill.status == BillState.SETTLED:
        return Unchanged()
    assert bill.status in (BillState.ISSUED, BillState.SUPERSEDED), f"money for a bill that is {bill.status}"
    assert fact.amount_fen == bill.due_fen, f"settled with {fact.amount_fen} fen, due are {bill.due_fen}"
    return Settled(replace(
        bill, status=BillState.SETTLED, order_id=fact.order_id, paid_at=fact.paid_at,
        sequence=bill.sequence + 1,
    ))


def show(bill: Bill | None, *, identified: bool) -> Shown | Refused:
    """What to answer who asks for the bill of a person and year: the current version, and why.

    identified: whether the channel that asks has identified the person; to any other there is no such person,
    so that it learns neither an amount nor who is insured. Source: reliability E6, S11; domain Q1.
    """
    if not identified:
        return refused(Reason.PERSON_NOT_FOUND, field="person_id")
    if bill is None:
        return refused(Reason.BILL_NOT_FOUND, field="person_id")
    return Shown(bill, premium(tuple(bill.certified), policy=named(bill.policy)))


def yuan(fen: int) -> str:
    """Fen as a citizen reads them: 40000 is 400.00元."""
    return f"{fen // 100}.{fen % 100:02d}元"


def _explained(category: str, certified: tuple[str, ...], due: int, policy: Policy) -> list[str]:
    resident, closes = policy.resident, policy.window.closes
    steps = [
        f"{policy.region_zh}{policy.insurance_year}年度{resident.scheme_zh}"
        f"个人缴费标准为{yuan(resident.personal_fen)}，其中含长期护理保险{yuan(policy.ltc.fen)}",
        f"财政另行补助{yuan(resident.subsidy_fen)}，不由个人缴纳",
    ]
    if category != ORDINARY:
        zh, relief = resident.categories[category].zh, resident.personal_fen - due
        steps.append(f"经认定为{zh}，个人缴纳{yuan(due)}" + (f"，资助{yuan(relief)}" if relief else ""))
    if len(certified) > 1:
        steps.append("同时符合多个类别的，按个人缴费最低的类别执行")
    steps.append(f"应缴{yuan(due)}，请于{closes.year}年{closes.month}月{closes.day}日前（含当日）缴纳")
    return steps
