"""What does payment do, a message in a transaction?"""

from bench.peers.careful.transaction import Handlers, Transaction
from contracts.billing import BILLS, BillIssued, BillSettled
from contracts.message import ObligationId, OrderId
from contracts.partners import PARTNERS
from contracts.payment import PaymentSettled, ReportPayment
from services.chassis.ids import uuid7

READS = [PARTNERS["bank"].topic, BILLS]
handlers = Handlers()


@handlers.on(BillIssued)
async def note(f: BillIssued, tx: Transaction) -> None:
    """A bill."""
    await tx.add(
        "obligation",
        obligation_id=f.obligation_id,
        person_id=f.person_id,
        enrollment_id=f.enrollment_id,
        journey=f.journey,
        region_code=f.region_code,
        insurance_year=f.insurance_year,
        version=f.version,
        due_fen=f.due_fen,
        status="DUE",
    )


@handlers.on(BillSettled)
async def close(f: BillSettled, tx: Transaction) -> None:
    """A bill is settled: it is known already."""
    await tx.one("select from obligation where obligation_id = $1 and status = 'SETTLED'", f.obligation_id)


_CLOSE = """update obligation set status = 'SETTLED', order_id = $2
    where obligation_id = $1 and status = 'DUE' and due_fen = $3
    returning journey, region_code, person_id::text, enrollment_id::text, version"""
_BOOK = """insert into ledger(entry_id, leg, account, amount_fen, order_id, posted_at)
    values ($1, 1, 1002, $2, $4, $5), ($1, 2, 2202, $3, $4, $5)"""


@handlers.on(ReportPayment)
async def report(c: ReportPayment, tx: Transaction) -> None:
    """The bank's word."""
    order, fen = OrderId(uuid7()), c.amount_fen
    due = await tx.one(_CLOSE, c.obligation_id, order, fen)
    await tx.add(
        "orders",
        order_id=order,
        person_id=c.person_id,
        channel_code="bank",
        partner="bank",
        request_id=c.request_id,
        amount_fen=fen,
        status="SETTLED",
        channel_ref=c.channel_ref,
        created_at=tx.now,
        paid_at=c.paid_at,
        sequence=1,
    )
    await tx.add(
        "order_item",
        order_id=order,
        item=0,
        person_id=c.person_id,
        obligation_id=c.obligation_id,
        version=due["version"],
        amount_fen=fen,
        status="SETTLED",
    )
    await tx.add(
        "receipt",
        channel_code="bank",
        channel_ref=c.channel_ref,
        order_id=order,
        obligation_id=c.obligation_id,
        amount_fen=fen,
        reason="",
        paid_at=c.paid_at,
        received_at=tx.now,
    )
    await tx.db.execute(_BOOK, uuid7(), fen, -fen, order, tx.now)
    await tx.say(
        PaymentSettled(
            **due,
            obligation_id=ObligationId(c.obligation_id),
            order_id=order,
            item=0,
            amount_fen=fen,
            channel_code="bank",
            channel_ref=c.channel_ref,
            paid_at=c.paid_at,
            posted_at=tx.now,
        )
    )
    await tx.answer("bank", c, order_id=order, status="SETTLED", reason="")
