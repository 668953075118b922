"""Does what was said once change anything when it is said again? The gate's second half.

Of the newest messages of each topic 5 % go out once more in their order, and 1 % from the newest to the
oldest. Then everything is counted: no row may have come or gone.
"""

import asyncio
import time

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from bench import gate
from bench.clients import Record, producer, send
from bench.pipeline import Broken, Ground
from contracts.topics import PARTITIONS, SERVICES
from services.chassis.settings import Kafka
from services.chassis.subscriptions import LANES

NEWEST = 500  # of each partition
_AGAIN, _ASTRAY = 20, 100  # every so manieth
_PATIENCE_SECONDS, _LOOK_SECONDS = 60.0, 0.2
# Who says a command again hears its answer again; the raw loop takes commands only once.
SPOKEN = tuple(topic for topic in gate.TOPICS if topic not in (gate.BANK.replies, gate.AGENCY.replies))
FACTS = tuple(topic for topic in SPOKEN if topic not in (gate.BANK.topic, gate.AGENCY.topic))


async def replay(ground: Ground, kafka: str, prefix: str) -> int:
    """Say it again to a loop that runs; how many messages. Broken: that changed something.

    kafka: the administrator's way in.
    """
    before = await gate.count(ground.db, ground.kafka, prefix)
    topics = [f"{prefix}.{topic}" if prefix else topic for topic in (FACTS if prefix else SPOKEN)]
    out = producer(Kafka(bootstrap=kafka))
    await out.start()
    count = 0
    try:
        for topic in topics:
            again = chosen(await _newest(kafka, topic))
            await asyncio.gather(*await send(out, topic, again))
            count += len(again)
    finally:
        await out.stop()
    await _heard(ground, AdminClient({"bootstrap.servers": kafka, "log_level": 0}), prefix)
    after = await gate.count(ground.db, ground.kafka, prefix)
    if wrong := gate.faults(before, after, 0, repeated=gate.TOPICS):
        raise Broken("\n".join(["said again, it changed something", *wrong]))
    return count


def chosen(records: list[ConsumerRecord]) -> list[Record]:
    """5 % in their order, then 1 % backwards."""
    again = records[::_AGAIN] + records[::-_ASTRAY]
    return [Record(r.partition, r.key, r.value, list(r.headers)) for r in again]


async def _newest(kafka: str, topic: str) -> list[ConsumerRecord]:
    places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(places)
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        for place in places:
            consumer.seek(place, max(begins[place], ends[place] - NEWEST))
        records: list[ConsumerRecord] = []
        while any([await consumer.position(place) < ends[place] for place in places]):
            for run in (await consumer.getmany(timeout_ms=500)).values():
                records += run
    finally:
        await consumer.stop()
    return records


async def _heard(ground: Ground, admin: AdminClient, prefix: str) -> None:
    """Until every group is at the end of what it reads."""
    groups = (
        [f"{prefix}-{s}" for s in SERVICES] if prefix else [f"{s}-{lane}" for s in SERVICES for lane in LANES]
    )
    end = time.monotonic() + _PATIENCE_SECONDS
    for group in groups:
        while behind := await _behind(ground, admin, group):
            if time.monotonic() > end:
                raise Broken(f"{group} has not heard {behind} messages that were said again")
            await asyncio.sleep(_LOOK_SECONDS)


async def _behind(ground: Ground, admin: AdminClient, group: str) -> int:
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
    known = await asyncio.to_thread(asked[group].result)
    at = {TopicPartition(p.topic, p.partition): p.offset for p in known.topic_partitions}
    ends = await ground.kafka.end_offsets(list(at)) if at else {}
    return sum(max(0, ends[place] - offset) for place, offset in at.items())
