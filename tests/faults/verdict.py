"""Was anything lost, doubled, disordered, or left lying? What was fed, compared with database and topics."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from msgspec.json import decode

from contracts.billing import BILLS
from contracts.topics import PARTITIONS
from tests.chassis.running import records_of
from tests.faults.feed import Feed
from tests.faults.field import Field, until
from tests.faults.provider import Provider
from tests.faults.toy import CALL, POISON, TIMER

OPERATIONS, REPLIES = "billing.operations", ("channels.wechat.replies", "operators.replies")
READ = {
    "billing-money": ("payment.payments", "channels.wechat"),
    "billing-bulk": ("enrollment.enrollments",),
    "billing-operators": ("operators",),
}


async def quiet(field: Field, seconds: float, *, awaiting: bool = False) -> list[str]:
    """Wait until nothing moves any more: offsets at the ends, nothing due or unsent. What did not become so.

    awaiting: facts may still await what lies behind a parked one.
    """
    wrong: list[str] = []
    for name, what in (("offsets", _behind), ("rows", partial(_waiting, awaiting=awaiting))):
        left: dict[str, int] = {}

        async def none(what: Any = what, left: dict[str, int] = left) -> bool:
            left.clear()
            left.update({place: count for place, count in (await what(field)).items() if count})
            return not left

        try:
            await until(none, name, seconds)
        except AssertionError:
            wrong.append(f"stuck: {name}: {left}")
    return wrong


async def _behind(field: Field) -> dict[str, int]:
    """Records that no committed offset has passed, by group and topic."""
    return {
        f"{group} {topic}": count
        for group, topics in READ.items()
        for topic, count in (await _group_behind(field, group, topics)).items()
    }


async def _group_behind(field: Field, group: str, topics: Iterable[str]) -> dict[str, int]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=field.stack.kafka_admin, group_id=group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        behind = Counter[str]()
        partitions = [TopicPartition(topic, n) for topic in topics for n in range(PARTITIONS)]
        ends, begins = await consumer.end_offsets(partitions), await consumer.beginning_offsets(partitions)
        for partition in partitions:
            # an earlier test's records are gone, whether its group had passed them or not
            done = max(await consumer.committed(partition) or 0, begins[partition])
            behind[partition.topic] += abs(ends[partition] - done)
        return behind
    finally:
        await consumer.stop()


async def _waiting(field: Field, *, awaiting: bool) -> dict[str, int]:
    tables = ("unsent", "job", "call", *(() if awaiting else ("parked where state = 'AWAITS'",)))
    return {table: await field.count(table) for table in tables}


async def judge(field: Field, feed: Feed, provider: Provider) -> list[str]:
    """Every promise that is broken, in words; empty: none."""
    found = [
        *_as_sets("inbox", feed.ids, [row[0] for row in await field.query("select ce_id::text from inbox")]),
        *await _effects(field, feed),
        *await _order(field),
        *await _topics(field),
        *await _answers(field, feed),
        *(f"call {number}: sent again without asking" for number in provider.blind),
        *(f"call {number}: never accepted" for number in feed.marked[CALL] if not provider.accepted[number]),
    ]
    left = await field.query("select state, reason, detail from parked")
    return [*found, *(f"parked: {row}" for row in left[:5])]


async def poisoned_only(field: Field, feed: Feed) -> list[str]:
    """Before the redrive: those are parked that raise, and behind them only what shares their refs."""
    rows = await field.query("select state, value from parked")
    parked = [decode(value)["enrollment_id"] for state, value in rows if state == "PARKED"]
    culprits = set(feed.marked[POISON])
    wrong = [f"parked although it was sound: {one}" for one in set(parked) - culprits]
    ill = {row[0] for row in await field.query(
        "select person from effect where subject = any($1::text[])", list(culprits))}
    return wrong + [f"a poisoned fact had an effect: {one}" for one in ill]


def _as_sets(what: str, wanted: Iterable[str], got: list[str]) -> list[str]:
    """Lost, made up, and doubled, counted, with an example of each."""
    want, have, twice = set(wanted), set(got), [one for one, n in Counter(got).items() if n > 1]
    sets = (("lost", sorted(want - have)), ("made up", sorted(have - want)), ("doubled", twice))
    return [f"{what}: {len(ones)} {name}, e.g. {ones[0]}" for name, ones in sets if ones]


async def _effects(field: Field, feed: Feed) -> list[str]:
    wanted: dict[str, Iterable[str]] = {
        "approved": feed.approved,
        "settled": feed.settled,
        "timer": feed.marked[TIMER],
        "call": feed.marked[CALL],
        "command": feed.commands,
    }
    got: dict[str, list[str]] = {kind: [] for kind in wanted}
    for kind, subject in await field.query("select kind, subject from effect"):
        got[kind].append(subject)
    return [wrong for kind, subjects in wanted.items() for wrong in _as_sets(kind, subjects, got[kind])]


async def _order(field: Field) -> list[str]:
    """Each person's facts took effect in the order in which they were said."""
    numbers: dict[str, list[int]] = {}
    for person, number in await field.query(
        "select person, number from effect where kind = 'approved' order by serial"
    ):
        numbers.setdefault(person, []).append(number)
    wrong = [person for person, got in numbers.items() if got != sorted(got)]
    return [f"order: {len(wrong)} people's facts, e.g. {wrong[0]} {numbers[wrong[0]]}"] if wrong else []


async def _topics(field: Field) -> list[str]:
    """What the outbox holds stands in the topics, and nothing else; a person's facts in their order."""
    said: list[str] = [row[0] for row in await field.query("select ce_id::text from outbox")]
    heard: list[str] = []
    numbers: dict[str, list[int]] = {}
    for topic in (BILLS, OPERATIONS, *REPLIES):
        for record in await _said(field, topic):
            headers = dict(record.headers)
            ce_id = headers["ce_id"].decode()
            heard.append(ce_id)
            if topic == BILLS and headers["ce_sequence"] == b"1":
                numbers.setdefault(record.key.decode(), []).append(decode(record.value)["insurance_year"])
    repeats = len(heard) - len(set(heard))
    wrong = [person for person, got in numbers.items() if list(dict.fromkeys(got)) != sorted(set(got))]
    return [
        *_as_sets("topics", said, list(set(heard))),
        *([f"order in topic: {len(wrong)} people, e.g. {numbers[wrong[0]]}"] if wrong else []),
        *([f"more repeats than messages: {repeats}"] if repeats > len(said) else []),
    ]


async def _said(field: Field, topic: str) -> list[Any]:
    """A topic's records, by partition and offset."""
    return sorted(await records_of(field.stack, topic), key=lambda record: (record.partition, record.offset))


async def _answers(field: Field, feed: Feed) -> list[str]:
    """Every command is answered, and always the same."""
    said: dict[str, set[str]] = {}
    for record in await _said(field, REPLIES[0]):
        answer = decode(record.value)
        said.setdefault(answer["request_id"], set()).add(str(answer.get("result") or answer.get("refusal")))
    silent = [request for request in feed.commands if request not in said]
    fickle = [request for request, answers in said.items() if len(answers) > 1]
    return [
        *([f"commands: {len(silent)} never answered, e.g. {silent[0]}"] if silent else []),
        *([f"commands: {len(fickle)} answered differently, e.g. {said[fickle[0]]}"] if fickle else []),
    ]


async def committed(field: Field, group: str, topic: str) -> int:
    """How many of the topic's records the group's offsets have passed."""
    behind = (await _group_behind(field, group, [topic]))[topic]
    return len(await records_of(field.stack, topic)) - behind


async def gather_wrong(field: Field, feed: Feed, provider: Provider, seconds: float) -> list[str]:
    """Quiet first, then the judgement; a thing that is stuck does not hide what else is wrong."""
    stuck = await quiet(field, seconds)
    found = await asyncio.wait_for(judge(field, feed, provider), 120)
    return stuck + found
