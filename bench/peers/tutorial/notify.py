"""What does notify do, a message at a time?"""

import json
from typing import Annotated

from faststream import Header
from faststream.kafka import KafkaRouter

from bench.peers.tutorial.app import Session, hears, kind, now, place
from bench.peers.tutorial.messages import (
    ACTIVATED,
    ISSUED,
    PAID,
    BillIssued,
    Call,
    Case,
    CoverageActivated,
    PaymentSettled,
)
from contracts.billing import BILLS
from contracts.enrollment import COVERAGES
from contracts.payment import PAYMENTS
from contracts.policy import Help, help_of
from services.chassis.ids import uuid7
from services.notify.rules.words import yuan
from services.notify.tables import Addressee, Notification

router = KafkaRouter(prefix=place.prefix)
bills, payments, coverages = (hears(router, topic) for topic in (BILLS, PAYMENTS, COVERAGES))
Number = Annotated[str, Header("ce_id")]


async def tell(f: Case, number: str, session: Session, template: str, **params: str) -> None:
    """The notification and the call that will send it."""
    known = await session.get_one(Addressee, f.person_id)
    found = help_of(known.region_code)
    assert isinstance(found, Help)
    params |= {"name": known.name_masked, "hotline": found.hotline}
    session.add(
        Notification(
            notification_id=number,
            person_id=f.person_id,
            journey=f.journey,
            region_code=known.region_code,
            template=template,
            params=params,
            to_masked=known.name_masked,
            road="SMS",
            status="SENDING",
            attempts=1,
            provider_ref="",
            reason="",
            born_at=now(),
            ended_at=None,
        )
    )
    said = {
        "notification_id": number,
        "person_id": f.person_id,
        "contact": known.contact,
        "template": template,
    }
    payload = json.dumps(said | {"params": params}).encode()
    session.add(Call(id=uuid7(), number=number, type="SendSms", payload=payload, journey=f.journey))
    await session.commit()


@bills(filter=kind(ISSUED))
async def tell_bill(f: BillIssued, number: Number, session: Session) -> None:
    """A bill."""
    by = f.closes_on.isoformat()
    await tell(f, number, session, "bill_issued", year=str(f.insurance_year), by=by, amount=yuan(f.due_fen))


@payments(filter=kind(PAID))
async def tell_payment(f: PaymentSettled, number: Number, session: Session) -> None:
    """A payment."""
    await tell(
        f, number, session, "payment_settled", on=f.paid_at.date().isoformat(), amount=yuan(f.amount_fen)
    )


@coverages(filter=kind(ACTIVATED))
async def tell_coverage(f: CoverageActivated, number: Number, session: Session) -> None:
    """Cover."""
    starts, ends = f.starts_on.isoformat(), f.ends_on.isoformat()
    await tell(f, number, session, "coverage_activated", year=str(f.insurance_year), starts=starts, ends=ends)
