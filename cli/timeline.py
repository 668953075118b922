"""What has happened around one id, in every service? Read from the services' own schemas, as the auditor.

So it tells the truth also while the console is away, and after topics and traces have expired.
"""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import asyncpg
from msgspec import Struct, field
from msgspec.json import decode

from cli.whose import Scope, resolve
from contracts.topics import SERVICES
from sandbox.stack import Stack
from services.chassis.ids import millis
from services.chassis.refs import Refs
from services.console.rules import BY_TYPE, details, title, yuan

_PERSON_RECORDED = "enrollment.person_recorded.v1"
_ACCOUNTS = {
    1002: "渠道待清算 1002 clearing",
    2202: "应缴基金 2202 premiums",
    2203: "待处理款项 2203 suspense",
}
_OBLIGATIONS = """
select obligation_id::text from payment.obligation where enrollment_id = any($1::uuid[])
union select obligation_id::text from billing.bill where enrollment_id = any($1::uuid[])"""
_ORDERS = """
select order_id::text from payment.order_item where obligation_id = any($1::uuid[])
union select order_id::text from payment.funds
where enrollment_id = any($2::uuid[]) and order_id is not null"""

# Whose rows, what they are called, by which ids they are found, and how: id, status, fen or a text.
_STATES = (
    (
        "enrollment",
        "参保登记 enrollment",
        "enrollment",
        "select enrollment_id, status, insurance_year || ' ' || scheme || ' ' || channel_code"
        " from enrollment.enrollment where enrollment_id = any($1::uuid[])",
    ),
    (
        "enrollment",
        "待遇 coverage",
        "enrollment",
        "select enrollment_id, status, coalesce(starts_on || ' – ' || ends_on, '')"
        " from enrollment.coverage where enrollment_id = any($1::uuid[])",
    ),
    (
        "billing",
        "缴费单 bill",
        "obligation",
        "select obligation_id::text || '/' || version, status, due_fen"
        " from billing.bill where obligation_id = any($1::uuid[]) order by version",
    ),
    (
        "payment",
        "应缴 obligation",
        "obligation",
        "select obligation_id, status, due_fen from payment.obligation where obligation_id = any($1::uuid[])",
    ),
    (
        "payment",
        "订单 order",
        "order",
        "select order_id, status, amount_fen from payment.orders"
        " where order_id = any($1::uuid[]) order by created_at",
    ),
    (
        "payment",
        "待处理款项 funds",
        "enrollment",
        "select funds_id, status || ' ' || reason, amount_fen from payment.funds"
        " where enrollment_id = any($1::uuid[])",
    ),
    (
        "notify",
        "通知 notification",
        "journey",
        "select notification_id, status, template || ' ' || road || ' ' || to_masked"
        " from notify.notification where journey = any($1::text[]) order by born_at",
    ),
)


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
    """The timeline of any id that belongs to somebody; None: no service knows it.

    OSError, TimeoutError, asyncpg.PostgresError: the database is not there.
    """
    async with AsyncExitStack() as opened:

        async def connect() -> asyncpg.Connection:
            db = await asyncpg.connect(stack.database_url("auditor"), ssl="disable", timeout=5)
            opened.push_async_callback(db.close)
            return db

        connections = [await connect() for _ in SERVICES]
        scope = await resolve(connections, wanted)
        if scope is None:
            return None
        if scope.whole:
            rows = await connections[0].fetch(
                "select enrollment_id::text from enrollment.enrollment where person_id = any($1::uuid[])",
                list(scope.persons),
            )
            scope.enrollments |= {row[0] for row in rows}
        return await _tell(connections, scope, wanted)


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
        "select type, ce_id::text, ce_time, topic, part, payload from"  # noqa: S608 - names of ours
        f" {service}.outbox"
        " where (journey = any($1::text[]) or key = any($2::text[]) and ($3 or journey = ''))"
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
        "select r.partner, r.request_id, r.command, r.answer, r.at, c.skew"  # noqa: S608 - names of ours
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
    obligations = [row[0] for row in await db.fetch(_OBLIGATIONS, enrollments)]
    orders = [row[0] for row in await db.fetch(_ORDERS, obligations, enrollments)]
    ids = {"enrollment": enrollments, "obligation": obligations, "order": orders, "journey": scope.journeys}
    states = []
    for service, what, by, sql in _STATES:
        for id, status, more in await db.fetch(sql, ids[by]):
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
        "select entry_id::text, leg, account, amount_fen, posted_at from payment.ledger"
        " where order_id = any($1::uuid[])"
        " or entry_id in (select funds_id from payment.funds where enrollment_id = any($2::uuid[]))"
        " order by entry_id, leg",
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
        'select distinct p.seq, p.state, p.reason, p.type, p.topic, p.partition, p."offset", p.at, c.skew'  # noqa: S608 - names of ours
        f" from {service}.parked_ref r join {service}.parked p using (seq), {service}.clock c"
        " where r.ref = any($1::bigint[])",
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
    """The numbers under which a service would have parked something about these: by its names."""
    refs = Refs(service)
    kinds: dict[str, Iterable[str]] = {"person": scope.persons, "obligation": obligations, "order": orders}
    return [refs.by_uuid(kind)(id) for kind, ids in kinds.items() for id in ids]
