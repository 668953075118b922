"""What does notify do, a message in a transaction?"""

import msgspec

from bench.peers.careful.transaction import Handlers, Transaction, encode
from contracts.billing import BILLS, BillIssued
from contracts.enrollment import COVERAGES, CoverageActivated
from contracts.payment import PAYMENTS, PaymentSettled
from contracts.policy import Help, help_of
from services.chassis.ids import uuid7
from services.notify.rules.words import words

READS = [BILLS, PAYMENTS, COVERAGES]
handlers = Handlers()
_CONTACT = "select region_code, name_masked, contact from addressee where person_id = $1"


@handlers.on(BillIssued)
@handlers.on(PaymentSettled)
@handlers.on(CoverageActivated)
async def tell(f: BillIssued | PaymentSettled | CoverageActivated, tx: Transaction) -> None:
    """The notification and the call that will send it."""
    region, name, contact = await tx.one(_CONTACT, f.person_id)
    template, params = words(f)
    found = help_of(region)
    assert isinstance(found, Help)
    params |= {"name": name, "hotline": found.hotline}
    await tx.add(
        "notification",
        notification_id=tx.number,
        person_id=f.person_id,
        journey=f.journey,
        region_code=region,
        template=template,
        params=encode(params).decode(),
        to_masked=name,
        road="SMS",
        status="SENDING",
        attempts=1,
        provider_ref="",
        reason="",
        born_at=tx.now,
    )
    said = {"notification_id": tx.number, "person_id": f.person_id, "contact": msgspec.Raw(contact.encode())}
    payload = encode(said | {"template": template, "params": params})
    await tx.add("call", id=uuid7(), number=tx.number, type="SendSms", payload=payload, journey=f.journey)
