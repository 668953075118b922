"""What has happened around one id, in every service? Read from their schemas and the console's, as the
auditor.

How things stand is read from the services' own rows; what led there is history.py's to know.
"""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import asyncpg
from msgspec import Struct, field

from cli.history import listen
from cli.whose import Request, Scope, resolve
from contracts.message import contract_of
from contracts.partners import PARTNERS
from contracts.payment import FundsUnmatched, PaymentSettled
from contracts.reasons import Reason
from contracts.topics import SERVICES
from sandbox.stack import Stack
from services.chassis.ids import millis
from services.chassis.partitions import uuid7_floor
from services.chassis.refs import Refs
from services.console.rules import Step, details, said_by, title, yuan

_ACCOUNTS = {
    1002: "渠道待清算 1002 clearing",
    2202: "应缴基金 2202 premiums",
    2203: "待处理款项 2203 suspense",
}
_ASKED = {"channel": "渠道请求", "agency": "机构决定", "operator": "运维指令"}
_POSTED = {contract_of(PaymentSettled).type, contract_of(FundsUnmatched).type}
_ONE_TRANSACTION = timedelta(seconds=30)  # an entry and the fact about it are named in one
_ENROLLMENTS = """
select enrollment_id::text from enrollment.enrollment
where person_id = any($1::uuid[]) and status <> 'REJECTED'"""
_OBLIGATIONS = """
select distinct obligation_id::text from billing.bill
where person_id = any($1::uuid[]) and enrollment_id = any($2::uuid[])"""
_ORDERS = """
select order_id::text from payment.obligation where obligation_id = any($1::uuid[]) and order_id is not null
union select order_id::text from payment.order_item
where obligation_id = any($1::uuid[]) and status = 'SETTLED'
union select order_id::text from payment.order_item
where order_id = any($2::uuid[]) and obligation_id = any($1::uuid[])
union select order_id::text from payment.funds
where enrollment_id = any($3::uuid[]) and order_id is not null"""
_RECEIPTS = """
with refs as (
    select channel_code, channel_ref from payment.orders
    where order_id = any($1::uuid[]) and channel_ref <> ''
    union select channel_code, channel_ref from payment.funds where enrollment_id = any($2::uuid[])
    union select * from unnest($3::text[], $4::text[]))
select channel_code, channel_ref, amount_fen, reason, received_at
from refs join payment.receipt using (channel_code, channel_ref)"""
# "offset 0" keeps the condition on order_id out of the inner query: it goes by the index on entry_id.
_LEDGER = """
select entry_id::text, leg, account, amount_fen, posted_at
from unnest($1::uuid[], $2::uuid[]) about(low, high),
lateral (select * from payment.ledger where entry_id between low and high offset 0) lines
where order_id = any($3::uuid[])
union select entry_id::text, leg, account, amount_fen, posted_at from payment.ledger
where entry_id in (select funds_id from payment.funds where enrollment_id = any($4::uuid[]))"""
_REGISTERED = """
select p.person_id::text, p.region_code, p.recorded_at, coalesce(a.name_masked, '') as name_masked
from enrollment.person p left join notify.addressee a using (person_id) where p.person_id = any($1::uuid[])"""

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
        "fact",  # a notification has the id of the fact it tells of
        "select notification_id, status, template || ' ' || road || ' ' || to_masked"
        " from notify.notification where notification_id = any($1::uuid[]) order by born_at, notification_id",
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
    """All of it, in order of business time. behind: topics of which something may be missing."""

    id: str
    kind: str
    persons: list[str]
    names_masked: list[str]
    journeys: list[str]
    states: list[State] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)


class _Ids(Struct, frozen=True):
    """What belongs to a scope."""

    enrollments: list[str]
    obligations: list[str]
    orders: list[str]
    facts: list[str]


async def find(stack: Stack, wanted: str) -> Timeline | None:
    """The timeline of any id that belongs to somebody; None: no service knows it.

    OSError, TimeoutError, asyncpg.PostgresError: the database is not there.
    """
    async with AsyncExitStack() as opened:

        async def connect() -> asyncpg.Connection:
            db = await asyncpg.connect(stack.database_url("auditor"), ssl="disable", timeout=5)
            opened.push_async_callback(db.close)
            return db

        connections = await asyncio.gather(*(connect() for _ in SERVICES))
        scope = await resolve(connections, wanted)
        told = await _tell(connections, scope or Scope(kind="request", persons=set(), whole=True), wanted)
        return told if scope or told.entries else None  # a refusal may be all that there is of a request


async def _tell(connections: list[asyncpg.Connection], scope: Scope, wanted: str) -> Timeline:
    db = connections[0]
    heard = await listen(connections, scope.persons, scope.journeys, [wanted])
    steps = [step for step in heard.steps if scope.whole or step.journey in ("", *scope.journeys)]
    scope.add({step.enrollment_id for step in steps if step.enrollment_id})
    if scope.whole:
        scope.add({row[0] for row in await db.fetch(_ENROLLMENTS, sorted(scope.persons))})
    ids = await _ids(db, scope, steps)
    registered, names = await _registered(db, scope)
    entries = [*registered, *map(_said, steps), *_asked(scope.requests, steps)]
    entries += await _money(db, ids, steps)
    for service, other in zip(SERVICES, connections, strict=True):
        entries += await _parked(other, service, _refs(service, scope, ids))
    return Timeline(
        id=wanted,
        kind=scope.kind,
        persons=sorted(scope.persons),
        names_masked=names,
        journeys=sorted(scope.journeys),
        states=await _states(db, ids),
        entries=sorted(entries, key=_in_order),
        behind=heard.behind,
    )


def _in_order(entry: Entry) -> tuple[datetime, bool, int, int, str]:
    """A wish stands before what came of it, though its answer is the last thing said in their transaction;
    what two services said in one millisecond stands in the order of a person's way.
    """
    way = SERVICES.index(entry.service) if entry.service in SERVICES else len(SERVICES)
    return entry.at, entry.kind != "command", entry.order, way, entry.id


async def _ids(db: asyncpg.Connection, scope: Scope, steps: list[Step]) -> _Ids:
    enrollments = sorted(scope.enrollments)
    bills = await db.fetch(_OBLIGATIONS, sorted(scope.persons), enrollments)
    obligations = sorted(
        {row[0] for row in bills} | {step.obligation_id for step in steps if step.obligation_id}
    )
    named = [step.order_id for step in steps if step.order_id]
    orders = [row[0] for row in await db.fetch(_ORDERS, obligations, named, enrollments)]
    return _Ids(enrollments, obligations, orders, [step.ce_id for step in steps])


async def _registered(db: asyncpg.Connection, scope: Scope) -> tuple[list[Entry], list[str]]:
    """With whom it began, and their masked names."""
    rows = await db.fetch(_REGISTERED, sorted(scope.persons))
    entries = [
        Entry(
            at=row["recorded_at"],
            order=0,
            service="enrollment",
            kind="fact",
            zh="已登记",
            en="registered",
            details="；".join(filter(None, (row["name_masked"], f"统筹区 region {row['region_code']}"))),
            id=row["person_id"],
        )
        for row in rows
    ]
    return entries, sorted({row["name_masked"] for row in rows if row["name_masked"]})


def _said(step: Step) -> Entry:
    """One fact, or one answer to a partner."""
    at, order = step.at, millis(step.ce_id)
    if command := step.about.get("command"):
        outcome = "ACCEPTED"
        if code := step.about.get("reason"):
            outcome = f"REJECTED {Reason[code].zh if code in Reason.__members__ else ''}（{code}）"
        return _request(step.about["partner"], command, outcome, at, order, step.about["request_id"])
    zh, en = title(step.type)
    return Entry(
        at=at,
        order=order,
        service=said_by(step.topic, step.about),
        kind="fact",
        zh=zh,
        en=en,
        details=details(step.type, step.about),
        id=f"{step.topic}/{step.part} {step.ce_id}",
    )


def _asked(requests: list[Request], steps: list[Step]) -> list[Entry]:
    """What was asked for with the very id, where its answer is not among what was said: perhaps there is
    none yet.
    """
    said = {(step.about.get("partner"), step.about.get("request_id")) for step in steps}
    entries = []
    for asked in requests:
        if (asked.partner, asked.request_id) in said:
            continue
        outcome = asked.told.get("outcome", "PENDING")
        if refusal := asked.told.get("refusal"):
            outcome += f" {refusal['zh']}（{refusal['code']}）"
        at = datetime.fromisoformat(asked.told["answered_at"]) if asked.told else asked.at
        order = int(asked.at.timestamp() * 1000)
        entries.append(_request(asked.partner, asked.command, outcome, at, order, asked.request_id))
    return entries


def _request(partner: str, command: str, outcome: str, at: datetime, order: int, id: str) -> Entry:
    return Entry(
        at=at,
        order=order,
        service=command.partition(".")[0],
        kind="command",
        zh=_ASKED[PARTNERS[partner].kind],
        en=command.split(".")[1].replace("_", " "),
        details=f"{partner} → {outcome}",
        id=id,
    )


async def _states(db: asyncpg.Connection, ids: _Ids) -> list[State]:
    """How every row stands."""
    by = {
        "enrollment": ids.enrollments,
        "obligation": ids.obligations,
        "order": ids.orders,
        "fact": ids.facts,
    }
    states = []
    for service, what, kind, sql in _STATES:
        for id, status, more in await db.fetch(sql, by[kind]):
            text = yuan(more) if isinstance(more, int) else more
            states.append(State(service=service, what=what, id=str(id), status=status, details=text))
    return states


async def _money(db: asyncpg.Connection, ids: _Ids, steps: list[Step]) -> list[Entry]:
    """Receipts and ledger lines. The ledger is found by time: its entries are named when their fact is."""
    refs = [(step.about["channel_code"], step.channel_ref) for step in steps if step.type in _POSTED]
    codes, numbers = [code for code, _ in refs], [ref for _, ref in refs]
    receipts = await db.fetch(_RECEIPTS, ids.orders, ids.enrollments, codes, numbers)
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
    posted = [_instant_of(step.ce_id) for step in steps if step.type in _POSTED]
    lines = await db.fetch(
        _LEDGER,
        [uuid7_floor(at - _ONE_TRANSACTION) for at in posted],
        [uuid7_floor(at + _ONE_TRANSACTION) for at in posted],
        ids.orders,
        ids.enrollments,
    )
    for entry_id, leg, account, fen, at in lines:
        side = "借 debit" if fen > 0 else "贷 credit"
        entries.append(
            Entry(
                at=at,
                order=millis(entry_id),
                service="payment",
                kind="ledger",
                zh="记账",
                en="ledger",
                details=f"{side} {_ACCOUNTS.get(account, account)} {yuan(abs(fen))}",
                id=f"{entry_id}/{leg}",
            )
        )
    return entries


def _instant_of(ce_id: str) -> datetime:
    """When an id was drawn, by the system clock."""
    return datetime.fromtimestamp(millis(ce_id) / 1000, UTC)


async def _parked(db: asyncpg.Connection, service: str, refs: list[int]) -> list[Entry]:
    """What stands aside and holds these refs."""
    rows = await db.fetch(
        "select distinct p.seq, p.state, p.reason, p.detail, p.type, p.topic, p.partition,"  # noqa: S608 - names of ours
        ' p."offset", p.at, c.skew'
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
            details=f"{row['type']} {row['reason']} {row['detail']}".strip(),
            id=f"{row['seq']}: {row['topic']}/{row['partition']}/{row['offset']}",
        )
        for row in rows
    ]


def _refs(service: str, scope: Scope, ids: _Ids) -> list[int]:
    """The numbers under which a service would have parked something about these: by its names."""
    refs = Refs(service)
    kinds: dict[str, Iterable[str]] = {
        "person": scope.persons, "obligation": ids.obligations, "order": ids.orders
    }  # fmt: skip
    return [refs.by_uuid(kind)(id) for kind, named in kinds.items() for id in named]
