"""From when is a person covered?"""

from calendar import monthrange
from datetime import UTC, date, datetime, time
from enum import StrEnum
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from contracts.billing import BillSettled, BillWaived
from contracts.policy import Waiting, in_force
from services.enrollment.rules.applications import CHINA, Enrollment


class CoverageState(StrEnum):
    """Of cover 待遇 for one year. PENDING: approval or payment is still missing."""

    NONE = "NONE"
    PENDING = "PENDING"
    WAITING = "WAITING"
    ACTIVE = "ACTIVE"


class CoverageEvent(StrEnum):
    """What cover hears of: the agency's approval, the money (or its waiver), the day it begins."""

    APPROVED = "APPROVED"
    PAID = "PAID"
    DAY = "DAY"


_S, _H = CoverageState, CoverageEvent
# What may come of each event in each state; an event heard twice, or too late, leaves the state as it is.
TRANSITIONS: dict[tuple[CoverageState, CoverageEvent], frozenset[CoverageState]] = {
    (_S.NONE, _H.APPROVED): frozenset({_S.PENDING}),
    (_S.NONE, _H.PAID): frozenset({_S.PENDING}),
    (_S.NONE, _H.DAY): frozenset({_S.NONE}),
    (_S.PENDING, _H.APPROVED): frozenset({_S.PENDING, _S.WAITING, _S.ACTIVE}),
    (_S.PENDING, _H.PAID): frozenset({_S.PENDING, _S.WAITING, _S.ACTIVE}),
    (_S.PENDING, _H.DAY): frozenset({_S.PENDING}),
    (_S.WAITING, _H.APPROVED): frozenset({_S.WAITING}),
    (_S.WAITING, _H.PAID): frozenset({_S.WAITING}),
    (_S.WAITING, _H.DAY): frozenset({_S.WAITING, _S.ACTIVE}),
    (_S.ACTIVE, _H.APPROVED): frozenset({_S.ACTIVE}),
    (_S.ACTIVE, _H.PAID): frozenset({_S.ACTIVE}),
    (_S.ACTIVE, _H.DAY): frozenset({_S.ACTIVE}),
}


class Coverage(Struct, frozen=True, gc=False):
    """Cover for one year; the fields are the columns of tables.Coverage."""

    enrollment_id: str
    person_id: str
    region_code: str
    scheme: str
    insurance_year: int
    status: str
    approved_at: datetime | None
    paid_at: datetime | None
    late: bool
    starts_on: date | None
    ends_on: date | None
    sequence: int


def uncovered(enrollment: Enrollment) -> Coverage:
    """The cover of an application for which nothing stands yet; it is kept once something happens to it."""
    return Coverage(
        enrollment_id=enrollment.enrollment_id, person_id=enrollment.person_id,
        region_code=enrollment.region_code, scheme=enrollment.scheme,
        insurance_year=enrollment.insurance_year,
        status=CoverageState.NONE, approved_at=None, paid_at=None, late=False,
        starts_on=None, ends_on=None, sequence=0,
    )


class Pending(Struct, frozen=True, gc=False):
    """The first of approval and payment is there: this cover is new."""

    coverage: Coverage


class Waits(Struct, frozen=True, gc=False):
    """Both are there; cover begins at an instant (UTC) to come. because: the rule that sets it, Chinese."""

    coverage: Coverage
    begins_at: datetime
    because: str


class Starts(Struct, frozen=True, gc=False):
    """Cover runs."""

    coverage: Coverage


class Unchanged(Struct, frozen=True, gc=False):
    """Heard twice, or nothing to do any more."""


class Awaits(Struct, frozen=True, gc=False):
    """Heard before the application that it is about: the topics are independent."""


Outcome = Pending | Waits | Starts | Unchanged


def waiting_months(*, in_window: bool, gap_years: int, repaired_years: int, policy: Waiting) -> int:
    """Months between payment and coverage (待遇等待期).

    Who joins late or after a gap waits a fixed time. Each counted gap year adds a month, each year paid
    afterwards (缴费修复) takes one off again; after a long gap the total never falls below a floor.
    Source: 国办发〔2024〕38号, in force 2025-01-01. Which gap years count is regional:
    `policy.free_gap_years`.
    """
    if in_window and gap_years == 0:
        return 0
    counted = max(0, gap_years - policy.free_gap_years)
    months = policy.fixed_months + max(0, counted - repaired_years) * policy.per_gap_year_months
    return max(months, policy.long_gap_floor_months) if gap_years >= policy.long_gap_years else months


# A batch asks for the same few days over and over: what follows from a day alone is computed once.
@lru_cache(maxsize=1024)
def months_after(day: date, months: int) -> date:
    """The same day so many months later, or the last day of a shorter month."""
    years, month = divmod(day.month - 1 + months, 12)
    year = day.year + years
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


@lru_cache(maxsize=1024)
def midnight(day: date) -> datetime:
    """The instant (UTC) at which a civil day begins in China."""
    return datetime.combine(day, time(), CHINA).astimezone(UTC)


def approve(coverage: Coverage, *, approved_at: datetime, today: date) -> Outcome:
    """What an approval does to coverage: it begins or waits if it is paid already, else it is pending."""
    if coverage.approved_at is not None:
        return Unchanged()
    return _rest(replace(coverage, approved_at=approved_at), today=today)


def pay(fact: BillSettled | BillWaived, coverage: Coverage | None, *, today: date) -> Outcome | Awaits:
    """What a settled or waived bill does to coverage. Source: architecture.md §1; S3:27 (K1).

    The channel's signed pay time says whether it came in the window; who owes nothing cannot pay late, and
    applied inside the window.
    """
    if coverage is None:
        return Awaits()
    if coverage.paid_at is not None:
        return Unchanged()
    if isinstance(fact, BillWaived):
        return _rest(replace(coverage, paid_at=fact.waived_at), today=today)
    window = in_force(coverage.region_code, coverage.insurance_year).window
    late = not window.holds(fact.paid_at.astimezone(CHINA).date())
    return _rest(replace(coverage, paid_at=fact.paid_at, late=late), today=today)


def begin(coverage: Coverage, *, today: date) -> Starts | Unchanged:
    """What the first day of cover does. A timer is never cancelled: it may find cover running, or put off."""
    if coverage.status != CoverageState.WAITING or coverage.starts_on is None or coverage.starts_on > today:
        return Unchanged()
    return Starts(replace(coverage, status=CoverageState.ACTIVE, sequence=coverage.sequence + 1))


def _rest(coverage: Coverage, *, today: date) -> Pending | Waits | Starts:
    """Coverage rests on both approval and payment. It runs from the first of January or the day of payment,
    whichever is later, put off by the waiting period, to the end of the insurance year."""
    if coverage.approved_at is None or coverage.paid_at is None:
        return Pending(replace(coverage, status=CoverageState.PENDING))
    waiting = in_force(coverage.region_code, coverage.insurance_year).waiting
    # A person's years before this system are not known yet, so there is no gap to count.
    months = waiting_months(in_window=not coverage.late, gap_years=0, repaired_years=0, policy=waiting)
    paid_on = coverage.paid_at.astimezone(CHINA).date()
    starts_on = months_after(max(date(coverage.insurance_year, 1, 1), paid_on), months)
    ends_on = date(coverage.insurance_year, 12, 31)
    assert starts_on <= ends_on, f"cover of {coverage.enrollment_id} would begin after its year: {starts_on}"
    covered = replace(
        coverage, starts_on=starts_on, ends_on=ends_on, sequence=coverage.sequence + 1,
        status=CoverageState.WAITING if starts_on > today else CoverageState.ACTIVE,
    )
    if starts_on > today:
        return Waits(covered, midnight(starts_on), _because(starts_on, months))
    return Starts(covered)


@lru_cache(maxsize=1024)
def _because(starts_on: date, months: int) -> str:
    day = f"{starts_on.year}年{starts_on.month}月{starts_on.day}日"
    if months:
        return f"未在集中征缴期内缴费，待遇等待期{months}个月，自{day}起享受待遇"
    return f"在集中征缴期内参保，无待遇等待期，自{day}起享受待遇"
