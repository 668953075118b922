"""Whose is this id, and of which enrollment? Any id that one of our services has given, or a partner's.

Every look goes by an index that stands there for the services themselves or for the console.
"""

import asyncio
from datetime import datetime
from typing import Any

import asyncpg
from msgspec import Struct
from msgspec.json import decode

from cli.history import UUID, lately
from contracts.partners import PARTNERS
from contracts.topics import SERVICES

# Whose and of which enrollment and journey is it? One query a kind, in the order they are tried.
_KINDS = {
    "person": "select person_id, null::uuid, '' from enrollment.person where person_id = $1::uuid",
    "enrollment": "select person_id, enrollment_id, '' from enrollment.enrollment"
    " where enrollment_id = $1::uuid",
    "bill": "select person_id, enrollment_id, '' from billing.bill where obligation_id = $1::uuid",
    "order": "select i.person_id, o.enrollment_id, '' from payment.order_item i"
    " left join payment.obligation o using (obligation_id) where i.order_id = $1::uuid"
    " union select person_id, null, '' from payment.orders where order_id = $1::uuid",
    "funds": "select person_id, enrollment_id, journey from payment.funds where funds_id = $1::uuid",
    "event": "select person_id, enrollment_id, journey from console.step where ce_id = $1::uuid",
    "notification": "select person_id, journey::uuid, '' from notify.notification"
    " where notification_id = $1::uuid",
}
_VERSION = f"{_KINDS['bill']} and version::text = $2"
_TRANSACTION = """
with taken as (select order_id, obligation_id from payment.receipt
               where channel_code = any($2::text[]) and channel_ref = $1)
select i.person_id, o.enrollment_id, '' from taken join payment.order_item i using (order_id)
left join payment.obligation o on o.obligation_id = i.obligation_id
union select o.person_id, o.enrollment_id, '' from taken join payment.obligation o using (obligation_id)
union select person_id, enrollment_id, journey from console.step
where channel_ref = $1 and channel_ref <> '' and type not like 'answer.%'"""
_REQUEST = """
select partner, request_id, command, answer, key, at + skew
from {service}.request, {service}.clock where partner = any($1::text[]) and request_id = $2"""


class Request(Struct, frozen=True, kw_only=True):
    """What a partner asked for, as the service keeps it. told: the answer, empty until there is one. at:
    business instant.
    """

    service: str
    partner: str
    request_id: str
    command: str
    told: dict[str, Any]
    at: datetime


class Scope(Struct, kw_only=True):
    """What an id leads to. whole: all years of the persons, not these enrollments alone. journeys: of what
    has no enrollment too. requests: those that were asked with this very id.
    """

    kind: str
    persons: set[str]
    enrollments: set[str] = set()
    journeys: set[str] = set()
    requests: list[Request] = []
    whole: bool = False

    def add(self, enrollments: set[str]) -> None:
        """These belong to it; an enrollment's journey is its id without dashes."""
        self.enrollments |= enrollments
        self.journeys |= {enrollment.replace("-", "") for enrollment in enrollments}


async def resolve(connections: list[asyncpg.Connection], wanted: str) -> Scope | None:
    """What the id leads to; None: nobody knows it. connections: one for each of SERVICES, as the auditor."""
    db, (text, slash, version) = connections[0], wanted.lower().partition("/")
    if not UUID.fullmatch(text):
        rows = await db.fetch(_TRANSACTION, wanted, list(PARTNERS))
        return _scope("transaction", rows) or await _request(connections, wanted)
    if slash:
        return _scope("bill", await db.fetch(_VERSION, text, version)) or await _request(connections, wanted)
    for kind, sql in _KINDS.items():
        if rows := await db.fetch(sql, text):
            return _scope(kind, rows)
    if said := await lately(connections, text):
        return _scope("event", [(said.person_id, said.enrollment_id, said.journey)])
    return await _request(connections, wanted)


def _scope(kind: str, rows: list[Any]) -> Scope | None:
    """rows: person, enrollment, journey."""
    if not rows:
        return None
    scope = Scope(kind=kind, persons={str(row[0]) for row in rows if row[0]})
    scope.add({str(row[1]) for row in rows if row[1]})
    scope.journeys |= {row[2] for row in rows if row[2]}
    scope.whole = not scope.journeys
    return scope


async def _request(connections: list[asyncpg.Connection], wanted: str) -> Scope | None:
    """A partner's request id; the answer names whom it was about, where the key does not."""
    found = await asyncio.gather(
        *(
            db.fetch(_REQUEST.format(service=service), list(PARTNERS), wanted)
            for service, db in zip(SERVICES, connections, strict=True)
        )
    )
    scope = Scope(kind="request", persons=set(), whole=True)
    for service, rows in zip(SERVICES, found, strict=True):
        for partner, request_id, command, answer, key, at in rows:
            told = decode(answer) if answer else {}
            asked = Request(
                service=service, partner=partner, request_id=request_id, command=command, told=told, at=at
            )
            scope.requests.append(asked)
            person = told.get("result", {}).get("person_id", key)
            if isinstance(person, str) and UUID.fullmatch(person):
                scope.persons.add(person)
    return scope if scope.requests else None
