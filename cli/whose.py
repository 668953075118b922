"""Whose is this id, and of which enrollment? Any id that one of our services has given, or a partner's."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import asyncpg
from msgspec import Struct
from msgspec.json import decode

from contracts.topics import SERVICES
from services.chassis.ids import millis

_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_EVENT_MARGIN = timedelta(minutes=10)  # an event's id and its row's `at` are drawn by two clocks

# Whose and of which enrollment is it? One query a kind, in the order they are tried.
_KINDS = {
    "person": "select person_id, null::uuid from enrollment.person where person_id = $1::uuid",
    "enrollment": "select person_id, enrollment_id from enrollment.enrollment where enrollment_id = $1::uuid",
    "bill": "select person_id, enrollment_id from billing.bill where obligation_id = $1::uuid",
    "order": "select i.person_id, o.enrollment_id from payment.order_item i"
    " left join payment.obligation o using (obligation_id) where i.order_id = $1::uuid"
    " union select person_id, null from payment.orders where order_id = $1::uuid",
    "funds": "select person_id, enrollment_id from payment.funds where funds_id = $1::uuid",
}
_NOTIFICATION = "select person_id, journey::uuid from notify.notification where notification_id = $1::uuid"
_TRANSACTION = (
    "select i.person_id, b.enrollment_id from payment.orders o join payment.order_item i using (order_id)"
    " left join payment.obligation b on b.obligation_id = i.obligation_id where o.channel_ref = $1"
    " union select person_id, enrollment_id from payment.funds where channel_ref = $1"
    " union select b.person_id, b.enrollment_id from payment.receipt r"
    " join payment.obligation b using (obligation_id) where r.channel_ref = $1"
)


class Scope(Struct):
    """What an id leads to. whole: all years of the persons, not these enrollments alone."""

    kind: str
    persons: set[str]
    enrollments: set[str]
    whole: bool = False

    @property
    def journeys(self) -> list[str]:
        """The trace ids of the enrollments."""
        return sorted(enrollment.replace("-", "") for enrollment in self.enrollments)


async def resolve(connections: list[asyncpg.Connection], wanted: str) -> Scope | None:
    """What the id leads to; None: nobody knows it. connections: one for each of SERVICES, as the auditor."""
    text = wanted.lower().partition("/")[0]
    if not _UUID.fullmatch(text):
        return await _scope(connections[0], "transaction", _TRANSACTION, wanted) or await _request(
            connections, wanted
        )
    for kind, sql in _KINDS.items():
        found = await _scope(connections[0], kind, sql, text)
        if found is not None:
            return found
    return (
        await _event(connections, text)
        or await _scope(connections[0], "notification", _NOTIFICATION, text)
        or await _request(connections, wanted)
    )


async def _scope(db: asyncpg.Connection, kind: str, sql: str, value: str) -> Scope | None:
    rows = await db.fetch(sql, value)
    if not rows:
        return None
    persons = {str(row[0]) for row in rows if row[0]}
    enrollments = {str(row[1]) for row in rows if row[1]}
    return Scope(kind, persons, enrollments, whole=not enrollments)


async def _event(connections: list[asyncpg.Connection], text: str) -> Scope | None:
    """Outboxes have no index on ce_id, but the id says when it was drawn, and that names the month."""
    try:
        drawn = datetime.fromtimestamp(millis(text) / 1000, UTC)
    except ValueError:
        return None
    found = await asyncio.gather(
        *(
            db.fetch(
                f"select key, journey from {service}.outbox where ce_id = $1::uuid and at between $2 and $3",  # noqa: S608 - names of ours
                text,
                drawn - _EVENT_MARGIN,
                drawn + _EVENT_MARGIN,
            )
            for service, db in zip(SERVICES, connections, strict=True)
        )
    )
    rows = [row for part in found for row in part]
    if not rows:
        return None
    persons = {row[0] for row in rows if _UUID.fullmatch(row[0])}
    enrollments = {_dashed(row[1]) for row in rows if row[1]}
    return Scope("event", persons, enrollments, whole=not enrollments)


async def _request(connections: list[asyncpg.Connection], wanted: str) -> Scope | None:
    """A partner's request id; the answer names whom it was about, where the key does not."""
    found = await asyncio.gather(
        *(
            db.fetch(f"select key, answer from {service}.request where request_id = $1", wanted)  # noqa: S608 - names of ours
            for service, db in zip(SERVICES, connections, strict=True)
        )
    )
    persons: set[str] = set()
    for key, answer in (row for part in found for row in part):
        result = decode(answer).get("result", {}) if answer else {}
        person = result.get("person_id", key)
        if isinstance(person, str) and _UUID.fullmatch(person):
            persons.add(person)
    return Scope("request", persons, set(), whole=True) if persons else None


def _dashed(journey: str) -> str:
    return f"{journey[:8]}-{journey[8:12]}-{journey[12:16]}-{journey[16:20]}-{journey[20:]}"
