"""What does payment do, a message at a time?"""

from datetime import datetime

from faststream.kafka import KafkaRouter

from bench.peers.tutorial.app import Session, accepted, hears, kind, now, place, request, say
from bench.peers.tutorial.messages import (
    ACCEPTED,
    ISSUED,
    PAID,
    REPORT,
    SETTLED,
    BillIssued,
    BillSettled,
    PaymentSettled,
    ReportPayment,
)
from contracts.billing import BILLS
from contracts.partners import PARTNERS
from contracts.payment import PAYMENTS
from services.chassis.ids import uuid7
from services.payment.tables import Ledger, Obligation, Order, OrderItem, Receipt

BANK = PARTNERS["bank"]
router = KafkaRouter(prefix=place.prefix)
reported, billed = hears(router, BANK.topic), hears(router, BILLS)
payments, to_payer = router.publisher(PAYMENTS), router.publisher(BANK.replies)


@billed(filter=kind(ISSUED))
async def note(f: BillIssued, session: Session) -> None:
    """A bill."""
    keep = f.model_dump(include=set(Obligation.model_fields))
    session.add(Obligation(**keep, status="DUE"))
    await session.commit()


@billed(filter=kind(SETTLED))
async def close(f: BillSettled, session: Session) -> None:
    """A bill is settled: it is known already."""
    if (await session.get_one(Obligation, f.obligation_id)).status != "SETTLED":
        raise ValueError(f.obligation_id)


async def owed(c: ReportPayment, session: Session) -> Obligation:
    """What the money is for."""
    due = await session.get_one(Obligation, c.obligation_id)
    if due.status != "DUE" or due.due_fen != c.amount_fen:
        raise ValueError(c.obligation_id)
    return due


def legs(order: str, fen: int, at: datetime) -> list[Ledger]:
    """The entry in the books."""
    entry = uuid7()
    return [
        Ledger(entry_id=entry, leg=1, account=1002, amount_fen=fen, order_id=order, posted_at=at),
        Ledger(entry_id=entry, leg=2, account=2202, amount_fen=-fen, order_id=order, posted_at=at),
    ]


@reported(filter=kind(REPORT))
async def report(c: ReportPayment, session: Session) -> None:
    """The bank's word."""
    due = await owed(c, session)
    order, at, fen = uuid7(), now(), c.amount_fen
    due.status, due.order_id = "SETTLED", order
    session.add_all(
        [
            due,
            Order(
                order_id=order,
                person_id=c.person_id,
                channel_code="bank",
                partner="bank",
                request_id=c.request_id,
                amount_fen=fen,
                status="SETTLED",
                channel_ref=c.channel_ref,
                created_at=at,
                paid_at=c.paid_at,
                sequence=1,
            ),
            OrderItem(
                order_id=order,
                item=0,
                person_id=c.person_id,
                obligation_id=c.obligation_id,
                version=due.version,
                amount_fen=fen,
                status="SETTLED",
            ),
            Receipt(
                channel_code="bank",
                channel_ref=c.channel_ref,
                order_id=order,
                obligation_id=c.obligation_id,
                amount_fen=fen,
                reason="",
                paid_at=c.paid_at,
                received_at=at,
            ),
            *legs(order, fen, at),
        ]
    )
    answer = accepted(c, REPORT, order_id=order, status="SETTLED", reason="")
    session.add(request("bank", c, answer))
    await session.commit()
    fact = PaymentSettled(
        **c.model_dump(),
        journey=due.journey,
        region_code=due.region_code,
        item=0,
        order_id=order,
        enrollment_id=str(due.enrollment_id),
        version=due.version,
        channel_code="bank",
        posted_at=at,
    )
    await say(payments, PAID, fact, c.person_id)
    await say(to_payer, ACCEPTED, answer, c.person_id)
