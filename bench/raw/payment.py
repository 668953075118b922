"""Which rows and facts do bills and a bank's reports make at least?"""

import msgspec
from msgspec import Struct

from bench.clients import Heard
from bench.raw.batch import (
    ISSUED,
    ON_PAYMENTS,
    PAID,
    SETTLED,
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
from contracts.enrollment import Identity
from contracts.message import EnrollmentId, ObligationId, OrderId, PersonId, Sealed
from contracts.partners import PARTNERS
from contracts.payment import PaymentSettled, ReportPayment
from services.chassis.ids import uuid7

READS = [PARTNERS["bank"].topic, BILLS]


class _Issued(Struct, gc=False):
    journey: str
    region_code: str
    person_id: PersonId
    enrollment_id: EnrollmentId
    obligation_id: ObligationId
    version: int
    insurance_year: int
    due_fen: int


class _Settled(Struct, gc=False):
    obligation_id: str


_decode_issued = msgspec.json.Decoder(_Issued).decode
_decode_report = msgspec.json.Decoder(ReportPayment).decode
_decode_settled = msgspec.json.Decoder(_Settled).decode
_decode_identity = msgspec.json.Decoder(Sealed[Identity]).decode

_OBLIGATION = (
    "obligation_id",
    "person_id",
    "enrollment_id",
    "journey",
    "region_code",
    "insurance_year",
    "version",
    "due_fen",
    "status",
)
_ORDER = (
    "order_id",
    "person_id",
    "channel_code",
    "partner",
    "request_id",
    "amount_fen",
    "status",
    "channel_ref",
    "created_at",
    "paid_at",
    "sequence",
)
_ITEM = ("order_id", "item", "person_id", "obligation_id", "version", "amount_fen", "status")
_RECEIPT = (
    "channel_code",
    "channel_ref",
    "order_id",
    "obligation_id",
    "amount_fen",
    "reason",
    "paid_at",
    "received_at",
)
_LEG = ("entry_id", "leg", "account", "amount_fen", "order_id", "posted_at")


async def note(work: Batch, records: Records) -> None:
    """BillIssued, for payment."""
    facts = [_decode_issued(record.value) for record in records]
    if await work.db.fetchval(
        "select count(*) from obligation where obligation_id = any($1::uuid[])",
        [f.obligation_id for f in facts],
    ):
        raise SystemExit("heard before")
    await work.copy(
        "obligation",
        _OBLIGATION,
        [
            (
                f.obligation_id,
                f.person_id,
                f.enrollment_id,
                f.journey,
                f.region_code,
                f.insurance_year,
                f.version,
                f.due_fen,
                "DUE",
            )
            for f in facts
        ],
    )


_DUE = """select o.obligation_id::text, o.person_id::text, o.enrollment_id::text, o.journey, o.region_code,
        o.version, o.due_fen, p.identity
    from obligation o join person p using (person_id)
    where o.obligation_id = any($1::uuid[]) and o.status = 'DUE'"""
_RECEIVED = "select count(*) from receipt where channel_code = 'bank' and channel_ref = any($1::text[])"
_CLOSE = """update obligation o set status = 'SETTLED', order_id = u.o
    from unnest($1::uuid[], $2::uuid[]) u(id, o) where o.obligation_id = u.id and o.status = 'DUE'"""


def _read(work: Batch, record: Heard) -> ReportPayment:
    verify(work, record)
    return _decode_report(record.value)


async def report(work: Batch, records: Records) -> None:
    """ReportPayment."""
    commands = [_read(work, record) for record in records]
    ids = [c.obligation_id for c in commands]
    dues = {row[0]: row for row in await work.db.fetch(_DUE, ids)}
    if await work.db.fetchval(_RECEIVED, [c.channel_ref for c in commands]):
        raise SystemExit("reported before")
    paid, items, receipts, legs, results = [], [], [], [], []
    for record, c in zip(records, commands):
        _, person, enrollment, journey, region, version, due, identity = dues[c.obligation_id]
        payer = work.keys.open(c.payer_saw, Identity, place=c.channel_ref)
        if (due, person, work.keys.open(_decode_identity(identity), Identity, place=person)) != (
            c.amount_fen,
            c.person_id,
            payer,
        ):
            raise SystemExit("it does not fit the bill")
        order, entry = OrderId(uuid7()), uuid7()
        paid.append(
            (
                order,
                person,
                "bank",
                "bank",
                c.request_id,
                due,
                "SETTLED",
                c.channel_ref,
                work.now,
                c.paid_at,
                1,
            )
        )
        items.append((order, 0, person, c.obligation_id, version, due, "SETTLED"))
        receipts.append(("bank", c.channel_ref, order, c.obligation_id, due, "", c.paid_at, work.now))
        legs.append((entry, 1, 1002, due, order, work.now))
        legs.append((entry, 2, 2202, -due, order, work.now))
        fact = PaymentSettled(
            journey=journey,
            region_code=region,
            person_id=person,
            enrollment_id=enrollment,
            obligation_id=ObligationId(c.obligation_id),
            version=version,
            order_id=order,
            item=0,
            amount_fen=due,
            channel_code="bank",
            channel_ref=c.channel_ref,
            paid_at=c.paid_at,
            posted_at=work.now,
        )
        work.say(record.partition, ON_PAYMENTS, PAID, 1, person, order, encode(fact))
        results.append({"order_id": order, "status": "SETTLED", "reason": ""})
    await work.copy("orders", _ORDER, paid)
    await work.copy("order_item", _ITEM, items)
    await work.copy("receipt", _RECEIPT, receipts)
    await work.copy("ledger", _LEG, legs)
    await work.exactly(len(ids), _CLOSE, ids, [row[0] for row in paid])
    await answer(work, "bank", TO_BANK, records, commands, results)


async def close(work: Batch, records: Records) -> None:
    """BillSettled, for payment: it knows already."""
    ids = [_decode_settled(record.value).obligation_id for record in records]
    sql = "select count(*) from obligation where obligation_id = any($1::uuid[]) and status = 'SETTLED'"
    if await work.db.fetchval(sql, ids) != len(ids):
        raise SystemExit("settled elsewhere")


STEPS = {
    TYPES[ISSUED]: Step(True, note),
    b"payment.report_payment.v1": Step(False, report),
    TYPES[SETTLED]: Step(True, close),
}
