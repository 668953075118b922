"""From when is a person covered?"""

from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from msgspec.structs import replace

from contracts.billing import BillSettled, BillWaived
from contracts.policy import Waiting, in_force
from services.enrollment.rules.coverage import (
    TRANSITIONS,
    Awaits,
    Coverage,
    CoverageEvent,
    CoverageState,
    Pending,
    Starts,
    Unchanged,
    Waits,
    approve,
    begin,
    months_after,
    pay,
    uncovered,
    waiting_months,
)
from tests.enrollment.test_applications import SUBMITTED
from tests.people import LI_NA, instant

NONE = uncovered(SUBMITTED)
APPROVED_AT, PAID_AT = instant("2024-12-20T11:00+08:00"), instant("2024-12-21T09:30+08:00")
APPROVED = replace(NONE, status="PENDING", approved_at=APPROVED_AT)
PAID = replace(NONE, status="PENDING", paid_at=PAID_AT)
WAITING = replace(
    APPROVED, status="WAITING", paid_at=PAID_AT, starts_on=date(2025, 1, 1), ends_on=date(2025, 12, 31),
    sequence=1,
)
ACTIVE = replace(WAITING, status="ACTIVE", sequence=2)
DECEMBER, FEBRUARY, APRIL = date(2024, 12, 22), date(2025, 2, 20), date(2025, 4, 1)


def paid(at: str) -> BillSettled:
    """The bill was paid at an instant."""
    return LI_NA.bill_settled(at=at)


IN_TIME, LATE = paid("2024-12-21T09:30+08:00"), paid("2025-05-10T09:30+08:00")


@pytest.mark.parametrize(
    ("in_window", "gap_years", "repaired", "free", "months"),
    [
        (True,  0, 0, 1, 0),   # never missed, on time
        (False, 0, 0, 1, 3),   # late, no gap                                 G10
        (True,  1, 0, 1, 3),   # one missed year, which is free
        (True,  1, 0, 0, 4),   # … and which is not
        (True,  2, 0, 1, 4),   # the first missed year is free (Qingdao)      G8
        (True,  2, 1, 1, 3),   # … one year repaired                          G8
        (True,  2, 5, 1, 3),   # … more repaired than missed
        (True,  2, 0, 0, 5),   # a region that counts every missed year       G9
        (True,  4, 3, 1, 6),   # four or more missed: never below six months  G11
        (True,  6, 5, 1, 6),   # …                                            G11
        (True,  6, 0, 1, 8),   # … and above it without repair
    ],
)
def test_who_missed_years_waits_longer(
    in_window: bool, gap_years: int, repaired: int, free: int, months: int
) -> None:
    policy = Waiting(fixed_months=3, per_gap_year_months=1, free_gap_years=free, long_gap_years=4,
                     long_gap_floor_months=6)

    waits = waiting_months(in_window=in_window, gap_years=gap_years, repaired_years=repaired, policy=policy)

    assert waits == months


@pytest.mark.parametrize(
    ("day", "months", "then"),
    [
        (date(2027, 1, 1),   4, date(2027, 5, 1)),      # G8
        (date(2027, 1, 1),   3, date(2027, 4, 1)),      # G8, repaired
        (date(2025, 5, 10),  0, date(2025, 5, 10)),
        (date(2025, 11, 30), 3, date(2026, 2, 28)),     # February has no 30th
        (date(2024, 12, 31), 12, date(2025, 12, 31)),
    ],
)
def test_months_end_on_the_same_day_or_the_last_of_the_month(day: date, months: int, then: date) -> None:
    assert months_after(day, months) == then


@pytest.mark.parametrize(
    ("fact", "coverage", "today", "outcome", "starts_on"),
    [
        (IN_TIME, APPROVED, DECEMBER, Waits, date(2025, 1, 1)),                    # paid before the year
        (paid("2025-02-20T09:30+08:00"), APPROVED, FEBRUARY, Starts, date(2025, 2, 20)),        # … in it
        (paid("2025-03-31T15:59:58Z"), APPROVED, APRIL, Starts, date(2025, 3, 31)),             # G18
        (paid("2025-03-31T16:00:00Z"), APPROVED, APRIL, Waits, date(2025, 7, 1)),               # late, G10
        (LATE, APPROVED, date(2025, 5, 10), Waits, date(2025, 8, 10)),                          # late, G10
        (LATE, APPROVED, date(2025, 8, 10), Starts, date(2025, 8, 10)),            # … and heard late too
        (LI_NA.bill_waived(), APPROVED, DECEMBER, Waits, date(2025, 1, 1)),                     # G2
        (LI_NA.bill_waived(at="2025-04-01T09:00+08:00"), APPROVED, APRIL, Starts, APRIL),
        (IN_TIME, NONE, DECEMBER, Pending, None),                                  # not approved yet
        (LI_NA.bill_waived(), NONE, DECEMBER, Pending, None),
        (IN_TIME, PAID, DECEMBER, Unchanged, None),                                # heard twice
        (IN_TIME, WAITING, DECEMBER, Unchanged, None),
        (IN_TIME, ACTIVE, FEBRUARY, Unchanged, None),
        (IN_TIME, None, DECEMBER, Awaits, None),                                   # heard too early
    ],
)
def test_a_settled_bill_starts_cover_or_lets_it_wait(
    fact: BillSettled | BillWaived, coverage: Coverage | None, today: date, outcome: type,
    starts_on: date | None,
) -> None:
    result = pay(fact, coverage, today=today)

    assert type(result) is outcome
    if isinstance(result, Waits | Starts):
        assert (result.coverage.starts_on, result.coverage.ends_on) == (starts_on, date(2025, 12, 31))
        assert result.coverage.sequence == 1


@pytest.mark.parametrize(
    ("coverage", "today", "outcome"),
    [
        (NONE,     DECEMBER, Pending),
        (PAID,     DECEMBER, Waits),
        (PAID,     FEBRUARY, Starts),
        (APPROVED, DECEMBER, Unchanged),
        (WAITING,  DECEMBER, Unchanged),
        (ACTIVE,   FEBRUARY, Unchanged),
    ],
)
def test_an_approval_starts_cover_that_is_paid(coverage: Coverage, today: date, outcome: type) -> None:
    assert type(approve(coverage, approved_at=APPROVED_AT, today=today)) is outcome


@pytest.mark.parametrize(
    ("coverage", "today", "outcome"),
    [
        (WAITING, date(2025, 1, 1),   Starts),
        (WAITING, date(2025, 1, 2),   Starts),
        (WAITING, date(2024, 12, 31), Unchanged),     # put off meanwhile: the old timer fires all the same
        (ACTIVE,  date(2025, 1, 1),   Unchanged),
        (PAID,    date(2025, 1, 1),   Unchanged),
        (NONE,    date(2025, 1, 1),   Unchanged),
    ],
)
def test_the_first_day_starts_cover_that_waits(coverage: Coverage, today: date, outcome: type) -> None:
    assert type(begin(coverage, today=today)) is outcome


def test_cover_begins_at_midnight_in_china_and_says_why() -> None:
    result, late = pay(IN_TIME, APPROVED, today=DECEMBER), pay(LATE, APPROVED, today=date(2025, 5, 10))

    assert isinstance(result, Waits)
    assert isinstance(late, Waits)
    assert result.begins_at == datetime(2024, 12, 31, 16, tzinfo=UTC)
    assert result.because == "在集中征缴期内参保，无待遇等待期，自2025年1月1日起享受待遇"
    assert late.because == "未在集中征缴期内缴费，待遇等待期3个月，自2025年8月10日起享受待遇"


def test_whatever_payment_takes_buys_cover_that_begins_in_its_year() -> None:
    policy = in_force("990100", 2025)
    day = policy.window.opens
    while day <= policy.last_pay_day:
        covered = pay(paid(f"{day}T23:59+08:00"), APPROVED, today=day)
        assert isinstance(covered, Starts | Waits), day
        day += timedelta(days=1)


def test_cover_that_would_begin_after_its_year_is_a_bug_because_payment_takes_no_such_money() -> None:
    with pytest.raises(AssertionError, match="would begin after its year"):
        pay(paid("2025-10-01T00:00+08:00"), APPROVED, today=date(2025, 10, 1))


STANDING = {"NONE": [NONE], "PENDING": [APPROVED, PAID], "WAITING": [WAITING], "ACTIVE": [ACTIVE]}
DAYS = (date(2024, 12, 31), date(2025, 1, 1))


def after(coverage: Coverage, event: CoverageEvent, today: date) -> str:
    """The state that the rules lead to."""
    result: Any
    match event:
        case CoverageEvent.APPROVED:
            result = approve(coverage, approved_at=APPROVED_AT, today=today)
        case CoverageEvent.PAID:
            result = pay(IN_TIME, coverage, today=today)
        case CoverageEvent.DAY:
            result = begin(coverage, today=today)
    return coverage.status if isinstance(result, Unchanged) else result.coverage.status


@pytest.mark.parametrize(("state", "event"), list(product(CoverageState, CoverageEvent)))
def test_every_event_in_every_state_leads_where_the_table_says(
    state: CoverageState, event: CoverageEvent
) -> None:
    reached = {after(coverage, event, day) for coverage in STANDING[state] for day in DAYS}

    assert reached == TRANSITIONS[state, event]


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(product(CoverageState, CoverageEvent))
