"""Which rows and facts do applications, decisions and settled bills make at least?"""

from datetime import date, datetime
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from bench.raw.batch import (
    ACTIVATED,
    APPROVED,
    ON_COVERAGES,
    ON_ENROLLMENTS,
    SETTLED,
    SUBMITTED,
    TO_AGENCY,
    TO_BANK,
    TYPES,
    Batch,
    Records,
    Step,
    answer,
    encode,
    verify,
)
from contracts.billing import BILLS
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

CHINA = ZoneInfo("Asia/Shanghai")
YEAR = 2025
READS = [PARTNERS["bank"].topic, PARTNERS[REGION].topic, BILLS]


class _Settled(Struct, gc=False):
    person_id: PersonId
    enrollment_id: EnrollmentId
    paid_at: datetime


_decode_submit = msgspec.json.Decoder(SubmitEnrollment).decode
_decode_review = msgspec.json.Decoder(ReviewDecision).decode
_decode_settled = msgspec.json.Decoder(_Settled).decode

_ENROLLMENT = (
    "enrollment_id",
    "person_id",
    "region_code",
    "scheme",
    "insurance_year",
    "status",
    "categories",
    "channel_code",
    "submitted_by",
    "submitted_at",
    "reasons",
    "sequence",
)
_COVERAGE = (
    "enrollment_id",
    "person_id",
    "region_code",
    "scheme",
    "insurance_year",
    "status",
    "approved_at",
    "late",
    "sequence",
)


async def take_in(work: Batch, records: Records) -> None:
    """SubmitEnrollment."""
    commands, rows, results = [], [], []
    for record in records:
        verify(work, record)
        command = _decode_submit(record.value)
        born, person = EnrollmentId(uuid7()), PersonId(command.person_id)
        rows.append(
            (
                born,
                person,
                command.region_code,
                command.scheme,
                command.insurance_year,
                "SUBMITTED",
                encode(command.categories).decode(),
                "bank",
                command.submitted_by,
                work.now,
                "[]",
                1,
            )
        )
        fact = EnrollmentSubmitted(
            journey=born.replace("-", ""),
            region_code=command.region_code,
            person_id=person,
            enrollment_id=born,
            scheme=command.scheme,
            insurance_year=command.insurance_year,
            channel_code="bank",
            categories=command.categories,
            submitted_at=work.now,
        )
        work.say(record.partition, ON_ENROLLMENTS, SUBMITTED, 1, command.person_id, born, encode(fact))
        commands.append(command)
        results.append({"enrollment_id": born, "status": "SUBMITTED"})
    people = [command.person_id for command in commands]
    known, live = await work.db.fetchrow(
        "select (select count(*) from person where person_id = any($1::uuid[])),"
        " (select count(*) from enrollment where person_id = any($1::uuid[]) and status <> 'REJECTED')",
        people,
    )
    if (known, live) != (len(people), 0):
        raise SystemExit(f"{known} of {len(people)} people are known, {live} applied before")
    await work.copy("enrollment", _ENROLLMENT, rows)
    await answer(work, "bank", TO_BANK, records, commands, results)


_APPROVE = """update enrollment e
    set status = 'APPROVED', categories = u.c, decided_by = u.b, decided_at = u.a, sequence = e.sequence + 1
    from unnest($1::uuid[], $2::jsonb[], $3::text[], $4::timestamptz[]) u(id, c, b, a)
    where e.enrollment_id = u.id
    returning e.enrollment_id::text, e.person_id::text, e.region_code, e.scheme, e.insurance_year, e.sequence,
        e.submitted_by, old.status"""


async def approve(work: Batch, records: Records) -> None:
    """ReviewDecision."""
    commands = []
    for record in records:
        verify(work, record)
        commands.append(_decode_review(record.value))
    approved = {
        row[0]: row
        for row in await work.db.fetch(
            _APPROVE,
            [c.enrollment_id for c in commands],
            [encode(c.categories).decode() for c in commands],
            [c.officer for c in commands],
            [c.decided_at for c in commands],
        )
    }
    rows, results = [], []
    for record, c in zip(records, commands):
        _, person, region, scheme, year, sequence, clerk, status = approved[c.enrollment_id]
        if clerk == c.officer or person != c.person_id or status != "SUBMITTED":
            raise SystemExit("this decision may not be taken")
        rows.append((c.enrollment_id, c.person_id, region, scheme, year, "PENDING", c.decided_at, False, 0))
        fact = EnrollmentApproved(
            journey=c.enrollment_id.replace("-", ""),
            region_code=region,
            person_id=PersonId(c.person_id),
            enrollment_id=EnrollmentId(c.enrollment_id),
            scheme=scheme,
            insurance_year=year,
            categories=c.categories,
            decided_at=c.decided_at,
        )
        work.say(
            record.partition, ON_ENROLLMENTS, APPROVED, sequence, c.person_id, c.enrollment_id, encode(fact)
        )
        results.append({"enrollment_id": c.enrollment_id, "status": "APPROVED"})
    await work.copy("coverage", _COVERAGE, rows)
    await answer(work, REGION, TO_AGENCY, records, commands, results)


_COVER = """update coverage c
    set status = 'ACTIVE', paid_at = u.at, starts_on = u.s, ends_on = $4, sequence = c.sequence + 1
    from unnest($1::uuid[], $2::timestamptz[], $3::date[]) u(id, at, s)
    where c.enrollment_id = u.id and c.status = 'PENDING'
    returning c.enrollment_id::text, c.region_code, c.scheme, c.insurance_year, c.sequence"""


async def cover(work: Batch, records: Records) -> None:
    """BillSettled, for enrollment."""
    facts = [_decode_settled(record.value) for record in records]
    ends, first = date(YEAR, 12, 31), date(YEAR, 1, 1)
    starts = [max(first, _day(fact.paid_at)) for fact in facts]
    rows = {
        row[0]: row
        for row in await work.db.fetch(
            _COVER, [f.enrollment_id for f in facts], [f.paid_at for f in facts], starts, ends
        )
    }
    for record, f, begins in zip(records, facts, starts):
        _, region, scheme, year, sequence = rows[f.enrollment_id]
        fact = CoverageActivated(
            journey=f.enrollment_id.replace("-", ""),
            region_code=region,
            person_id=f.person_id,
            enrollment_id=f.enrollment_id,
            scheme=scheme,
            insurance_year=year,
            starts_on=begins,
            ends_on=ends,
        )
        work.say(
            record.partition, ON_COVERAGES, ACTIVATED, sequence, f.person_id, f.enrollment_id, encode(fact)
        )


def _day(instant: datetime) -> date:
    return instant.astimezone(CHINA).date()


STEPS = {
    b"enrollment.submit_enrollment.v1": Step(False, take_in),
    b"enrollment.review_decision.v1": Step(False, approve),
    TYPES[SETTLED]: Step(True, cover),
}
