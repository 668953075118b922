"""Who may apply, and what may an agency decide?"""

from datetime import UTC, date, datetime
from itertools import product
from typing import Any

import pytest
from msgspec.structs import replace

from contracts.enrollment import ReviewDecision, SubmitEnrollment
from contracts.partners import PARTNERS, Partner
from contracts.reasons import Refused
from services.enrollment.rules.applications import (
    TRANSITIONS,
    Applied,
    Approved,
    Enrollment,
    EnrollmentAct,
    EnrollmentState,
    Rejected,
    Resubmitted,
    Returned,
    apply,
    decide,
)
from tests.people import LI_NA, WANG_JUN, instant

NOW, TODAY = datetime(2024, 12, 20, 2, tzinfo=UTC), date(2024, 12, 20)
NOON = instant("2024-12-20T12:00+08:00")
WECHAT, AGENCY = PARTNERS["wechat"], PARTNERS["990100"]
ELSEWHERE = Partner(code="330100", kind="agency", name_zh="", may=(), regions=("330100",))
NEW_ID = "0193d000-0000-7000-8000-00020000ffff"
SUBMITTED = Enrollment(
    enrollment_id=LI_NA.enrollment_id, person_id=LI_NA.person_id, region_code="990100", scheme="RESIDENT",
    insurance_year=2025, status="SUBMITTED", categories=["student"], channel_code="wechat",
    submitted_by="self", submitted_at=NOW, decided_by=None, decided_at=None, reasons=[], sequence=1,
)


def standing(state: str) -> Enrollment:
    """Li Na's application in some state."""
    status, _, elsewhere = state.partition(" ")
    if status == "SUBMITTED":
        return SUBMITTED
    return replace(
        SUBMITTED, status=status, region_code="330100" if elsewhere else "990100", decided_by="officer-7",
        decided_at=NOW, reasons=["DOC_MISSING"], sequence=2,
    )


@pytest.mark.parametrize(
    ("command", "live", "circumstances", "outcome"),
    [
        (LI_NA.submits(), None, {}, Applied),
        (LI_NA.submits(scheme="NRCMS"), None, {}, Applied),
        (LI_NA.submits(), None, {"today": date(2024, 10, 1)}, Applied),
        (LI_NA.submits(), None, {"today": date(2025, 3, 31)}, Applied),
        (LI_NA.submits("student"), "RETURNED", {}, Resubmitted),
        (LI_NA.submits(region="999999"), None, {"channel": ELSEWHERE}, "REGION_UNKNOWN"),
        (LI_NA.submits(), None, {"channel": ELSEWHERE, "person_known": False}, "CHANNEL_NOT_ENABLED"),
        (LI_NA.submits(scheme="X"), None, {"person_known": False}, "PERSON_NOT_FOUND"),
        (LI_NA.submits(scheme="EMPLOYEE", year=2026), None, {}, "SCHEME_UNKNOWN"),
        (LI_NA.submits(year=2026), None, {}, "YEAR_NOT_OPEN"),
        (LI_NA.submits("king"), None, {"today": date(2024, 9, 30)}, "WINDOW_CLOSED"),
        (LI_NA.submits(), None, {"today": date(2025, 4, 1)}, "WINDOW_CLOSED"),
        (LI_NA.submits("student", "king"), "SUBMITTED", {}, "CATEGORY_UNKNOWN"),
        (LI_NA.submits(), "SUBMITTED", {}, "ALREADY_ENROLLED"),
        (LI_NA.submits(), "APPROVED", {}, "ALREADY_ENROLLED"),
        (LI_NA.submits(), "RETURNED elsewhere", {}, "ALREADY_ENROLLED"),
    ],
)
def test_a_person_applies_once_a_year_inside_the_window(
    command: SubmitEnrollment, live: str | None, circumstances: dict[str, Any], outcome: type | str
) -> None:
    known: dict[str, Any] = {"channel": WECHAT, "person_known": True, "today": TODAY} | circumstances

    result = apply(command, live=standing(live) if live else None, enrollment_id=NEW_ID, now=NOW, **known)

    assert (result.code if isinstance(result, Refused) else type(result)) == outcome


def test_an_application_keeps_the_claims_and_the_old_rural_scheme_is_the_resident_one() -> None:
    command = LI_NA.submits("student", "subsistence", scheme="NRCMS", by="teacher-3")

    result = apply(command, channel=WECHAT, person_known=True, live=None, enrollment_id=NEW_ID, now=NOW,
                   today=TODAY)

    claimed = ["student", "subsistence"]
    assert result == Applied(replace(
        SUBMITTED, enrollment_id=NEW_ID, categories=claimed, submitted_by="teacher-3"))


def test_a_returned_application_comes_again_under_its_own_id_and_forgets_the_decision() -> None:
    later = datetime(2025, 1, 5, 4, tzinfo=UTC)

    result = apply(LI_NA.submits(), channel=PARTNERS["counter"], person_known=True, live=standing("RETURNED"),
                   enrollment_id=NEW_ID, now=later, today=date(2025, 1, 5))

    assert result == Resubmitted(replace(
        SUBMITTED, categories=[], channel_code="counter", submitted_at=later, sequence=3))


@pytest.mark.parametrize(
    ("command", "enrollment", "agency", "outcome"),
    [
        (LI_NA.decided("APPROVE", "student"), "SUBMITTED", AGENCY, Approved),
        (LI_NA.decided("RETURN"), "SUBMITTED", AGENCY, Returned),
        (LI_NA.decided("REJECT"), "SUBMITTED", AGENCY, Rejected),
        (LI_NA.decided("SUBMIT"), None, AGENCY, "SCHEMA_INVALID"),
        (LI_NA.decided("APPROVE"), None, AGENCY, "ENROLLMENT_NOT_FOUND"),
        (WANG_JUN.decided("APPROVE"), "SUBMITTED", AGENCY, "ENROLLMENT_NOT_FOUND"),
        (LI_NA.decided("APPROVE", "king"), "SUBMITTED", ELSEWHERE, "NOT_PERMITTED"),
        (LI_NA.decided("APPROVE", "student", "king"), "APPROVED", AGENCY, "CATEGORY_UNKNOWN"),
        (LI_NA.decided("APPROVE", officer="self"), "APPROVED", AGENCY, "CASE_STATE"),
        (LI_NA.decided("APPROVE", at="2024-12-20T09:54+08:00"), "SUBMITTED", AGENCY, "CASE_STATE"),
        (LI_NA.decided("APPROVE", at="2024-12-20T09:56+08:00"), "SUBMITTED", AGENCY, Approved),  # its clock
        (LI_NA.decided("APPROVE", at="2024-12-20T12:04+08:00"), "SUBMITTED", AGENCY, Approved),
        (LI_NA.decided("SUBMIT", at="2024-12-20T12:06+08:00"), "SUBMITTED", AGENCY, "TIME_IN_FUTURE"),
        (LI_NA.decided("APPROVE", officer="self"), "SUBMITTED", AGENCY, "SELF_REVIEW"),
    ],
)
def test_the_agency_of_the_insured_place_decides_once(
    command: ReviewDecision, enrollment: str | None, agency: Partner, outcome: type | str
) -> None:
    result = decide(command, standing(enrollment) if enrollment else None, agency=agency, now=NOON)

    assert (result.code if isinstance(result, Refused) else type(result)) == outcome


@pytest.mark.parametrize(
    ("decision", "at", "outcome"),
    [
        ("APPROVE", "2025-12-31T23:59+08:00", Approved),
        ("APPROVE", "2026-01-01T00:00+08:00", "WINDOW_CLOSED"),      # its cover has ended already
        ("REJECT", "2026-01-01T00:00+08:00", Rejected),
    ],
)
def test_nobody_is_approved_for_a_year_that_is_over(decision: str, at: str, outcome: type | str) -> None:
    command = LI_NA.decided(decision, at=at)

    result = decide(command, standing("SUBMITTED"), agency=AGENCY, now=command.decided_at)

    assert (result.code if isinstance(result, Refused) else type(result)) == outcome


def test_an_approval_keeps_what_was_certified_not_what_was_claimed() -> None:
    result = decide(LI_NA.decided("APPROVE", "subsistence"), SUBMITTED, agency=AGENCY, now=NOON)

    assert result == Approved(replace(
        SUBMITTED, status="APPROVED", categories=["subsistence"], decided_by="officer-7",
        decided_at=instant("2024-12-20T11:00+08:00"), sequence=2))


def test_a_returned_application_says_what_to_correct() -> None:
    result = decide(LI_NA.decided("RETURN", reasons=("DOC_MISSING",)), SUBMITTED, agency=AGENCY, now=NOON)

    assert isinstance(result, Returned)
    assert result.enrollment.reasons == ["DOC_MISSING"]
    assert result.enrollment.categories == ["student"]


@pytest.mark.parametrize(("state", "act"), list(product(EnrollmentState, EnrollmentAct)))
def test_every_act_in_every_state_does_what_the_table_says(
    state: EnrollmentState, act: EnrollmentAct
) -> None:
    stands = None if state is EnrollmentState.NONE else standing(state)
    if act is EnrollmentAct.SUBMIT:
        # Who was rejected applies anew: the rejected one stays as it is.
        live = None if state is EnrollmentState.REJECTED else stands
        result = apply(LI_NA.submits(), channel=WECHAT, person_known=True, live=live, enrollment_id=NEW_ID,
                       now=NOW, today=TODAY)
        changed = result.enrollment if isinstance(result, Applied | Resubmitted) else None
        if state is EnrollmentState.REJECTED:
            assert changed is not None
            assert changed.enrollment_id == NEW_ID
            changed = None
    else:
        decision = decide(LI_NA.decided(act), stands, agency=AGENCY, now=NOON)
        changed = None if isinstance(decision, Refused) else decision.enrollment

    assert (changed.status if changed else state) == TRANSITIONS[state, act]


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(product(EnrollmentState, EnrollmentAct))
