"""Which rows and facts do approvals and payments make at least?"""

from datetime import date, datetime
from functools import lru_cache

import msgspec
from msgspec import Struct

from bench.raw.batch import APPROVED, ISSUED, ON_BILLS, PAID, SETTLED, TYPES, Batch, Records, Step, encode
from contracts.billing import BillIssued, BillSettled
from contracts.enrollment import ENROLLMENTS
from contracts.message import EnrollmentId, ObligationId, OrderId, PersonId
from contracts.partners import PARTNERS
from contracts.payment import PAYMENTS
from contracts.policy import in_force
from services.billing.rules import Assessment, premium
from services.chassis.ids import uuid7

READS = [PARTNERS["bank"].topic, ENROLLMENTS, PAYMENTS]


class _Approved(Struct, gc=False):
    journey: str
    region_code: str
    person_id: PersonId
    enrollment_id: EnrollmentId
    scheme: str
    insurance_year: int
    categories: list[str]


class _Paid(Struct, gc=False):
    journey: str
    region_code: str
    person_id: PersonId
    enrollment_id: EnrollmentId
    obligation_id: ObligationId
    version: int
    order_id: OrderId
    amount_fen: int
    paid_at: datetime


_decode_approved = msgspec.json.Decoder(_Approved).decode
_decode_paid = msgspec.json.Decoder(_Paid).decode

_BILL = (
    "obligation_id",
    "version",
    "enrollment_id",
    "person_id",
    "region_code",
    "scheme",
    "insurance_year",
    "category",
    "certified",
    "due_fen",
    "subsidy_fen",
    "policy",
    "closes_on",
    "status",
    "issued_at",
    "sequence",
)


@lru_cache
def _assessed(categories: tuple[str, ...], region: str, year: int) -> tuple[Assessment, str, date, str]:
    policy = in_force(region, year)
    return premium(categories, policy=policy), policy.ref, policy.window.closes, policy.resident.item


async def issue(work: Batch, records: Records) -> None:
    """EnrollmentApproved, for billing."""
    rows, people = [], []
    for record in records:
        f = _decode_approved(record.value)
        a, policy, closes, item = _assessed(tuple(f.categories), f.region_code, f.insurance_year)
        born = ObligationId(uuid7())
        people.append(f.person_id)
        rows.append(
            (
                born,
                1,
                f.enrollment_id,
                f.person_id,
                f.region_code,
                f.scheme,
                f.insurance_year,
                a.category,
                encode(f.categories).decode(),
                a.due_fen,
                a.subsidy_fen,
                policy,
                closes,
                "ISSUED",
                work.now,
                1,
            )
        )
        fact = BillIssued(
            journey=f.journey,
            region_code=f.region_code,
            person_id=f.person_id,
            enrollment_id=f.enrollment_id,
            obligation_id=born,
            version=1,
            scheme=f.scheme,
            insurance_year=f.insurance_year,
            item=item,
            category=a.category,
            lines=a.lines,
            due_fen=a.due_fen,
            subsidy_fen=a.subsidy_fen,
            closes_on=closes,
            policy=policy,
            explanation=a.explanation,
        )
        work.say(record.partition, ON_BILLS, ISSUED, 1, f.person_id, born, encode(fact))
    if await work.db.fetchval("select count(*) from bill where person_id = any($1::uuid[])", people):
        raise SystemExit("billed before")
    await work.copy("bill", _BILL, rows)


_SETTLE = """update bill b set status = 'SETTLED', order_id = u.o, paid_at = u.at, sequence = b.sequence + 1
    from unnest($1::uuid[], $2::int[], $3::uuid[], $4::timestamptz[], $5::bigint[]) u(id, v, o, at, fen)
    where b.obligation_id = u.id and b.version = u.v and b.status = 'ISSUED' and b.due_fen = u.fen"""


async def settle(work: Batch, records: Records) -> None:
    """PaymentSettled, for billing."""
    facts = [_decode_paid(record.value) for record in records]
    await work.exactly(
        len(facts),
        _SETTLE,
        [f.obligation_id for f in facts],
        [f.version for f in facts],
        [f.order_id for f in facts],
        [f.paid_at for f in facts],
        [f.amount_fen for f in facts],
    )
    for record, f in zip(records, facts):
        fact = BillSettled(
            journey=f.journey,
            region_code=f.region_code,
            person_id=f.person_id,
            enrollment_id=f.enrollment_id,
            obligation_id=f.obligation_id,
            version=f.version,
            order_id=f.order_id,
            paid_fen=f.amount_fen,
            paid_at=f.paid_at,
        )
        work.say(record.partition, ON_BILLS, SETTLED, 2, f.person_id, f.obligation_id, encode(fact))


STEPS = {TYPES[APPROVED]: Step(True, issue), TYPES[PAID]: Step(True, settle)}
