"""Who may apply for what and when, and what may an agency decide?"""

from datetime import date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import replace

from contracts.enrollment import ReviewDecision, SubmitEnrollment
from contracts.partners import Partner
from contracts.policy import in_force, policy_of
from contracts.reasons import Reason, Refused, refused

RESIDENT = "RESIDENT"                                   # 城乡居民基本医疗保险
SCHEMES = {RESIDENT: RESIDENT, "NRCMS": RESIDENT}       # 新农合, the old rural scheme, is part of it. S1:6
CHINA = ZoneInfo("Asia/Shanghai")
CLOCKS_DIFFER = timedelta(minutes=5)                    # an agency's clock and ours. Source: reliability I26


class EnrollmentState(StrEnum):
    """Of an application 参保登记."""

    NONE = "NONE"
    SUBMITTED = "SUBMITTED"
    RETURNED = "RETURNED"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"


class EnrollmentAct(StrEnum):
    """What the applicant or the agency does to an application."""

    SUBMIT = "SUBMIT"
    APPROVE = "APPROVE"
    RETURN = "RETURN"
    REJECT = "REJECT"


_S, _A = EnrollmentState, EnrollmentAct
# Keys are texts, as rows and commands hold them. Where the state stays, the act is refused.
TRANSITIONS: dict[tuple[str, str], EnrollmentState] = {
    (_S.NONE, _A.SUBMIT): _S.SUBMITTED,
    (_S.NONE, _A.APPROVE): _S.NONE,
    (_S.NONE, _A.RETURN): _S.NONE,
    (_S.NONE, _A.REJECT): _S.NONE,
    (_S.SUBMITTED, _A.SUBMIT): _S.SUBMITTED,
    (_S.SUBMITTED, _A.APPROVE): _S.APPROVED,
    (_S.SUBMITTED, _A.RETURN): _S.RETURNED,
    (_S.SUBMITTED, _A.REJECT): _S.REJECTED,
    (_S.RETURNED, _A.SUBMIT): _S.SUBMITTED,        # 补正: corrected and handed in again
    (_S.RETURNED, _A.APPROVE): _S.RETURNED,
    (_S.RETURNED, _A.RETURN): _S.RETURNED,
    (_S.RETURNED, _A.REJECT): _S.RETURNED,
    (_S.APPROVED, _A.SUBMIT): _S.APPROVED,
    (_S.APPROVED, _A.APPROVE): _S.APPROVED,
    (_S.APPROVED, _A.RETURN): _S.APPROVED,
    (_S.APPROVED, _A.REJECT): _S.APPROVED,
    (_S.REJECTED, _A.SUBMIT): _S.REJECTED,         # applying anew is a new application
    (_S.REJECTED, _A.APPROVE): _S.REJECTED,
    (_S.REJECTED, _A.RETURN): _S.REJECTED,
    (_S.REJECTED, _A.REJECT): _S.REJECTED,
}


class Enrollment(Struct, frozen=True, gc=False):
    """An application; the fields are the columns of tables.Enrollment."""

    enrollment_id: str
    person_id: str
    region_code: str
    scheme: str
    insurance_year: int
    status: str
    categories: list[str]
    channel_code: str
    submitted_by: str
    submitted_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    reasons: list[str]
    sequence: int


class Applied(Struct, frozen=True, gc=False):
    """A new application."""

    enrollment: Enrollment


class Resubmitted(Struct, frozen=True, gc=False):
    """The returned one, corrected (补正)."""

    enrollment: Enrollment


def apply(
    command: SubmitEnrollment, *, channel: Partner, person_known: bool, live: Enrollment | None,
    enrollment_id: str, now: datetime, today: date,
) -> Applied | Resubmitted | Refused:
    """May this person apply? One live application for a person and year, inside the collection window.

    live: the person's application of that year that was not rejected. enrollment_id: for a new one.
    Source: S0:41, S2:28 (window), S1:6 (schemes); guards stand in the order of the reasons.
    """
    policy = policy_of(command.region_code, command.insurance_year)
    scheme = SCHEMES.get(command.scheme)
    if policy is Reason.REGION_UNKNOWN:
        return refused(Reason.REGION_UNKNOWN, field="region_code", got=command.region_code)
    if not channel.serves(command.region_code):
        return refused(Reason.CHANNEL_NOT_ENABLED, field="region_code", got=command.region_code)
    if not person_known:
        return refused(Reason.PERSON_NOT_FOUND, field="person_id", got=command.person_id)
    if scheme is None:
        return refused(Reason.SCHEME_UNKNOWN, field="scheme", expected=RESIDENT, got=command.scheme)
    if isinstance(policy, Reason):
        return refused(policy, field="insurance_year", got=str(command.insurance_year))
    if not policy.window.holds(today):
        window = f"{policy.window.opens} .. {policy.window.closes}"
        return refused(Reason.WINDOW_CLOSED, field="insurance_year", expected=window, got=str(today))
    for category in command.categories:
        if category not in policy.resident.categories:
            return refused(Reason.CATEGORY_UNKNOWN, field="categories", got=category)
    if live is None:
        return Applied(Enrollment(
            enrollment_id=enrollment_id, person_id=command.person_id, region_code=command.region_code,
            scheme=scheme, insurance_year=command.insurance_year, status=TRANSITIONS[_S.NONE, _A.SUBMIT],
            categories=command.categories, channel_code=channel.code, submitted_by=command.submitted_by,
            submitted_at=now, decided_by=None, decided_at=None, reasons=[], sequence=1,
        ))
    after = TRANSITIONS[live.status, _A.SUBMIT]
    if after == live.status or live.region_code != command.region_code:
        got = f"{live.region_code} {live.status}"
        return refused(Reason.ALREADY_ENROLLED, field="insurance_year", got=got)
    return Resubmitted(replace(
        live, status=after, scheme=scheme, categories=command.categories, channel_code=channel.code,
        submitted_by=command.submitted_by, submitted_at=now, decided_by=None, decided_at=None, reasons=[],
        sequence=live.sequence + 1,
    ))


class Approved(Struct, frozen=True, gc=False):
    """The agency takes the person in, in the categories it certifies."""

    enrollment: Enrollment


class Returned(Struct, frozen=True, gc=False):
    """Something is to be corrected."""

    enrollment: Enrollment


class Rejected(Struct, frozen=True, gc=False):
    """The person is not taken in."""

    enrollment: Enrollment


def decide(
    command: ReviewDecision, enrollment: Enrollment | None, *, agency: Partner, now: datetime
) -> Approved | Returned | Rejected | Refused:
    """What becomes of an application? The agency of its region decides, and nobody on his own submission.

    A decision older than the application is about what was handed in before it was corrected.
    Source: S3:19, S3:31 (E4). Without the case nothing else can be judged, so its guard comes early.
    """
    if command.decided_at > now + CLOCKS_DIFFER:
        expected = f"at most {(now + CLOCKS_DIFFER).isoformat()}"
        got = command.decided_at.isoformat()
        return refused(Reason.TIME_IN_FUTURE, field="decided_at", expected=expected, got=got)
    if command.decision not in (_A.APPROVE, _A.RETURN, _A.REJECT):
        expected = "APPROVE, RETURN or REJECT"
        return refused(Reason.SCHEMA_INVALID, field="decision", expected=expected, got=command.decision)
    if enrollment is None or enrollment.person_id != command.person_id:
        return refused(Reason.ENROLLMENT_NOT_FOUND, field="enrollment_id", got=command.enrollment_id)
    if not agency.serves(enrollment.region_code):
        region = enrollment.region_code
        return refused(Reason.NOT_PERMITTED, field="enrollment_id", expected=region, got=agency.code)
    last_day = date(enrollment.insurance_year, 12, 31)      # when cover ends
    if command.decision == _A.APPROVE and now.astimezone(CHINA).date() > last_day:
        return refused(Reason.WINDOW_CLOSED, field="decision", expected=f"APPROVE until {last_day}")
    for category in command.categories:
        if category not in in_force(enrollment.region_code, enrollment.insurance_year).resident.categories:
            return refused(Reason.CATEGORY_UNKNOWN, field="categories", got=category)
    after = TRANSITIONS[enrollment.status, command.decision]
    if after == enrollment.status:
        return refused(Reason.CASE_STATE, field="decision", expected=_S.SUBMITTED, got=enrollment.status)
    if command.decided_at < enrollment.submitted_at - CLOCKS_DIFFER:
        expected = f"after {enrollment.submitted_at.isoformat()}"
        got = command.decided_at.isoformat()
        return refused(Reason.CASE_STATE, field="decided_at", expected=expected, got=got)
    if command.officer == enrollment.submitted_by:
        return refused(Reason.SELF_REVIEW, field="officer", got=command.officer)
    decided = replace(
        enrollment, status=after, decided_by=command.officer, decided_at=command.decided_at,
        sequence=enrollment.sequence + 1,
    )
    match after:
        case EnrollmentState.APPROVED:
            return Approved(replace(decided, categories=command.categories))
        case EnrollmentState.RETURNED:
            return Returned(replace(decided, reasons=command.reasons))
        case _:
            return Rejected(replace(decided, reasons=command.reasons))
