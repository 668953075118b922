"""How are records asked for? They are handed over as soon as there are any, and nobody is woken for
nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord

POLL_MS = 500
EMPTY_SECONDS = 0.005

Poll = Callable[[AIOKafkaConsumer], Awaitable[tuple[ConsumerRecord, ...]]]


def patiently(subscriber: Any) -> Poll:
    """What a batch subscriber of FastStream does instead of its own `get_msg`.

    That one asks up to 50 times a second and sleeps blindly after an empty answer: four idle services burn
    3 % of a core with it, and who comes alone waits for the sleep to end.
    """

    async def poll(consumer: AIOKafkaConsumer) -> tuple[ConsumerRecord, ...]:
        polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=subscriber.max_records)
        if not polled:
            await asyncio.sleep(EMPTY_SECONDS)  # it may come back empty at once, while partitions move
        return tuple(chain.from_iterable(polled.values()))

    return poll
