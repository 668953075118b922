"""What is one transaction of the raw loop made of: what it says, how it answers, what it checks?"""

from binascii import a2b_base64
from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

import asyncpg
import msgspec

from bench.clients import Heard
from contracts.answers import Accepted
from contracts.billing import BILLS, BillIssued, BillSettled
from contracts.enrollment import (
    COVERAGES,
    ENROLLMENTS,
    CoverageActivated,
    EnrollmentApproved,
    EnrollmentSubmitted,
)
from contracts.message import contract_of
from contracts.partners import PARTNERS
from contracts.payment import PAYMENTS, PaymentSettled
from sandbox.people import REGION
from services.chassis.ids import uuid7
from services.chassis.keys import Keyring

Records = list[Any]  # Heard, or the letters of bench/exact_sides.py, which have the same fields
encode = msgspec.json.Encoder().encode

# Rows name topics and types by their position here.
TOPICS = [ENROLLMENTS, COVERAGES, BILLS, PAYMENTS, PARTNERS["bank"].replies, PARTNERS[REGION].replies]
_FACTS = (EnrollmentSubmitted, EnrollmentApproved, CoverageActivated, BillIssued, BillSettled, PaymentSettled)
TYPES = [contract_of(fact).type.encode() for fact in _FACTS] + [b"answer.accepted.v1"]
ON_ENROLLMENTS, ON_COVERAGES, ON_BILLS, ON_PAYMENTS, TO_BANK, TO_AGENCY = range(6)
SUBMITTED, APPROVED, ACTIVATED, ISSUED, SETTLED, PAID, ACCEPTED = range(7)


class Said(NamedTuple):
    """One message as its row says it. topic, type: positions in TOPICS and TYPES."""

    part: int
    topic: int
    type: int
    seq: int
    key: str
    ce_id: str
    subject: str
    ce_time: datetime
    payload: bytes


class Step(NamedTuple):
    """What a loop does with one type. is_fact: it goes through the inbox; a command is known by its request
    instead.
    """

    is_fact: bool
    run: Callable[["Batch", Records], Awaitable[None]]


class Batch:
    """One transaction. now: business instant. say: put a message into the outbox."""

    def __init__(self, db: asyncpg.Connection, keys: Keyring, prefix: str, now: datetime) -> None:
        self.db, self.keys, self.prefix, self.now = db, keys, prefix, now
        self.said: list[Said] = []

    def say(self, part: int, topic: int, kind: int, seq: int, key: str, subject: str, payload: bytes) -> None:
        """A fact or an answer."""
        self.said.append(Said(part, topic, kind, seq, key, uuid7(), subject, self.now, payload))

    async def copy(self, table: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        """New rows."""
        await self.db.copy_records_to_table(table, records=rows, columns=columns)

    async def exactly(self, count: int, sql: str, *args: Any) -> None:
        """A statement that must touch so many rows, by its command tag."""
        tag = await self.db.execute(sql, *args)
        if tag.rpartition(" ")[2] != str(count):
            raise SystemExit(f"{tag}, expected {count}: {sql}")


def verify(work: Batch, record: Heard) -> None:
    """The same signature over the same bytes as services.chassis.trust checks."""
    head = dict(record.headers)
    signed = b"\n".join(
        (
            head["sig_key"],
            head["sig_at"],
            record.topic.encode(),
            record.key,
            head["ce_id"],
            head["ce_type"],
            head["ce_time"],
            head["ce_source"],
            sha256(record.value).hexdigest().encode(),
        )
    )
    if not work.keys.verifiers[head["sig_key"]].matches(a2b_base64(head["sig"], strict_mode=True), signed):
        raise SystemExit("a signature does not match")


_REQUEST = ("partner", "request_id", "command", "digest", "answer", "key")


async def answer(
    work: Batch,
    partner: str,
    topic: int,
    records: Records,
    commands: list[Any],
    results: list[dict[str, Any]],
) -> None:
    """Remember each request with its answer, and say it."""
    kind = contract_of(commands[0]).type
    rows = []
    for record, command, result in zip(records, commands, results):
        body = encode(
            Accepted(request_id=command.request_id, command=kind, answered_at=work.now, result=result)
        )
        digest = work.keys.request_digest(record.value)
        rows.append((partner, command.request_id, kind, digest, body, command.person_id))
        work.say(record.partition, topic, ACCEPTED, 1, command.person_id, command.request_id, body)
    await work.copy("request", _REQUEST, rows)
