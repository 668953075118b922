"""Who may apply, and what may an agency decide?"""

from datetime import UTC, date, datetime
from itertools import product

import pytest
from msgspec.structs import replace

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

NOW, TODAY = datetime(2024, 12, 20, 4, tzinfo=UTC), date(2024, 12, 20)
WECHAT, AGENCY = PARTNERS["wechat"], PARTNERS["990100"]
ELSEWHERE = Partner(code="330100", kind="agency", name_zh="", may=(), regions=("330100",))
NEW_ID = "0193d000-0000-7000-8000-00020000ffff"
SUBMITTED = Enrollment(
    enrollment_id=LI_NA.enrollment_id, person_id=LI_NA.person_id, region_code="990100", scheme="RESIDENT",
    insurance_year=2025, status="SUBMITTED", categories=["student"], channel_code="wechat", submitted_by="self",
    submitted_at=NOW, decided_by=None, decided_at=None, reasons=[], sequence=1,
)


def standing(status: str) -> Enrollment:
    """Li Na's application in some state."""
    if status == "SUBMITTED":
        return SUBMITTED
    return replace(SUBMITTED, status=status, decided_by="officer-7", decided_at=NOW, reasons=["DOC_MISSING"], sequence=2)


@pytest.mark.parametrize(
    ("command", "channel", "known", "live", "today", "outcome"),
    [
        (LI_NA.submits(),                        WECHAT,    True,  None,                   TODAY,             Applied),
        (LI_NA.submits(scheme="NRCMS"),          WECHAT,    True,  None,                   TODAY,             Applied),
        (LI_NA.submits(),                        WECHAT,    True,  None,                   date(2024, 10, 1), Applied),
        (LI_NA.submits(),                        WECHAT,    True,  None,                   date(2025, 3, 31), Applied),
        (LI_NA.submits("student"),               WECHAT,    True,  standing("RETURNED"),   TODAY,             Resubmitted),
        (LI_NA.submits(region="999999"),         ELSEWHERE, False, None,                   TODAY,             "REGION_UNKNOWN"),
        (LI_NA.submits(),                        ELSEWHERE, False, None,                   TODAY,             "CHANNEL_NOT_ENABLED"),
        (LI_NA.submits(scheme="X"),              WECHAT,    False, None,                   TODAY,             "PERSON_NOT_FOUND"),
        (LI_NA.submits(scheme="EMPLOYEE"),       WECHAT,    True,  None,                   TODAY,             "SCHEME_UNKNOWN"),
        (LI_NA.submits(year=2026),               WECHAT,    True,  None,                   TODAY,             "YEAR_NOT_OPEN"),
        (LI_NA.submits("king"),                  WECHAT,    True,  None,                   date(2024, 9, 30), "WINDOW_CLOSED"),
        (LI_NA.submits(),                        WECHAT,    True,  None,                   date(2025, 4, 1),  "WINDOW_CLOSED"),
        (LI_NA.submits("student", "king"),       WECHAT,    True,  standing("SUBMITTED"),  TODAY,             "CATEGORY_UNKNOWN"),
        (LI_NA.submits(),                        WECHAT,    True,  standing("SUBMITTED"),  TODAY,             "ALREADY_ENROLLED"),
        (LI_NA.submits(),                        WECHAT,    True,  standing("APPROVED"),   TODAY,             "ALREADY_ENROLLED"),
        (LI_NA.submits(),                        WECHAT,    True,
         replace(standing("RETURNED"), region_code="330100"),                              TODAY,             "ALREADY_ENROLLED"),
    ],
)
def test_a_person_applies_once_a_year_inside_the_window(  # type: ignore[no-untyped-def]
    command, channel, known, live, today, outcome,
) -> None:
    result = apply(command, channel=channel, person_known=known, live=live, enrollment_id=NEW_ID, now=NOW, today=today)

    assert result.code == outcome if isinstance(result, Refused) else type(result) is outcome


def test_an_application_keeps_what_was_claimed_and_the_old_rural_scheme_is_the_resident_one() -> None:
    command = LI_NA.submits("student", "subsistence", scheme="NRCMS", by="teacher-3")

    result = apply(command, channel=WECHAT, person_known=True, live=None, enrollment_id=NEW_ID, now=NOW, today=TODAY)

    assert result == Applied(replace(
        SUBMITTED, enrollment_id=NEW_ID, categories=["student", "subsistence"], submitted_by="teacher-3"))


def test_a_returned_application_comes_again_under_its_own_id_and_forgets_the_decision() -> None:
    later = datetime(2025, 1, 5, 4, tzinfo=UTC)

    result = apply(LI_NA.submits(), channel=PARTNERS["counter"], person_known=True, live=standing("RETURNED"),
                   enrollment_id=NEW_ID, now=later, today=date(2025, 1, 5))

    assert result == Resubmitted(replace(
        SUBMITTED, categories=[], channel_code="counter", submitted_at=later, sequence=3))


@pytest.mark.parametrize(
    ("command", "enrollment", "agency", "outcome"),
    [
        (LI_NA.decided("APPROVE", "student"),           SUBMITTED,             AGENCY,    Approved),
        (LI_NA.decided("RETURN"),                       SUBMITTED,             AGENCY,    Returned),
        (LI_NA.decided("REJECT"),                       SUBMITTED,             AGENCY,    Rejected),
        (LI_NA.decided("SUBMIT"),                       None,                  AGENCY,    "SCHEMA_INVALID"),
        (LI_NA.decided("APPROVE"),                      None,                  AGENCY,    "ENROLLMENT_NOT_FOUND"),
        (WANG_JUN.decided("APPROVE"),                   SUBMITTED,             AGENCY,    "ENROLLMENT_NOT_FOUND"),
        (LI_NA.decided("APPROVE", "king"),              SUBMITTED,             ELSEWHERE, "NOT_PERMITTED"),
        (LI_NA.decided("APPROVE", "student", "king"),   standing("APPROVED"),  AGENCY,    "CATEGORY_UNKNOWN"),
        (LI_NA.decided("APPROVE", officer="self"),      standing("APPROVED"),  AGENCY,    "CASE_STATE"),
        (LI_NA.decided("APPROVE", officer="self"),      SUBMITTED,             AGENCY,    "SELF_REVIEW"),
    ],
)
def test_the_agency_of_the_insured_place_decides_once(command, enrollment, agency, outcome) -> None:  # type: ignore[no-untyped-def]
    result = decide(command, enrollment, agency=agency)

    assert result.code == outcome if isinstance(result, Refused) else type(result) is outcome


def test_an_approval_keeps_what_was_certified_not_what_was_claimed() -> None:
    result = decide(LI_NA.decided("APPROVE", "subsistence"), SUBMITTED, agency=AGENCY)

    assert result == Approved(replace(
        SUBMITTED, status="APPROVED", categories=["subsistence"], decided_by="officer-7",
        decided_at=instant("2024-12-20T11:00+08:00"), sequence=2))


def test_a_returned_application_says_what_to_correct() -> None:
    result = decide(LI_NA.decided("RETURN", reasons=("DOC_MISSING",)), SUBMITTED, agency=AGENCY)

    assert isinstance(result, Returned)
    assert result.enrollment.reasons == ["DOC_MISSING"]
    assert result.enrollment.categories == ["student"]


@pytest.mark.parametrize(("state", "act"), list(product(EnrollmentState, EnrollmentAct)))
def test_every_act_in_every_state_does_what_the_table_says(state: EnrollmentState, act: EnrollmentAct) -> None:
    stands = None if state is EnrollmentState.NONE else standing(state)
    if act is EnrollmentAct.SUBMIT:
        # Who was rejected applies anew: the rejected one stays as it is.
        live = None if state is EnrollmentState.REJECTED else stands
        result = apply(LI_NA.submits(), channel=WECHAT, person_known=True, live=live, enrollment_id=NEW_ID,
                       now=NOW, today=TODAY)
        changed = result.enrollment if isinstance(result, Applied | Resubmitted) else None
        if state is EnrollmentState.REJECTED:
            assert changed is not None and changed.enrollment_id == NEW_ID
            changed = None
    else:
        decision = decide(LI_NA.decided(act), stands, agency=AGENCY)
        changed = None if isinstance(decision, Refused) else decision.enrollment

    assert (changed.status if changed else state) == TRANSITIONS[state, act]


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(product(EnrollmentState, EnrollmentAct))
