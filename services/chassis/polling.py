"""How are records asked for? They are handed over as soon as there are any, and nobody is woken for
nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from services.chassis.lenient import Record

POLL_MS = 500
EMPTY_SECONDS = 0.005
SMALL = 250                     # a batch below it is small
LONGEST_REST_SECONDS = 0.1
FOREIGN_REST_SECONDS = 0.03     # after records of which none was ours, which took no time
GATHER_MS = 5

Poll = Callable[[AIOKafkaConsumer], Awaitable[tuple[Record, ...]]]


def rest(began: float, count: int, most: int = SMALL, least: float = 0.0) -> float:
    """How many seconds to rest after a batch: after a small one as long as it worked.

    A busy machine then gathers larger batches, which cost far less a message; an idle one still takes what
    comes at once. began: of the monotonic clock. most: how many it might have taken; behind a batch that took
    them all more is waiting, so there is no rest. least: seconds, after a small one.
    """
    worked = time.monotonic() - began
    return min(max(worked, least), LONGEST_REST_SECONDS) if 0 < count < min(most, SMALL) else 0.0


async def news(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, and no longer than this. asyncio.wait_for of Python 3.11 loses an order to end that
    comes together with the event: a loop built on it goes on for ever.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


class Fetching(Protocol):
    """Who must know when records may be missing among those that it gets: after an error of the client,
    which throws away what it had taken from other partitions, and when they were sought anew in between.

    era: grows with each such seek. torn: it must go on from where its database is.
    """

    era: int
    torn: bool


def patiently(subscriber: Any, fetching: Fetching) -> Poll:
    """What a batch subscriber of FastStream does instead of its own `get_msg`.

    That one asks up to 50 times a second and sleeps blindly after an empty answer: four idle services burn
    3 % of a core with it, and who comes alone waits for the sleep to end. What lies here already was fetched
    when the first of it came, before the lane worked and rested; more has come since, and is asked for.
    """

    async def poll(consumer: AIOKafkaConsumer) -> tuple[Record, ...]:
        most = subscriber.max_records
        try:
            ready = await consumer.getmany(max_records=most)
            era, left = fetching.era, most - sum(map(len, ready.values()))
            wait_ms = GATHER_MS if ready else POLL_MS
            more = await consumer.getmany(timeout_ms=wait_ms, max_records=left) if left > 0 else {}
        except KafkaError:
            fetching.torn = True
            raise
        fetching.torn |= bool(ready) and era != fetching.era
        if not ready and not more:
            await asyncio.sleep(EMPTY_SECONDS)  # it may come back empty at once, while partitions move
        return tuple(chain.from_iterable((*ready.values(), *more.values())))

    return poll
