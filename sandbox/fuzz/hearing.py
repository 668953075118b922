"""What became of the payloads, and when? Answers and parked records, as the auditor reads them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from msgspec import DecodeError
from msgspec.json import Decoder

from contracts.answers import Accepted, Rejected
from contracts.message import contract_of
from contracts.operations import OPERATIONS, MessageParked
from contracts.partners import PARTNERS
from contracts.topics import OPERATED
from sandbox.ending import end
from sandbox.fuzz.facts import MADE_UP
from sandbox.partner import Answer, read_topics
from sandbox.stack import Stack

_PARTNER_OF = {partner.replies: partner.code for partner in PARTNERS.values()}
_PARKED = contract_of(MessageParked).type.encode()
_answer = Decoder(Accepted | Rejected).decode
_parked = Decoder(MessageParked).decode


class Answered(NamedTuple):
    """at_ms: when the relay sent it. code: of the refusal; empty: accepted."""

    at_ms: int
    code: str
    field: str


class Kept(NamedTuple):
    """at_ms: when the relay said so."""

    at_ms: int
    reason: str


class Ears:
    """answers: by partner and request id, the first one. kept: by place, then by service."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Answered] = {}
        self.kept: dict[str, dict[str, Kept]] = {}

    @classmethod
    @asynccontextmanager
    async def listening(cls, stack: Stack) -> "AsyncIterator[Ears]":
        """From now on, for as long as the block lasts."""
        ears = cls()
        topics = [*_PARTNER_OF, *(OPERATIONS.format(service=service) for service in OPERATED)]
        consumer = await read_topics(stack.kafka("auditor"), topics, from_start=False)
        task = asyncio.create_task(ears._listen(consumer))
        try:
            yield ears
        finally:
            await end(task)
            await consumer.stop()

    async def _listen(self, consumer: Any) -> None:
        while True:
            for part, records in (await consumer.getmany(timeout_ms=100)).items():
                partner = _PARTNER_OF.get(part.topic)
                for record in records:
                    if partner:
                        self._hear(partner, record)
                    elif ("ce_type", _PARKED) in record.headers and MADE_UP not in record.headers:
                        self._note(record)

    def _hear(self, partner: str, record: Any) -> None:
        try:
            answer: Answer = _answer(record.value or b"")
        except (DecodeError, UnicodeDecodeError, RecursionError):
            return  # one of ours: the fuzz writes here as well
        refusal = answer.refusal if isinstance(answer, Rejected) else None
        heard = Answered(record.timestamp, refusal.code if refusal else "", refusal.field if refusal else "")
        self.answers.setdefault((partner, answer.request_id), heard)

    def _note(self, record: Any) -> None:
        try:
            parked = _parked(record.value or b"")
        except (DecodeError, UnicodeDecodeError, RecursionError):
            return
        kept = self.kept.setdefault(parked.source, {})
        kept.setdefault(parked.service, Kept(record.timestamp, parked.reason))
