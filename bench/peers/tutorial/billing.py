"""What does billing do, a message at a time?"""

from faststream.kafka import KafkaRouter
from sqlmodel import select

from bench.peers.tutorial.app import Session, hears, kind, now, place, say
from bench.peers.tutorial.messages import (
    APPROVED,
    ISSUED,
    PAID,
    SETTLED,
    BillIssued,
    BillSettled,
    EnrollmentApproved,
    PaymentSettled,
)
from contracts.billing import BILLS
from contracts.enrollment import ENROLLMENTS
from contracts.payment import PAYMENTS
from contracts.policy import in_force
from services.billing.rules import premium
from services.billing.tables import Bill
from services.chassis.ids import uuid7

router = KafkaRouter(prefix=place.prefix)
approved, paid = hears(router, ENROLLMENTS), hears(router, PAYMENTS)
bills = router.publisher(BILLS)


@approved(filter=kind(APPROVED))
async def issue(f: EnrollmentApproved, session: Session) -> None:
    """An approval."""
    policy = in_force(f.region_code, f.insurance_year)
    due = premium(tuple(f.categories), policy=policy)
    common = f.model_dump(exclude={"journey", "categories"}) | {
        "obligation_id": uuid7(),
        "version": 1,
        "category": due.category,
        "due_fen": due.due_fen,
        "subsidy_fen": due.subsidy_fen,
        "policy": policy.ref,
        "closes_on": policy.window.closes,
    }
    session.add(Bill(**common, certified=f.categories, status="ISSUED", issued_at=now(), sequence=1))
    await session.commit()
    lines = [{"kind": x.kind, "fen": x.fen, "payable": x.payable, "label_zh": x.label_zh} for x in due.lines]
    fact = BillIssued(
        **common, journey=f.journey, item=policy.resident.item, lines=lines, explanation=due.explanation
    )
    await say(bills, ISSUED, fact, f.person_id)


@paid(filter=kind(PAID))
async def settle(f: PaymentSettled, session: Session) -> None:
    """A payment."""
    where = Bill.obligation_id == f.obligation_id, Bill.version == f.version
    row = (await session.exec(select(Bill).where(*where))).one()
    if row.status != "ISSUED" or row.due_fen != f.amount_fen:
        raise ValueError(f.obligation_id)
    row.status, row.order_id, row.paid_at, row.sequence = "SETTLED", f.order_id, f.paid_at, row.sequence + 1
    session.add(row)
    await session.commit()
    await say(bills, SETTLED, BillSettled(**f.model_dump(), paid_fen=f.amount_fen), f.person_id)
