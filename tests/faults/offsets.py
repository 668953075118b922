"""How does a service read topics from the beginning? Its groups, which nobody is in, are set to offset 0.

Not by an admin client: librdkafka's crashes when it asks for a group's offsets of a broker that still wakes
up.
"""

import asyncio
import time

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from contracts.topics import PARTITIONS, TOPICS
from sandbox.stack import Stack

_PATIENCE_SECONDS = 60.0


async def to_the_beginning(stack: Stack, service: str, *, commands: bool) -> None:
    """All groups of a service, for the topics of facts, and of partners too if commands. KafkaError: a group
    does not become empty.
    """
    topics: dict[str, set[str]] = {}
    db = await asyncpg.connect(stack.database_url("auditor"), ssl="disable")
    try:
        for lane, topic in await db.fetch(f"select distinct lane, topic from {service}.progress"):
            if commands or not TOPICS[topic].inbound:
                topics.setdefault(lane, set()).add(topic)
    finally:
        await db.close()
    end = time.monotonic() + _PATIENCE_SECONDS
    for lane, names in topics.items():
        zero = {TopicPartition(name, part): 0 for name in names for part in range(PARTITIONS)}
        while not await _set(stack, f"{service}-{lane}", zero, last_try=time.monotonic() > end):
            await asyncio.sleep(0.2)    # a member that was killed is missed after its session's time-out


async def _set(stack: Stack, group: str, offsets: dict[TopicPartition, int], *, last_try: bool) -> bool:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=stack.kafka_admin, group_id=group, enable_auto_commit=False
    )
    try:
        await consumer.start()
        consumer.assign(list(offsets))
        await consumer.commit(offsets)
    except KafkaError:
        if last_try:
            raise
        return False
    finally:
        await consumer.stop()
    return True
