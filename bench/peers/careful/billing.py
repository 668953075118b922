"""What does billing do, a message in a transaction?"""

from bench.peers.careful.transaction import Handlers, Transaction, encode
from contracts.billing import BillIssued, BillSettled
from contracts.enrollment import ENROLLMENTS, EnrollmentApproved
from contracts.message import ObligationId
from contracts.payment import PAYMENTS, PaymentSettled
from contracts.policy import in_force
from services.billing.rules import premium
from services.chassis.ids import uuid7

READS = [ENROLLMENTS, PAYMENTS]
handlers = Handlers()


@handlers.on(EnrollmentApproved)
async def issue(f: EnrollmentApproved, tx: Transaction) -> None:
    """An approval."""
    policy = in_force(f.region_code, f.insurance_year)
    due, born = premium(tuple(f.categories), policy=policy), ObligationId(uuid7())
    await tx.add(
        "bill",
        obligation_id=born,
        version=1,
        enrollment_id=f.enrollment_id,
        person_id=f.person_id,
        region_code=f.region_code,
        scheme=f.scheme,
        insurance_year=f.insurance_year,
        category=due.category,
        certified=encode(f.categories).decode(),
        due_fen=due.due_fen,
        subsidy_fen=due.subsidy_fen,
        policy=policy.ref,
        closes_on=policy.window.closes,
        status="ISSUED",
        issued_at=tx.now,
        sequence=1,
    )
    await tx.say(
        BillIssued(
            journey=f.journey,
            region_code=f.region_code,
            person_id=f.person_id,
            enrollment_id=f.enrollment_id,
            obligation_id=born,
            version=1,
            scheme=f.scheme,
            insurance_year=f.insurance_year,
            item=policy.resident.item,
            category=due.category,
            lines=due.lines,
            due_fen=due.due_fen,
            subsidy_fen=due.subsidy_fen,
            closes_on=policy.window.closes,
            policy=policy.ref,
            explanation=due.explanation,
        )
    )


_SETTLE = """update bill set status = 'SETTLED', order_id = $3, paid_at = $4, sequence = sequence + 1
    where obligation_id = $1 and version = $2 and status = 'ISSUED' and due_fen = $5 returning 1"""


@handlers.on(PaymentSettled)
async def settle(f: PaymentSettled, tx: Transaction) -> None:
    """A payment."""
    await tx.one(_SETTLE, f.obligation_id, f.version, f.order_id, f.paid_at, f.amount_fen)
    await tx.say(
        BillSettled(
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
    )
