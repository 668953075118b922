"""When all is quiet: did everything arrive, once, and do topics, tables and the outside agree?"""

from collections import defaultdict
from typing import TYPE_CHECKING

from aiokafka import TopicPartition
from msgspec.json import encode

from contracts.answers import Rejected, says_again
from contracts.topics import PARTITIONS
from services.chassis.provision import SCHEMAS
from tests.simulation.citizens import FALSE, is_conflict
from tests.simulation.histories import folded

if TYPE_CHECKING:
    from tests.simulation.city import City

DOUBTFUL = ("freeze", "zombie", "time", "no database", "cut", "lost")


async def final(city: "City") -> list[str]:
    """What is wrong at the end of a healed run."""
    wrong = [*_unfinished(city), *_order(city), *_offsets(city), *_texts(city), *folded(city),
             *_answers(city)]
    wrong += await city.truth.wrong(set(SCHEMAS), quiet=True)
    return [*wrong, *await city.histories.unheard(city), *await _outbox(city)]


def _unfinished(city: "City") -> list[str]:
    """I24."""
    wrong = []
    for person in city.people:
        if person.done != "covered":
            gate = city.schedule.gates.get(person.name)
            wrong.append(f"I24 {person.name} ({person.plan}) is {person.done or 'not paid'},"
                         f" stands at {gate.label if gate else 'nothing'}")
    for service, work in sorted(city.truth.work.items()):
        if work.unsent or work.calls or work.parked or work.halted or work.awaits_since:
            wrong.append(f"I24 {service} is not done: {work}")
    return wrong


def _order(city: "City") -> list[str]:
    """I11: per aggregate and topic, sequences are 1..n, and never go back, but for repeats. Where keys have
    moved, two partitions may have been written at once: there only each number is looked for.
    """
    wrong, seen = [], defaultdict(dict)  # type: ignore[var-annotated]
    for _, record in city.broker.order:
        head = dict(record.headers)
        owned = record.topic.split(".")[0] in SCHEMAS and not record.topic.endswith(".operations")
        if not owned or not head.get("ce_subject") or record.key == b"nobody":
            continue
        ids = seen[record.topic, head["ce_subject"]]
        event, sequence = head["ce_id"], int(head["ce_sequence"])
        if event in ids:
            continue
        if sequence != len(ids) + 1 and city.broker.partitions == PARTITIONS:
            wrong.append(f"I11 {record.topic} {head['ce_subject'].decode()}: {sequence} after {len(ids)}")
        ids[event] = sequence
    for (topic, subject), ids in seen.items():
        if sorted(ids.values()) != [*range(1, len(ids) + 1)]:
            wrong.append(f"I11 {topic} {subject.decode()}: {sorted(ids.values())}")
    return wrong


def _offsets(city: "City") -> list[str]:
    """I14: every record of every group is passed, and the broker knows it."""
    wrong = []
    for group in city.broker.groups.values():
        for topic in group.topics:
            for part in range(city.broker.partitions):
                partition = TopicPartition(topic, part)
                end, at = city.broker.end(partition), city.broker.committed.get((group.name, partition), 0)
                for lane in [
                    lane for m in city.members.values() for lane in m.lanes if lane.group == group.name
                ]:
                    at = max(at, lane.skipped.get(partition, 0))    # goes out with the next batch
                if max(at, city.broker.begin(partition)) < end:
                    wrong.append(f"I14 {group.name} stands at {at} of {end} in {topic}/{part}")
    return wrong


def _texts(city: "City") -> list[str]:
    """I18: nobody is told twice, unless the provider's word got lost or its sender was out of touch."""
    if any(fault in DOUBTFUL for fault, _ in city.schedule.met):
        return []
    return [f"I18 {what} went out {count} times" for what, count in city.texts.accepted.items() if count > 1]


def _answers(city: "City") -> list[str]:
    """E1, E6: who asks the same again hears the same; who uses the number for something else is refused, or
    told to come again while the first one is under repair.
    """
    wrong = []
    for request_id, answers in city.broker.answers.items():
        refused = [a.refusal.code for a in answers if isinstance(a, Rejected)]
        if request_id.startswith(FALSE):
            wrong.append(f"E6 {request_id} was forged, and answered: {answers[0]}")
        final = {encode(a) for a in answers if not says_again(a) and not is_conflict(a)}
        if len(final) > 1:
            wrong.append(f"E1 {request_id} was answered in {len(final)} ways: {min(final)!r}")
        minded = not {"IDEMPOTENCY_CONFLICT", "UNDER_REPAIR"}.isdisjoint(refused)
        if request_id in city.reworded and final and not minded:
            wrong.append(f"E6 {request_id} came with other words, and nobody minded")
    return wrong


async def _outbox(city: "City") -> list[str]:
    """I12: what was said is on its topic, and nothing else is."""
    said = {dict(r.headers)["ce_id"].decode() for _, r in city.broker.order
            if r.topic.split(".")[0] in SCHEMAS or r.topic.endswith(".replies")
            if r.key != b"nobody"}
    rows = await city.schedule.monitor.fetch(
        " union all ".join(f"select ce_id::text, type from {s}.outbox" for s in SCHEMAS))
    kept = {row[0]: row[1] for row in rows}
    wrong = [f"I12 {kept[i]} {i} never reached its topic" for i in sorted(kept.keys() - said)]
    wrong += [f"I12 {i} is on a topic and in no outbox" for i in sorted(said - kept.keys())]
    told = await city.schedule.monitor.fetch(
        "select ce_id::text from payment.outbox where type = 'payment.payment_settled.v1' and not exists"
        " (select from notify.notification where notification_id = ce_id)")
    return wrong + [f"I17 nobody is told of payment {row[0]}" for row in told]


