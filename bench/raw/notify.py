"""Which rows does telling somebody make at least?"""

from functools import lru_cache

import msgspec
from msgspec import Struct

from bench.raw.batch import ACTIVATED, ISSUED, PAID, TYPES, Batch, Records, Step, encode
from contracts.billing import BILLS, BillIssued
from contracts.enrollment import COVERAGES, ENROLLMENTS, CoverageActivated
from contracts.payment import PAYMENTS, PaymentSettled
from contracts.policy import help_of
from services.chassis.ids import uuid7
from services.notify.rules.words import Told, words

READS = [ENROLLMENTS, COVERAGES, BILLS, PAYMENTS]


class SendSms(Struct, frozen=True, gc=False):
    """The call row's payload; the contact is put in as it lies in its row."""

    notification_id: str
    person_id: str
    contact: msgspec.Raw
    template: str
    params: dict[str, str]


_NOTIFICATION = (
    "notification_id",
    "person_id",
    "journey",
    "region_code",
    "template",
    "params",
    "to_masked",
    "road",
    "status",
    "attempts",
    "provider_ref",
    "reason",
    "born_at",
)
_CONTACTS = """select person_id::text, region_code, name_masked, contact from addressee
    where person_id = any($1::uuid[])"""


def _tells(message: type[Struct]) -> Step:
    decode = msgspec.json.Decoder(message).decode

    async def tell(work: Batch, records: Records) -> None:
        facts: list[Told] = [decode(record.value) for record in records]  # type: ignore[misc]
        known = {row[0]: row for row in await work.db.fetch(_CONTACTS, [f.person_id for f in facts])}
        rows, calls = [], []
        for record, f in zip(records, facts):
            person, region, name, contact = known[f.person_id]
            template, params = words(f)
            params |= {"name": name, "hotline": _hotline(region)}
            number = record.headers[1][1].decode()
            rows.append(
                (
                    number,
                    person,
                    f.journey,
                    region,
                    template,
                    encode(params).decode(),
                    name,
                    "SMS",
                    "SENDING",
                    1,
                    "",
                    "",
                    work.now,
                )
            )
            call = SendSms(number, person, msgspec.Raw(contact.encode()), template, params)
            calls.append((uuid7(), number, "SendSms", encode(call), f.journey))
        await work.copy("notification", _NOTIFICATION, rows)
        await work.copy("call", ("id", "number", "type", "payload", "journey"), calls)

    return Step(True, tell)


@lru_cache
def _hotline(region: str) -> str:
    found = help_of(region)
    return getattr(found, "hotline", "")


STEPS = {
    TYPES[ISSUED]: _tells(BillIssued),
    TYPES[PAID]: _tells(PaymentSettled),
    TYPES[ACTIVATED]: _tells(CoverageActivated),
}
