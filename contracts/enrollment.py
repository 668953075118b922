"""What enrollment says and hears: who is insured, where, and from when covered."""

from typing import Annotated

from msgspec import Meta, Struct

from contracts.message import (
    CivilDate,
    Code,
    EnrollmentId,
    Instant,
    PersonId,
    RequestId,
    Sealed,
    Uuid,
    Year,
    command,
    fact,
)

ENROLLMENTS = "enrollment.enrollments"
COVERAGES = "enrollment.coverages"
PEOPLE = "enrollment.people"
FewCodes = Annotated[list[Code], Meta(max_length=16)]

# What keyboards and banks write for the dot inside a name, for str.translate: · it is.
NAME_DOTS = str.maketrans(dict.fromkeys("•‧∙・･．.", "·"))


class Identity(Struct, frozen=True, kw_only=True):
    """Who somebody is, as on the card. C2: only inside Sealed."""

    name: str
    id_number: str


class Contact(Struct, frozen=True, kw_only=True):
    """How somebody is reached. C2: only inside Sealed."""

    name: str
    phone: str
    email: str = ""


class Registration(Struct, frozen=True, kw_only=True):
    """What a channel asserts about a person who registers. C2: only inside Sealed. id_kind: RESIDENT_ID."""

    id_kind: str
    name: str
    id_number: str
    phone: str
    email: str = ""


@command(to="enrollment", key="request_id")
class RegisterAccount(Struct, frozen=True, kw_only=True):
    """A channel vouches for a person's real name and phone. Accepted: {"person_id"}. Refused ACCOUNT_EXISTS:
    the person is known by this name already, and from now on to this channel too; expected is the person_id.

    The seal's place is the request id. level: how sure the channel is (REAL_NAME or REAL_PERSON).
    """

    request_id: RequestId
    region_code: Code
    registration: Sealed[Registration]
    level: Code = "REAL_NAME"


@command(to="enrollment")
class SubmitEnrollment(Struct, frozen=True, kw_only=True):
    """A person applies for a scheme and year. Accepted: {"enrollment_id", "status"}.

    categories: claimed categories (policy keys), unproven until the review confirms them. submitted_by: the
    officer or app user who typed it, for the four-eyes guard.
    """

    request_id: RequestId
    person_id: Uuid
    region_code: Code
    scheme: Code
    insurance_year: Year
    categories: FewCodes = []
    submitted_by: Code = "self"


@command(to="enrollment")
class ReviewDecision(Struct, frozen=True, kw_only=True):
    """An agency decides about an application. Accepted: {"enrollment_id", "status"}.

    decision: APPROVE, RETURN or REJECT. categories: those the agency certifies (APPROVE). reasons: codes the
    applicant is told (RETURN, REJECT). decided_at: instant, by the agency's clock.
    """

    request_id: RequestId
    person_id: Uuid
    enrollment_id: Uuid
    decision: Code
    officer: Code
    decided_at: Instant
    categories: FewCodes = []
    reasons: FewCodes = []


@fact(by="enrollment", topic=PEOPLE, subject="person_id")
class PersonRecorded(Struct, frozen=True, kw_only=True):
    """The latest sealed copies of a person, one for each reader (compacted topic). The seals' place is the
    person id.
    """

    person_id: PersonId
    region_code: str
    name_masked: str
    for_payment: Sealed[Identity]
    for_notify: Sealed[Contact]


@fact(by="enrollment", topic=ENROLLMENTS, subject="person_id")
class PersonIdentified(Struct, frozen=True, kw_only=True):
    """A channel knows this person: it named number and name as registered. Only such a channel may apply, ask
    and pay for the person.
    """

    region_code: str
    person_id: PersonId
    channel_code: str


class _Case(Struct, frozen=True, kw_only=True):
    """What every fact about an application carries. journey: 32 hex digits, the trace of this insurance year.
    """

    journey: str
    region_code: str
    person_id: PersonId
    enrollment_id: EnrollmentId
    scheme: str
    insurance_year: int


@fact(by="enrollment", topic=ENROLLMENTS, subject="enrollment_id")
class EnrollmentSubmitted(_Case, frozen=True, kw_only=True):
    """An application waits for the agency's review."""

    channel_code: str
    categories: list[str]
    submitted_at: Instant


@fact(by="enrollment", topic=ENROLLMENTS, subject="enrollment_id")
class EnrollmentApproved(_Case, frozen=True, kw_only=True):
    """The agency approved. categories: certified ones, as policy keys."""

    categories: list[str]
    decided_at: Instant


@fact(by="enrollment", topic=ENROLLMENTS, subject="enrollment_id")
class EnrollmentReturned(_Case, frozen=True, kw_only=True):
    """The agency wants something corrected (补正)."""

    reasons: list[str]
    decided_at: Instant


@fact(by="enrollment", topic=ENROLLMENTS, subject="enrollment_id")
class EnrollmentRejected(_Case, frozen=True, kw_only=True):
    """The agency refused the application."""

    reasons: list[str]
    decided_at: Instant


@fact(by="enrollment", topic=COVERAGES, subject="enrollment_id")
class CoverageWaiting(_Case, frozen=True, kw_only=True):
    """Approved and paid; cover begins later. because: the rule that sets the date, in Chinese."""

    starts_on: CivilDate
    ends_on: CivilDate
    because: str


@fact(by="enrollment", topic=COVERAGES, subject="enrollment_id")
class CoverageActivated(_Case, frozen=True, kw_only=True):
    """Cover runs from starts_on to ends_on, both included."""

    starts_on: CivilDate
    ends_on: CivilDate
