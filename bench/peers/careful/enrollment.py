"""What does enrollment do, a message in a transaction?"""

from datetime import date

from bench.peers.careful.transaction import Handlers, Transaction, encode
from contracts.billing import BILLS, BillSettled
from contracts.enrollment import (
    CoverageActivated,
    EnrollmentApproved,
    EnrollmentSubmitted,
    ReviewDecision,
    SubmitEnrollment,
)
from contracts.message import EnrollmentId, PersonId
from contracts.partners import PARTNERS
from sandbox.people import REGION
from services.chassis.ids import uuid7

READS = [PARTNERS["bank"].topic, PARTNERS[REGION].topic, BILLS]
handlers = Handlers()


@handlers.on(SubmitEnrollment)
async def take_in(c: SubmitEnrollment, tx: Transaction) -> None:
    """An application."""
    await tx.one("select from person where person_id = $1", c.person_id)
    born, person = EnrollmentId(uuid7()), PersonId(c.person_id)
    await tx.add(
        "enrollment",
        enrollment_id=born,
        person_id=person,
        region_code=c.region_code,
        scheme=c.scheme,
        insurance_year=c.insurance_year,
        status="SUBMITTED",
        categories=encode(c.categories).decode(),
        channel_code="bank",
        submitted_by=c.submitted_by,
        submitted_at=tx.now,
        reasons="[]",
        sequence=1,
    )
    await tx.say(
        EnrollmentSubmitted(
            journey=born.replace("-", ""),
            region_code=c.region_code,
            person_id=person,
            enrollment_id=born,
            scheme=c.scheme,
            insurance_year=c.insurance_year,
            channel_code="bank",
            categories=c.categories,
            submitted_at=tx.now,
        )
    )
    await tx.answer("bank", c, enrollment_id=born, status="SUBMITTED")


_APPROVE = """update enrollment set status = 'APPROVED', categories = $2, decided_by = $3, decided_at = $4,
        sequence = sequence + 1
    where enrollment_id = $1 and status = 'SUBMITTED' and submitted_by <> $3
    returning region_code, scheme, insurance_year"""


@handlers.on(ReviewDecision)
async def approve(c: ReviewDecision, tx: Transaction) -> None:
    """A decision."""
    row = await tx.one(_APPROVE, c.enrollment_id, encode(c.categories).decode(), c.officer, c.decided_at)
    await tx.add(
        "coverage",
        enrollment_id=c.enrollment_id,
        person_id=c.person_id,
        **row,
        status="PENDING",
        approved_at=c.decided_at,
        late=False,
        sequence=0,
    )
    await tx.say(
        EnrollmentApproved(
            journey=c.enrollment_id.replace("-", ""),
            **row,
            person_id=PersonId(c.person_id),
            enrollment_id=EnrollmentId(c.enrollment_id),
            categories=c.categories,
            decided_at=c.decided_at,
        )
    )
    await tx.answer(REGION, c, enrollment_id=c.enrollment_id, status="APPROVED")


_COVER = """update coverage set status = 'ACTIVE', paid_at = $2, starts_on = $3, sequence = sequence + 1,
        ends_on = make_date(insurance_year, 12, 31)
    where enrollment_id = $1 and status = 'PENDING'
    returning region_code, scheme, insurance_year, starts_on, ends_on"""


@handlers.on(BillSettled)
async def cover(f: BillSettled, tx: Transaction) -> None:
    """A bill is paid."""
    starts: date = f.paid_at.date()
    row = await tx.one(_COVER, f.enrollment_id, f.paid_at, starts)
    await tx.say(
        CoverageActivated(journey=f.journey, **row, person_id=f.person_id, enrollment_id=f.enrollment_id)
    )
