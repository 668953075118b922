"""What has happened around one id, in every service? Read from the services' own schemas, as the auditor.

So it tells the truth also while the console is away, and after topics and traces have expired.
"""

import asyncio
import re
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from msgspec import Struct, field
from msgspec.json import decode

from contracts.topics import SERVICES
from sandbox.stack import Stack
from services.chassis.ids import millis
from services.chassis.refs import Refs
from services.console.rules import BY_TYPE, details, title, yuan

_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_PERSON_RECORDED = "enrollment.person_recorded.v1"
_EVENT_MARGIN = timedelta(minutes=10)  # an event's id and its row's `at` are drawn by two clocks
_ACCOUNTS = {
    1002: "渠道待清算 1002 clearing",
    2202: "应缴基金 2202 premiums",
    2203: "待处理款项 2203 suspense",
}

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


class Entry(Struct, frozen=True, kw_only=True):
    """One thing that happened. at: business instant. kind: fact, command, ledger, receipt or parked."""

    at: datetime
    order: int  # system time in ms, where business time is the same
    service: str
    kind: str
    zh: str
    en: str
    details: str
    id: str


class State(Struct, frozen=True, kw_only=True):
    """How a row stands now."""

    service: str
    what: str
    id: str
    status: str
    details: str


class Timeline(Struct, frozen=True, kw_only=True):
    """All of it, in order of business time."""

    id: str
    kind: str
    persons: list[str]
    names_masked: list[str]
    journeys: list[str]
    states: list[State] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


async def find(stack: Stack, wanted: str) -> Timeline | None:
    """The timeline of a person, enrollment, journey, bill, order, funds, event, notification, request or a channel's
    transaction number; None: no service knows it. OSError, asyncpg.PostgresError: the database is not there."""
    async with AsyncExitStack() as opened:

        async def connect() -> asyncpg.Connection:
            db = await asyncpg.connect(stack.database_url("auditor"), ssl="disable", timeout=5)
            opened.push_async_callback(db.close)
            return db

        connections = [await connect() for _ in SERVICES]
        scope = await _resolve(connections, wanted)
        if scope is None:
            return None
        if scope.whole:
            rows = await connections[0].fetch(
                "select enrollment_id::text from enrollment.enrollment where person_id = any($1::uuid[])",
                list(scope.persons),
            )
            scope.enrollments |= {row[0] for row in rows}
        return await _tell(connections, scope, wanted)


async def _resolve(connections: list[asyncpg.Connection], wanted: str) -> Scope | None:
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
                f"select key, journey from {service}.outbox where ce_id = $1::uuid and at between $2 and $3",  # noqa: S608
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
            db.fetch(f"select key, answer from {service}.request where request_id = $1", wanted)  # noqa: S608
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


async def _tell(connections: list[asyncpg.Connection], scope: Scope, wanted: str) -> Timeline:
    parts = await asyncio.gather(
        *(_facts(db, service, scope) for service, db in zip(SERVICES, connections, strict=True))
    )
    db = connections[0]
    obligations, orders, states = await _states(db, scope)
    entries = [entry for part in parts for entry in part]
    entries += await _money(db, obligations, orders, scope)
    for service, other in zip(SERVICES, connections, strict=True):
        entries += await _commands(other, service, scope)
        entries += await _parked(other, service, _refs(service, scope, obligations, orders))
    names = await db.fetch(
        "select distinct name_masked from notify.addressee where person_id = any($1::uuid[])",
        sorted(scope.persons),
    )
    return Timeline(
        id=wanted,
        kind=scope.kind,
        persons=sorted(scope.persons),
        names_masked=sorted(row[0] for row in names),
        journeys=scope.journeys,
        states=states,
        entries=sorted(entries, key=lambda e: (e.at, e.order)),
    )


async def _facts(db: asyncpg.Connection, service: str, scope: Scope) -> list[Entry]:
    """What the service has said. Seals are not looked at: only what the console would show."""
    rows = await db.fetch(
        "select type, ce_id::text, ce_time, topic, part, payload from"  # noqa: S608 -- a name of ours
        f" {service}.outbox where (journey = any($1::text[]) or journey = '' and key = any($2::text[]) or $3 and key = any($2))"
        " and type not like 'answer.%'",
        scope.journeys,
        sorted(scope.persons),
        scope.whole,
    )
    entries = []
    for type_name, ce_id, at, topic, part, payload in rows:
        body = decode(payload)
        if type_name == _PERSON_RECORDED:
            zh, en, text = "已登记", "registered", f"{body['name_masked']}；统筹区 {body['region_code']}"
        elif type_name in BY_TYPE:
            zh, en = title(type_name)
            text = details(type_name, body)
        else:
            zh, en, text = type_name, type_name, ""
        entries.append(
            Entry(
                at=at,
                order=millis(ce_id),
                service=service,
                kind="fact",
                zh=zh,
                en=en,
                details=text,
                id=f"{topic}/{part} {ce_id}",
            )
        )
    return entries


async def _commands(db: asyncpg.Connection, service: str, scope: Scope) -> list[Entry]:
    """What partners asked for about these persons, and what they were told."""
    rows = await db.fetch(
        "select r.partner, r.request_id, r.command, r.answer, r.at, c.skew"  # noqa: S608 -- a name of ours
        f" from {service}.request r, {service}.clock c where r.key = any($1::text[])",
        sorted(scope.persons),
    )
    entries = []
    for partner, request_id, command, answer, at, skew in rows:
        told: dict[str, Any] = decode(answer) if answer else {}
        outcome = told.get("outcome", "PENDING")
        if refusal := told.get("refusal"):
            outcome += f" {refusal['zh']}（{refusal['code']}）"
        entries.append(
            Entry(
                at=datetime.fromisoformat(told["answered_at"]) if told else at + skew,
                order=int(at.timestamp() * 1000) - 1,
                service=service,
                kind="command",
                zh="渠道请求",
                en=command.split(".")[1].replace("_", " "),
                details=f"{partner} → {outcome}",
                id=request_id,
            )
        )
    return entries


async def _states(db: asyncpg.Connection, scope: Scope) -> tuple[list[str], list[str], list[State]]:
    """Obligations and orders of the enrollments, and how every row stands."""
    enrollments = sorted(scope.enrollments)
    obligations = [
        row[0]
        for row in await db.fetch(
            "select obligation_id::text from payment.obligation where enrollment_id = any($1::uuid[])"
            " union select obligation_id::text from billing.bill where enrollment_id = any($1::uuid[])",
            enrollments,
        )
    ]
    orders = [
        row[0]
        for row in await db.fetch(
            "select order_id::text from payment.order_item where obligation_id = any($1::uuid[])"
            " union select order_id::text from payment.funds where enrollment_id = any($2::uuid[]) and order_id is not null",
            obligations,
            enrollments,
        )
    ]
    states = []
    for service, what, sql, ids in (
        (
            "enrollment",
            "参保登记 enrollment",
            "select enrollment_id, status, insurance_year || ' ' || scheme || ' ' || channel_code"
            " from enrollment.enrollment where enrollment_id = any($1::uuid[])",
            enrollments,
        ),
        (
            "enrollment",
            "待遇 coverage",
            "select enrollment_id, status, coalesce(starts_on || ' – ' || ends_on, '')"
            " from enrollment.coverage where enrollment_id = any($1::uuid[])",
            enrollments,
        ),
        (
            "billing",
            "缴费单 bill",
            "select obligation_id::text || '/' || version, status, due_fen"
            " from billing.bill where obligation_id = any($1::uuid[]) order by version",
            obligations,
        ),
        (
            "payment",
            "应缴 obligation",
            "select obligation_id, status, due_fen"
            " from payment.obligation where obligation_id = any($1::uuid[])",
            obligations,
        ),
        (
            "payment",
            "订单 order",
            "select order_id, status, amount_fen"
            " from payment.orders where order_id = any($1::uuid[]) order by created_at",
            orders,
        ),
        (
            "payment",
            "待处理款项 funds",
            "select funds_id, status || ' ' || reason, amount_fen"
            " from payment.funds where enrollment_id = any($1::uuid[])",
            enrollments,
        ),
        (
            "notify",
            "通知 notification",
            "select notification_id, status, template || ' ' || road || ' ' || to_masked"
            " from notify.notification where journey = any($1::text[]) order by born_at",
            scope.journeys,
        ),
    ):
        for id, status, more in await db.fetch(sql, ids):
            text = yuan(more) if isinstance(more, int) else more
            states.append(State(service=service, what=what, id=str(id), status=status, details=text))
    return obligations, orders, states


async def _money(
    db: asyncpg.Connection, obligations: list[str], orders: list[str], scope: Scope
) -> list[Entry]:
    """Receipts and ledger lines."""
    receipts = await db.fetch(
        "select channel_code, channel_ref, amount_fen, reason, received_at from payment.receipt"
        " where order_id = any($1::uuid[]) or obligation_id = any($2::uuid[])",
        orders,
        obligations,
    )
    entries = [
        Entry(
            at=at,
            order=0,
            service="payment",
            kind="receipt",
            zh="渠道收款",
            en="received",
            details="；".join(filter(None, (yuan(fen), channel, reason))),
            id=ref,
        )
        for channel, ref, fen, reason, at in receipts
    ]
    lines = await db.fetch(
        "select entry_id::text, leg, account, amount_fen, posted_at from payment.ledger where order_id = any($1::uuid[])"
        " or entry_id in (select funds_id from payment.funds where enrollment_id = any($2::uuid[])) order by entry_id, leg",
        orders,
        sorted(scope.enrollments),
    )
    for entry_id, leg, account, fen, at in lines:
        side = "借 debit" if fen > 0 else "贷 credit"
        entries.append(
            Entry(
                at=at,
                order=millis(entry_id) + leg,
                service="payment",
                kind="ledger",
                zh="记账",
                en="ledger",
                details=f"{side} {_ACCOUNTS.get(account, account)} {yuan(abs(fen))}",
                id=f"{entry_id}/{leg}",
            )
        )
    return entries


async def _parked(db: asyncpg.Connection, service: str, refs: list[int]) -> list[Entry]:
    """What stands aside and holds these refs."""
    rows = await db.fetch(
        'select distinct p.seq, p.state, p.reason, p.type, p.topic, p.partition, p."offset", p.at, c.skew'  # noqa: S608
        f" from {service}.parked_ref r join {service}.parked p using (seq), {service}.clock c where r.ref = any($1::bigint[])",
        refs,
    )
    return [
        Entry(
            at=row["at"] + row["skew"],
            order=int(row["at"].timestamp() * 1000),
            service=service,
            kind="parked",
            zh="搁置",
            en=row["state"].lower(),
            details=f"{row['type']} {row['reason']}",
            id=f"{row['seq']}: {row['topic']}/{row['partition']}/{row['offset']}",
        )
        for row in rows
    ]


def _refs(service: str, scope: Scope, obligations: list[str], orders: list[str]) -> list[int]:
    """The numbers under which a service would have parked something about these: as its handlers name them."""
    refs = Refs(service)
    kinds: dict[str, Iterable[str]] = {"person": scope.persons, "obligation": obligations, "order": orders}
    return [refs.by_uuid(kind)(id) for kind, ids in kinds.items() for id in ids]


def _dashed(journey: str) -> str:
    return f"{journey[:8]}-{journey[8:12]}-{journey[12:16]}-{journey[16:20]}-{journey[20:]}"
