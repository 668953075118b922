"""What does enrollment do, a message at a time?"""

from datetime import date

from faststream.kafka import KafkaRouter
from sqlmodel import select

from bench.peers.tutorial.app import Session, accepted, hears, kind, now, place, request, say
from bench.peers.tutorial.messages import (
    ACCEPTED,
    ACTIVATED,
    APPROVED,
    REVIEW,
    SETTLED,
    SUBMIT,
    SUBMITTED,
    BillSettled,
    CoverageActivated,
    EnrollmentApproved,
    EnrollmentSubmitted,
    ReviewDecision,
    SubmitEnrollment,
)
from contracts.billing import BILLS
from contracts.enrollment import COVERAGES, ENROLLMENTS
from contracts.partners import PARTNERS
from sandbox.people import REGION
from services.chassis.ids import uuid7
from services.enrollment.tables import Coverage, Enrollment, Person

BANK, AGENCY = PARTNERS["bank"], PARTNERS[REGION]
router = KafkaRouter(prefix=place.prefix)
from_bank, from_agency, settled = (hears(router, t) for t in (BANK.topic, AGENCY.topic, BILLS))
enrollments, coverages = router.publisher(ENROLLMENTS), router.publisher(COVERAGES)
to_bank, to_agency = router.publisher(BANK.replies), router.publisher(AGENCY.replies)


@from_bank(filter=kind(SUBMIT))
async def take_in(c: SubmitEnrollment, session: Session) -> None:
    """An application."""
    if await session.get(Person, c.person_id) is None:
        raise LookupError(c.person_id)
    born = uuid7()
    session.add(
        Enrollment(
            **c.model_dump(exclude={"request_id"}),
            enrollment_id=born,
            status="SUBMITTED",
            channel_code="bank",
            submitted_at=now(),
            reasons=[],
            sequence=1,
        )
    )
    answer = accepted(c, SUBMIT, enrollment_id=born, status="SUBMITTED")
    session.add(request("bank", c, answer))
    await session.commit()
    fact = EnrollmentSubmitted(
        **c.model_dump(),
        journey=born.replace("-", ""),
        enrollment_id=born,
        channel_code="bank",
        submitted_at=now(),
    )
    await say(enrollments, SUBMITTED, fact, c.person_id)
    await say(to_bank, ACCEPTED, answer, c.person_id)


@from_agency(filter=kind(REVIEW))
async def approve(c: ReviewDecision, session: Session) -> None:
    """A decision."""
    row = (await session.exec(select(Enrollment).where(Enrollment.enrollment_id == c.enrollment_id))).one()
    if row.status != "SUBMITTED" or row.submitted_by == c.officer:
        raise ValueError(c.enrollment_id)
    row.status, row.categories, row.decided_by, row.decided_at = (
        "APPROVED",
        c.categories,
        c.officer,
        c.decided_at,
    )
    row.sequence += 1
    case = row.model_dump(include={"region_code", "scheme", "insurance_year"})
    session.add(row)
    session.add(
        Coverage(
            **case,
            enrollment_id=c.enrollment_id,
            person_id=c.person_id,
            status="PENDING",
            approved_at=c.decided_at,
            late=False,
            sequence=0,
        )
    )
    answer = accepted(c, REVIEW, enrollment_id=c.enrollment_id, status="APPROVED")
    session.add(request(REGION, c, answer))
    await session.commit()
    fact = EnrollmentApproved(**c.model_dump(), **case, journey=c.enrollment_id.replace("-", ""))
    await say(enrollments, APPROVED, fact, c.person_id)
    await say(to_agency, ACCEPTED, answer, c.person_id)


@settled(filter=kind(SETTLED))
async def cover(f: BillSettled, session: Session) -> None:
    """A bill is paid."""
    row = (await session.exec(select(Coverage).where(Coverage.enrollment_id == f.enrollment_id))).one()
    row.starts_on, row.ends_on = f.paid_at.date(), date(row.insurance_year, 12, 31)
    row.status, row.paid_at, row.sequence = "ACTIVE", f.paid_at, row.sequence + 1
    session.add(row)
    await session.commit()
    rest = row.model_dump(include={"scheme", "insurance_year", "starts_on", "ends_on"})
    await say(coverages, ACTIVATED, CoverageActivated(**f.model_dump(), **rest), f.person_id)
