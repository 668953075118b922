"""Is every message that went out, or came in, accounted for? Topics and offsets against outboxes and inboxes.

Bounded: the newest rows of each outbox and the newest records of each topic; the older were looked at before.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
from msgspec import DecodeError
from msgspec.json import decode

from cli.written import standing
from contracts.message import CONTRACTS
from contracts.partners import PARTNERS
from contracts.topics import OPERATED, PARTITIONS, TOPICS
from sandbox.partner import kafka_options
from sandbox.stack import Stack
from services.billing.handlers import on as billing
from services.chassis.ids import millis
from services.chassis.subscriptions import LANES
from services.chassis.topics import Broker
from services.console.handlers import on as console
from services.enrollment.handlers import on as enrollment
from services.notify.handlers import on as notify
from services.payment.handlers import on as payment

NEWEST_ROWS = 2_000  # of each outbox
NEWEST_RECORDS = 250  # of each partition: 1,000 a topic
MARGIN_MS = 5_000  # a row is written before its record; two clocks, one machine
OUTBOX_DAYS = 30  # older rows may be gone, older records may be
LATE_SECONDS = 60  # a row may wait so long for a broker that answers
_SERVICES = {s.service: s for s in (enrollment, billing, payment, notify, console)}
_OWNER_OF_PARTNER_TOPIC = {partner.topic: partner.code for partner in PARTNERS.values()}
_INBOX = "select ce_id::text from {s}.inbox where ce_id = any($1::uuid[])"
_REMEMBERED = "select request_id from {s}.request where request_id = any($1) and partner = any({all})"
_TOLD = "select channel_ref from console.step where channel_ref = any($1) and channel_ref <> ''"
_ANSWERED = "select subject from {s}.outbox where subject = any($1) and type like 'answer.%'"
Place = tuple[str, int]


class Record(NamedTuple):
    """A record of a topic. ce_id: empty when it has none that is ours. body: only of partners' topics."""

    topic: str
    part: int
    offset: int
    at_ms: int
    ce_id: str
    type: str
    sequence: int
    key: str
    body: bytes

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.topic}/{self.part}/{self.offset}"


class Row(NamedTuple):
    """A row of an outbox that is no longer waiting to be sent."""

    service: str
    ce_id: str
    topic: str
    part: int
    at_ms: int


class Look(NamedTuple):
    """What was read, in the order that makes the comparisons fair.

    Rows before records: what was sent is there. Records before progress, progress before inboxes: what counts
    as done has its row.
    """

    late: list[str]
    rows: list[Row]
    records: list[Record]
    committed: dict[tuple[str, str, str, int], int]
    progress: dict[tuple[str, str, str, int], int]
    done: dict[str, set[str]]
    parked: dict[str, set[str]]


async def look(stack: Stack, db: asyncpg.Connection) -> Look:
    """Read it all. db: as the auditor. KafkaError, KafkaException: the broker is not there."""
    late = await _late(db)
    rows = await _newest_rows(db)
    records = await _newest_records(stack, rows)
    committed = await asyncio.to_thread(_committed, stack)
    progress = await _progress(db)
    done, parked = {}, {}
    for service in OPERATED:
        ids = [r.ce_id for r in records if r.ce_id and not TOPICS[r.topic].inbound]
        done[service] = await _ids(db, _INBOX.format(s=service), ids)
        parked[service] = await _ids(
            db,
            f"select event_id::text from {service}.parked where event_id = any($1::uuid[])"  # noqa: S608 - names of ours
            f" union all select topic || '/' || partition || '/' || \"offset\" from {service}.parked"
            ' where "offset" is not null',
            ids,
        )
    return Look(late, rows, records, committed, progress, done, parked)


async def lost_or_forged(look: Look, db: asyncpg.Connection) -> list[str]:
    """I12. Rows that never reached their topic, and records that nobody of ours has said."""
    wrong = list(look.late)
    there = {record.ce_id for record in look.records}
    began: dict[Place, int] = {}
    for record in look.records:
        began.setdefault((record.topic, record.part), record.at_ms)
    newest = max((row.at_ms for row in look.rows), default=0)
    for row in look.rows:
        topic = TOPICS.get(row.topic)
        if topic is None:
            wrong.append(f"{row.service} says {row.ce_id} on {row.topic}, which no contract knows")
        elif not topic.compacted and row.at_ms > newest - min(topic.retention_days - 1, 7) * 86_400_000:
            first = began.get((row.topic, row.part))
            if row.ce_id not in there and (first is None or row.at_ms >= first - MARGIN_MS):
                wrong.append(f"{row.service} has sent {row.ce_id}, and {row.topic} does not have it")
    known = {row.ce_id for row in look.rows}
    strange = [r for r in look.records if not TOPICS[r.topic].inbound and r.ce_id not in known]
    return wrong + await _forged(strange, db)


async def unaccounted(look: Look, db: asyncpg.Connection) -> list[str]:
    """I14. Consumed = done + parked + retrying, record by record."""
    wrong = [
        f"{service} has consumed {record.place} ({record.type}): neither in its inbox nor parked"
        for service, record in _consumed_facts(look)
        if not _is_done(look, service, record) and not _is_parked(look, service, record)
    ]
    asked = [
        (record, service)
        for record in look.records
        if TOPICS[record.topic].inbound
        if _is_consumed(look, record, service := _judge(record))
    ]
    return wrong + await _unanswered(look, asked, db)


def overrun(look: Look) -> list[str]:
    """I15. Offsets that the broker was told before the database had done them."""
    wrong = []
    for (service, lane, topic, part), offset in look.committed.items():
        done = look.progress.get((service, lane, topic, part))
        if offset > 0 and (done is None or offset > done + 1):
            until = "nothing" if done is None else f"offset {done}"
            wrong.append(
                f"{service}-{lane} committed {offset} of {topic}/{part}, its database has done {until}"
            )
    return wrong


async def unknown(look: Look, db: asyncpg.Connection) -> list[str]:
    """I20. Records that would be handled again if they came again."""
    wrong = [
        f"{service} would take {record.place} ({record.type}) for new"
        for service, record in _consumed_facts(look)
        if not _is_done(look, service, record) and not _is_parked(look, service, record)
    ]
    for service, table in (("payment", "person"), ("notify", "addressee"), ("console", "person")):
        people: dict[str, int] = {}
        for reader, record in _consumed_facts(look, compacted=True):
            if reader == service and _is_ours(record.key) and not _is_parked(look, reader, record):
                people[record.key] = max(people.get(record.key, 0), record.sequence)
        rows = await db.fetch(
            f"select id::text from unnest($1::uuid[], $2::int[]) u(id, sequence)"  # noqa: S608 - names of ours
            f" where not exists (select from {service}.{table} t"
            " where t.person_id = u.id and t.sequence >= u.sequence)",
            list(people),
            list(people.values()),
        )
        wrong += [f"{service} keeps an older version of person {row[0]} than it has read" for row in rows]
    return wrong


async def _late(db: asyncpg.Connection) -> list[str]:
    wrong = []
    for service in OPERATED:
        count, oldest = await db.fetchrow(
            "select count(*), coalesce(max(extract(epoch from now() - at)), 0)::int"  # noqa: S608 - names of ours
            f" from {service}.unsent where at < now() - interval '{LATE_SECONDS} s'"
        )
        if count:
            wrong.append(
                f"{service} has {count} batches in its outbox that wait to be sent, the oldest for {oldest} s"
            )
    return wrong


async def _newest_rows(db: asyncpg.Connection) -> list[Row]:
    rows = []
    for service in OPERATED:
        found = await db.fetch(
            "select ce_id::text, topic, part, (extract(epoch from at) * 1000)::bigint from"  # noqa: S608 - names of ours
            f" (select * from {service}.outbox order by batch_id desc limit {NEWEST_ROWS}) newest"
            f" where not exists (select from {service}.unsent u where u.batch_id = newest.batch_id)"
        )
        rows += [Row(service, *record) for record in found]
    return rows


async def _newest_records(stack: Stack, rows: Iterable[Row]) -> list[Record]:
    """Of each partition the newest, and as far back as the newest rows of the outboxes reach."""
    since: dict[str, int] = {}
    for row in rows:
        since[row.topic] = min(since.get(row.topic, row.at_ms), row.at_ms)
    parts = [TopicPartition(topic, part) for topic in TOPICS for part in range(PARTITIONS)]
    consumer = AIOKafkaConsumer(
        **kafka_options(stack.kafka("auditor")), enable_auto_commit=False, fetch_max_wait_ms=10
    )
    try:
        await consumer.start()
        consumer.assign(parts)  # all topics at once; asked for one by one they cost 0.1 s each
        begins, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
        by_time = await consumer.offsets_for_times(
            {p: since[p.topic] - MARGIN_MS for p in parts if p.topic in since}
        )
        ends = {part: end for part, end in ends.items() if end > begins[part]}
        if not ends:
            return []
        consumer.assign(list(ends))
        for part in ends:
            start = max(begins[part], ends[part] - NEWEST_RECORDS)
            if by_time.get(part) is not None:
                start = min(start, by_time[part].offset)
            consumer.seek(part, start)
        return await _read(consumer, ends)
    finally:
        await consumer.stop()


async def _read(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> list[Record]:
    found: list[Record] = []
    async with asyncio.timeout(60):
        while not all([await consumer.position(part) >= end for part, end in ends.items()]):
            for part, records in (await consumer.getmany(timeout_ms=100)).items():
                found += [_record(r) for r in records if r.offset < ends[part]]
    return found


def _record(r: Any) -> Record:
    head = {name: (value or b"").decode("utf-8", "replace") for name, value in r.headers}
    ce_id, sequence = head.get("ce_id", ""), head.get("ce_sequence", "")
    return Record(
        r.topic,
        r.partition,
        r.offset,
        r.timestamp,
        ce_id if _is_ours(ce_id) else "",
        head.get("ce_type", ""),
        int(sequence) if sequence.isdigit() else 0,
        (r.key or b"").decode("utf-8", "replace"),
        (r.value or b"") if TOPICS[r.topic].inbound else b"",
    )


def _is_ours(ce_id: str) -> bool:
    try:
        return millis(ce_id) > 0
    except ValueError:
        return False


def _committed(stack: Stack) -> dict[tuple[str, str, str, int], int]:
    """What the broker was told, by service, lane, topic and partition; nothing of an unused group."""
    admin = Broker(stack.kafka_admin).admin
    found = {}
    for service in OPERATED:
        for lane in (*LANES, "operators"):
            group = f"{service}-{lane}"
            try:
                told = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[
                    group
                ].result()
            except KafkaException:
                continue
            for part in told.topic_partitions:
                found[service, lane, part.topic, part.partition] = part.offset
    return found


async def _progress(db: asyncpg.Connection) -> dict[tuple[str, str, str, int], int]:
    found = {}
    for service in OPERATED:
        for row in await db.fetch(f'select lane, topic, partition, "offset" from {service}.progress'):  # noqa: S608 - names of ours
            found[service, row[0], row[1], row[2]] = row[3]
    return found


async def _ids(db: asyncpg.Connection, sql: str, ids: list[str]) -> set[str]:
    return {row[0] for row in await db.fetch(sql, ids)}


async def _forged(strange: list[Record], db: asyncpg.Connection) -> list[str]:
    """Those that stand in no outbox; each is asked for once, in the service that may write its topic."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for record in strange:
        for service in TOPICS[record.topic].writers:
            if record.ce_id:
                wanted[service].add(record.ce_id)
    known = await standing(db, wanted)
    newest = max((record.at_ms for record in strange), default=0)
    return [
        f"{record.place} ({record.type or 'no type'}) stands in no outbox"
        for record in strange
        if record.ce_id not in known and record.at_ms > newest - OUTBOX_DAYS * 86_400_000
    ]


def _consumed_facts(look: Look, *, compacted: bool = False) -> Iterable[tuple[str, Record]]:
    """Each fact with each service that has consumed it in the lane that handles it."""
    for record in look.records:
        if TOPICS[record.topic].compacted != compacted or TOPICS[record.topic].inbound:
            continue
        for service, on in _SERVICES.items():
            subscription = on.by_type.get(record.type)
            if subscription is None or subscription.contract is None:
                continue
            if record.offset <= look.progress.get(
                (service, subscription.lane, record.topic, record.part), -1
            ):
                yield service, record


def _is_done(look: Look, service: str, record: Record) -> bool:
    return record.ce_id in look.done[service]


def _is_parked(look: Look, service: str, record: Record) -> bool:
    return not look.parked[service].isdisjoint((record.ce_id, record.place))


def _judge(record: Record) -> tuple[str, str]:
    """Which service, in which lane, has the say about a partner's record."""
    contract = CONTRACTS.get(record.type)
    if contract is not None and contract.owner == "any":
        named = _body(record).get("service")
        return (named, "operators") if named in OPERATED else (TOPICS[record.topic].owner, "operators")
    owner = TOPICS[record.topic].owner
    lane = "operators" if record.topic == "operators" else "money"
    readers = TOPICS[record.topic].readers
    return (contract.owner, "money") if contract is not None and contract.owner in readers else (owner, lane)


def _is_consumed(look: Look, record: Record, judge: tuple[str, str]) -> bool:
    return record.offset <= look.progress.get((*judge, record.topic, record.part), -1)


def _body(record: Record) -> dict[str, Any]:
    try:
        body = decode(record.body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if isinstance(body, dict) and "specversion" in body and isinstance(body.get("data"), dict):
        body = body["data"]
    return body if isinstance(body, dict) else {}


async def _unanswered(
    look: Look, asked: list[tuple[Record, tuple[str, str]]], db: asyncpg.Connection
) -> list[str]:
    """Partners' records that are neither parked, nor known as a request, nor answered without being kept."""
    left: list[tuple[Record, str]] = []
    for record, _ in asked:
        if not any(record.place in look.parked[service] for service in OPERATED):
            left.append((record, str(_body(record).get("request_id", ""))))
    # The console has an index; an outbox has none, and is read only for what nobody else knows.
    for question in (*_each(_REMEMBERED), _TOLD, *_each(_ANSWERED)):
        if left:
            known = await _ids(db, question, sorted({request_id for _, request_id in left}))
            left = [(record, request_id) for record, request_id in left if request_id not in known]
    return [
        f"{record.place} ({record.type or 'no type'}) was consumed and neither answered nor parked"
        for record, _ in left
    ]


def _each(question: str) -> list[str]:
    """The question to each service."""
    partners = f"array{list(PARTNERS)}"
    return [question.format(s=service, all=partners) for service in OPERATED]
