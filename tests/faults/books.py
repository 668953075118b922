"""Was anything lost or doubled? Topics, outboxes, inboxes, ledger and the outside's books, as whole sets."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from cli.verify import check
from contracts.topics import OPERATED, PARTITIONS, TOPICS
from sandbox.partner import kafka_options
from services.billing.handlers import on as billing
from services.console.handlers import on as console
from services.enrollment.handlers import on as enrollment
from services.notify.handlers import on as notify
from services.payment.handlers import on as payment
from tests.faults.siege import SERVICES, Siege

_HANDLES = {each.service: each.by_type for each in (enrollment, billing, payment, notify, console)}
_OUTSIDE_OF_ORDER = ("operations", "replies")
# What a second reading may change: where the reading stands, and which answers were said again.
_NOT_BUSINESS = ("progress", "unsent", "job", "call", "outbox", "request")
_TABLES = """
select relname from pg_class join pg_namespace n on n.oid = relnamespace
where nspname = $1 and relkind in ('r', 'p') and not relispartition and relname <> 'alembic_version'
order by 1"""


class Said(NamedTuple):
    """A record of a topic that is not a partner's."""

    topic: str
    part: int
    offset: int
    ce_id: str
    type: str
    subject: str
    sequence: int
    key: str


async def waiting(siege: Siege) -> dict[str, int]:
    """What still moves: rows that wait, and records that no committed offset has passed."""
    left: Counter[str] = Counter()
    async with _auditor(siege) as db:
        for service in SERVICES:
            for table in ("unsent", "call", "parked where state in ('AWAITS', 'BEHIND', 'PARKED')"):
                left[f"{service}.{table}"] += await db.fetchval(f"select count(*) from {service}.{table}")
            due = f"{service}.job where run_at <= now() + (select skew from {service}.clock)"
            left[f"{service}.job due"] += await db.fetchval(f"select count(*) from {due}")
            done = {
                (row[0], row[1], row[2]): row[3] for row in await db.fetch(
                    f'select lane, topic, partition, "offset" from {service}.progress'
                )
            }
            for (_, topic, part), behind in (await _behind(siege, done)).items():
                left[f"{service} behind in {topic}/{part}"] += behind
    return {what: count for what, count in left.items() if count}


async def _behind(siege: Siege, done: dict[tuple[str, str, int], int]) -> dict[tuple[str, str, int], int]:
    parts = [TopicPartition(topic, part) for _, topic, part in done]
    consumer = AIOKafkaConsumer(**kafka_options(siege.stack.kafka("auditor")), enable_auto_commit=False)
    await consumer.start()
    try:
        ends = await consumer.end_offsets(parts) if parts else {}
    finally:
        await consumer.stop()
    return {place: max(0, ends[TopicPartition(*place[1:])] - offset - 1) for place, offset in done.items()}


async def compare(siege: Siege, *, ordered: bool) -> list[str]:
    """Everything that is wrong, in words. ordered: no topic has lost its tail, so that order can be asked."""
    said = await records(siege)
    async with _auditor(siege) as db:
        wrong = [
            *await _outboxes(db, said),
            *await _inboxes(db, said),
            *_sequences(said, ordered=ordered),
            *await _receipts(db, siege),
            *await _halts(db),
        ]
    texted, mailed = [await siege.http(name, "/simulator/book") for name in ("sms", "mail")]
    mails = {(mail["message_id"], mail["to"], mail["subject"], mail["text"]) for mail in mailed}
    for name, numbers in (("sms", [sms["out_id"] for sms in texted]), ("mail", [mail[0] for mail in mails])):
        twice = _twice(numbers)
        wrong += [f"{name}: {len(twice)} sent twice, e.g. {twice[0]}"] if twice else []
    results = await check(siege.stack)
    return [*wrong, *(f"{result.id}: {result.what}" for result in results if not result.ok)]


async def records(siege: Siege) -> list[Said]:
    """Every record of every topic that a service of ours writes, from the beginning."""
    parts = [
        TopicPartition(name, part) for name, topic in TOPICS.items() if not topic.inbound
        for part in range(PARTITIONS)
    ]
    consumer = AIOKafkaConsumer(
        **kafka_options(siege.stack.kafka("auditor")), enable_auto_commit=False, fetch_max_wait_ms=20
    )
    await consumer.start()
    try:
        begins, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
        full = {part: end for part, end in ends.items() if end > begins[part]}
        consumer.assign(list(full))
        for part in full:
            consumer.seek(part, begins[part])
        found: list[Said] = []
        while full and not all([await consumer.position(part) >= end for part, end in full.items()]):
            for some in (await consumer.getmany(timeout_ms=200)).values():
                found += map(_said, some)
        return found
    finally:
        await consumer.stop()


def _said(record: Any) -> Said:
    head = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
    return Said(
        record.topic, record.partition, record.offset, head.get("ce_id", ""), head.get("ce_type", ""),
        head.get("ce_subject", ""), int(head.get("ce_sequence", "0")), (record.key or b"").decode(),
    )


async def _outboxes(db: asyncpg.Connection, said: list[Said]) -> list[str]:
    """What was said in a transaction stands on its topic, and nothing else does."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for service in OPERATED:
        for row in await db.fetch(f"select topic, ce_id::text from {service}.outbox"):
            wanted[row[0]].add(row[1])
    heard: dict[str, set[str]] = defaultdict(set)
    for record in said:
        heard[record.topic].add(record.ce_id)
    wrong = []
    for topic in sorted({*wanted, *heard}):
        lost = set() if TOPICS[topic].compacted else wanted[topic] - heard[topic]
        wrong += _sets(topic, lost, heard[topic] - wanted[topic])
    return wrong


async def _inboxes(db: asyncpg.Connection, said: list[Said]) -> list[str]:
    """Every fact that a service handles is in its inbox or parked, and nothing else is in its inbox."""
    wrong = []
    for service, handles in _HANDLES.items():
        there = {row[0] for row in await db.fetch(f"select ce_id::text from {service}.inbox")}
        aside = {row[0] for row in await db.fetch(f"select event_id::text from {service}.parked")}
        wanted = {
            record.ce_id for record in said
            if (handler := handles.get(record.type)) is not None and handler.contract is not None
            and not TOPICS[record.topic].compacted
        }
        wrong += _sets(f"inbox of {service}", wanted - there - aside, there - wanted)
    return wrong


def _sequences(said: list[Said], *, ordered: bool) -> list[str]:
    """Each aggregate's facts are counted 1..n on their topic, and come in that order the first time; what has
    one key stands in one partition.
    """
    numbers: dict[tuple[str, str], list[int]] = defaultdict(list)
    places: dict[tuple[str, str], set[int]] = defaultdict(set)
    for record in sorted(said, key=lambda one: (one.topic, one.part, one.offset)):
        places[record.topic, record.key].add(record.part)
        if not record.topic.endswith(_OUTSIDE_OF_ORDER):
            numbers[record.topic, record.subject].append(record.sequence)
    gaps = [what for what, seen in numbers.items()
            if not TOPICS[what[0]].compacted and set(seen) != set(range(1, max(seen) + 1))]
    firsts = {what: list(dict.fromkeys(seen)) for what, seen in numbers.items()}
    crossed = [what for what, seen in firsts.items() if seen != sorted(seen)] if ordered else []
    spread = [what for what, parts in places.items() if len(parts) > 1]
    found = (
        ("gaps in the sequence", gaps),
        ("facts out of order", crossed),
        ("keys in two partitions", spread),
    )
    return [f"{what}: {len(ones)}, e.g. {' '.join(ones[0])}" for what, ones in found if ones]


async def _receipts(db: asyncpg.Connection, siege: Siege) -> list[str]:
    """The provider's book and ours name the same payments with the same amounts, and the ledger has them."""
    book = Counter(
        (line["transaction_id"], line["total"]) for line in await siege.http("wechat", "/simulator/book")
    )
    rows = await db.fetch("select channel_ref, amount_fen from payment.receipt where channel_code = 'wechat'")
    ours = Counter((row[0], row[1]) for row in rows)
    entries = await db.fetchval("select count(distinct entry_id) from payment.ledger")
    taken = await db.fetchval("select count(*) from payment.receipt")
    return [
        *_sets("the provider's book against our receipts", set(book - ours), set(ours - book)),
        *([f"ledger: {entries} entries of {taken} receipts"] if entries != taken else []),
    ]


async def _halts(db: asyncpg.Connection) -> list[str]:
    return [f"{service} has halted: {row[0]}" for service in SERVICES
            for row in await db.fetch(f"select last_error from {service}.halt")]


def _sets(what: str, lost: Iterable[Any], strange: Iterable[Any]) -> list[str]:
    found = (("lost", sorted(lost)), ("made up", sorted(strange)))
    return [f"{what}: {len(ones)} {name}, e.g. {ones[0]}" for name, ones in found if ones]


def _twice(numbers: list[str]) -> list[str]:
    return [number for number, times in Counter(numbers).items() if times > 1]


async def state(siege: Siege) -> dict[str, str]:
    """A hash of every table whose rows say what has happened, by its name."""
    found = {}
    async with _auditor(siege, administrator=True) as db:
        for service in SERVICES:
            for (table,) in await db.fetch(_TABLES, service):
                if table not in _NOT_BUSINESS:
                    row = await db.fetchrow(
                        f"select count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)"
                        f" from {service}.{table} t"
                    )
                    found[f"{service}.{table}"] = f"{row[0]} rows, {row[1]}"
            facts = f"{service}.outbox where type not like 'answer.%'"
            found[f"{service}.outbox"] = str(await db.fetchval(f"select count(*) from {facts}"))
    return found


async def read_up_to(siege: Siege) -> int:
    """How many records all groups together have passed: what a replay reads again."""
    async with _auditor(siege) as db:
        total = 0
        for service in SERVICES:
            total += await db.fetchval(
                f'select coalesce(sum("offset" + 1), 0)::bigint from {service}.progress'
            )
    return total


class _auditor:  # noqa: N801 -- used as a word
    """A connection past the proxies."""

    def __init__(self, siege: Siege, *, administrator: bool = False) -> None:
        self._siege, self._administrator = siege, administrator

    async def __aenter__(self) -> asyncpg.Connection:
        stack = self._siege.stack
        if self._administrator:
            self._db = await asyncpg.connect(stack.pg_admin_dsn, database=stack.database, ssl="disable")
        else:
            self._db = await asyncpg.connect(stack.database_url("auditor"), ssl="disable")
        return self._db

    async def __aexit__(self, *_: object) -> None:
        await self._db.close()


