"""How does the fuzz reach a running sandbox, and did what must come of it come? At a rate, over Kafka."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from contracts.topics import OPERATED
from sandbox.fuzz.due import Due, Payload
from sandbox.fuzz.hearing import Answered, Ears, Kept
from sandbox.partner import BATCH_BYTES, Place, kafka_options
from sandbox.stack import Stack
from services.chassis import misfits

PATIENCE_SECONDS = 60.0  # for the last one's answer; what takes so long is counted as late all the same
_LOOK_SECONDS = 0.1     # at what several services have done meanwhile: no event
_TICK_SECONDS = 0.01    # of the steady rate
_MOST_FLYING = 1_000
_DETAILS = 'select topic, partition, "offset", detail from {s}.parked where at >= $1 and "offset" is not null'
_PROGRESS = 'select topic, partition, max("offset") from {s}.progress group by 1, 2'


class Sent(NamedTuple):
    """A payload that stands on its topic. at_ms: when the broker took it, or its sender wrote it."""

    number: int
    what: str
    place: Place
    at_ms: int
    due: Due
    who: tuple[str, str]


class Verdict(NamedTuple):
    """mistaken: what became of payloads that must not, a line each. latencies_ms: of those of which anything
    had to become, in order. stuck: partitions whose end nobody reached.
    """

    sent: Counter[str]
    mistaken: list[str]
    latencies_ms: list[int]
    stuck: list[str]
    places: set[str]


class Push:
    """One run: `send` at a rate, then `verdict`."""

    def __init__(self, stack: Stack, ears: Ears, db: asyncpg.Connection) -> None:
        self._stack, self._ears, self._db = stack, ears, db
        self._producers: dict[str, AIOKafkaProducer] = {}
        self._exits = AsyncExitStack()
        self._flying: set[asyncio.Task[None]] = set()
        self._sent: list[Sent] = []
        self._trouble: list[KafkaError] = []
        self._began: Any = None

    @classmethod
    @asynccontextmanager
    async def over(cls, stack: Stack) -> "AsyncIterator[Push]":
        """Everything connected, for as long as the block lasts."""
        db = await asyncpg.connect(stack.database_url("auditor"), ssl="disable")
        try:
            async with Ears.listening(stack) as ears:
                push = cls(stack, ears, db)
                push._began = await db.fetchval("select now()")
                async with push._exits:
                    yield push
        finally:
            await db.close()

    async def send(self, make: Callable[[int], Payload], first: int, count: int, rate: float) -> float:
        """So many payloads, so many a second; returns how many seconds it took until the broker had the
        last. KafkaError: it did not take one.
        """
        began, number = time.monotonic(), 0
        while number < count:
            for _ in range(min(count - number, int((time.monotonic() - began) * rate) + 1 - number)):
                await self._send(make(first + number))
                number += 1
            while len(self._flying) > _MOST_FLYING:  # a broker that is slow sets the pace
                await asyncio.sleep(_TICK_SECONDS)
            await asyncio.sleep(_TICK_SECONDS)
        await asyncio.gather(*self._flying)
        if self._trouble:
            raise self._trouble[0]
        return time.monotonic() - began

    async def _send(self, payload: Payload) -> None:
        producer = self._producers.get(payload.principal) or await self._producer(payload.principal)
        letter = payload.letter
        flying = await producer.send(
            letter.topic, letter.value, key=letter.key, headers=letter.headers, partition=payload.part
        )
        task = asyncio.create_task(self._landed(payload._replace(letter=letter._replace(value=None)), flying))
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)

    async def _landed(self, payload: Payload, flying: "asyncio.Future[Any]") -> None:
        try:
            there = await flying
        except KafkaError as error:
            self._trouble.append(error)
            return
        place = Place(there.topic, there.partition, there.offset)
        who = (payload.partner, payload.request_id)
        self._sent.append(Sent(payload.number, payload.what, place, there.timestamp, payload.due, who))

    async def _producer(self, principal: str) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **kafka_options(self._stack.kafka(principal)),
            acks="all",
            linger_ms=5,
            max_batch_size=BATCH_BYTES // 4,  # what waits for a full batch to leave is not sent at its time
            max_request_size=4_000_000,
            request_timeout_ms=120_000,  # a batch that is older is given up
        )
        await producer.start()
        self._exits.push_async_callback(producer.stop)
        self._producers[principal] = producer
        return producer

    async def verdict(self, patience_seconds: float = PATIENCE_SECONDS) -> Verdict:
        """What became of all, once something has become of each of which it must, or the patience is over."""
        end = time.monotonic() + patience_seconds
        waiting = [sent for sent in self._sent if self._at_ms(sent) is None]
        while waiting and time.monotonic() < end:
            await asyncio.sleep(_LOOK_SECONDS)
            waiting = [sent for sent in waiting if self._at_ms(sent) is None]
        stuck = await self._stuck(end)
        details = await self._details()
        wrong = [(sent, self._wrong(sent, details)) for sent in self._sent]
        took = [at_ms - sent.at_ms for sent in self._sent if (at_ms := self._at_ms(sent))]
        return Verdict(
            sent=Counter(sent.due.outcome for sent in self._sent),
            mistaken=[f"{sent.place} {sent.what}: {why}" for sent, why in wrong if why],
            latencies_ms=sorted(took),
            stuck=stuck,
            places={str(sent.place) for sent in self._sent},
        )

    def _at_ms(self, sent: Sent) -> int | None:
        """When all had become of it that must; 0: nothing must. None: not yet."""
        if sent.due.outcome == "silent":
            return 0
        if sent.due.outcome == "parked":
            kept = self._ears.kept.get(str(sent.place), {})
            return max(kept[who].at_ms for who in sent.due.by) if kept.keys() >= {*sent.due.by} else None
        answer = self._ears.answers.get(sent.who)
        return answer.at_ms if answer else None

    def _wrong(self, sent: Sent, details: dict[tuple[str, str], str]) -> str:
        kept, answer = self._ears.kept.get(str(sent.place), {}), self._ears.answers.get(sent.who)
        if sent.due.outcome in ("silent", "parked"):
            return _wrongly_kept(sent, kept, details)
        return f"kept: {kept}" if kept else _wrongly_answered(sent.due, answer)

    async def _details(self) -> dict[tuple[str, str], str]:
        """What each service has noted, by service and place."""
        found = {}
        for service in OPERATED:
            for row in await self._db.fetch(_DETAILS.format(s=service), self._began):
                found[service, f"{row[0]}/{row[1]}/{row[2]}"] = row[3]
        return found

    async def _stuck(self, end: float) -> list[str]:
        """Partitions where a service that reads them has not done the last payload; its database says so."""
        last: dict[tuple[str, int], int] = {}
        for sent in self._sent:
            part = sent.place.topic, sent.place.partition
            last[part] = max(last.get(part, 0), sent.place.offset)
        while True:
            stuck = []
            for service in OPERATED:
                for topic, part, offset in await self._db.fetch(_PROGRESS.format(s=service)):
                    if offset < last.get((topic, part), -1):
                        stuck.append(f"{service}: {topic}/{part} at {offset} of {last[topic, part]}")
            if not stuck or time.monotonic() > end:
                return stuck
            await asyncio.sleep(_LOOK_SECONDS)


def _wrongly_kept(sent: Sent, kept: dict[str, Kept], details: dict[tuple[str, str], str]) -> str:
    if {*sent.due.by} != kept.keys():
        return f"kept by {sorted(kept) or 'nobody'} and not by {sorted(sent.due.by) or 'nobody'}"
    for service, what in kept.items():
        detail = details.get((service, str(sent.place)), "")
        named = sent.due.path in detail or sent.due.path == misfits.path(detail)
        if what.reason not in sent.due.reasons or not named:
            return f"{service}: {what.reason} {detail!r}, not {sent.due.reasons} {sent.due.path}"
    return ""


def _wrongly_answered(due: Due, answer: Answered | None) -> str:
    if answer is None:
        return "no answer"
    right = answer.code in due.reasons and (due.outcome == "handled" or due.path in ("", answer.field))
    return (
        "" if right else f"answered {answer.code or 'accepted'} {answer.field}, not {due.reasons} {due.path}"
    )
