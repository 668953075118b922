"""What does the toy service hear? Facts, payments that may overtake them, foreign records, commands."""

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

import aiohttp
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c
from msgspec import Struct
from msgspec.json import encode

from contracts.billing import QueryBill
from contracts.enrollment import EnrollmentApproved
from contracts.message import EnrollmentId, ObligationId, OrderId, PersonId, contract_of
from contracts.payment import PaymentSettled
from sandbox.partner import Answer, Letter, Partner
from services.chassis.ids import partition_of, uuid7
from services.chassis.keys import load_keyring
from tests.faults.field import Field
from tests.faults.toy import CALL, POISON, TIMER

FOREIGN = "enrollment.enrollment_rejected.v1"
PEOPLE = 400


def now() -> datetime:
    return datetime.now(UTC)


def approved(person_id: str, number: int, *marks: str) -> EnrollmentApproved:
    """The person's fact number so many."""
    enrollment_id = uuid7()
    return EnrollmentApproved(
        journey=enrollment_id.replace("-", ""),
        region_code="990100",
        person_id=PersonId(person_id),
        enrollment_id=EnrollmentId(enrollment_id),
        scheme="RESIDENT",
        insurance_year=number,
        categories=list(marks),
        decided_at=now(),
    )


def settled(fact: EnrollmentApproved) -> PaymentSettled:
    """Money for it."""
    return PaymentSettled(
        journey=fact.journey,
        region_code=fact.region_code,
        person_id=fact.person_id,
        enrollment_id=fact.enrollment_id,
        obligation_id=ObligationId(fact.enrollment_id),
        version=1,
        order_id=OrderId(uuid7()),
        item=0,
        amount_fen=40000,
        channel_code="wechat",
        channel_ref="1",
        paid_at=now(),
        posted_at=now(),
    )


class Feed:
    """Sends, and keeps a book of what it sent. approved, settled: enrollment ids; ids: ce_ids; of_person: how
    many facts each person has; marked: enrollment ids by mark; commands: how often each request id was sent.
    calls: whether some facts ask for a call to the provider.
    """

    def __init__(self, field: Field, seed: int = 1, *, calls: bool = True) -> None:
        self.approved: list[str] = []
        self.settled: list[str] = []
        self.ids: set[str] = set()
        self.of_person: Counter[str] = Counter()
        self.marked: dict[str, list[str]] = {TIMER: [], CALL: [], POISON: []}
        self.commands: Counter[str] = Counter()
        self.foreign, self._calls = 0, calls
        self._chance = random.Random(seed)
        self._people = [uuid7() for _ in range(PEOPLE)]
        self._askers = [uuid7() for _ in range(200)]
        self._payments: list[PaymentSettled] = []
        self._sends: list[asyncio.Future[Any]] = []
        keys = load_keyring(field.keys / "wechat.json")
        self._wechat = Partner("wechat", field.stack.kafka("wechat"), keys, now)
        self._producer = AIOKafkaProducer(
            bootstrap_servers=field.stack.kafka_admin, acks="all", enable_idempotence=True, linger_ms=5
        )

    async def __aenter__(self) -> "Feed":
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def some(self, count: int, *, poison: float = 0.0) -> None:
        """So many facts about as many people as there are, with all that goes with them."""
        for _ in range(count):
            person_id = self._chance.choice(self._people)
            await self.fact(person_id, *self._marks(poison))
            if self._chance.random() < 0.1:
                await self.record("enrollment.enrollments", FOREIGN, person_id, b"{}")
                self.foreign += 1
            if self._chance.random() < 0.02:
                await self.command()
            if self._payments and self._chance.random() < 0.5:
                await self.pay(self._payments.pop(0))

    def _marks(self, poison: float) -> list[str]:
        marks = [TIMER] if self._chance.random() < 0.1 else []
        marks += [CALL] if self._calls and self._chance.random() < 0.05 else []
        return [*marks, POISON] if self._chance.random() < poison else marks

    async def fact(self, person_id: str, *marks: str) -> EnrollmentApproved:
        """One fact; a third of them are paid for, some before we hear that they are approved."""
        self.of_person[person_id] += 1
        fact = approved(person_id, self.of_person[person_id], *marks)
        self.approved.append(fact.enrollment_id)
        for mark in set(marks) & set(self.marked):
            self.marked[mark].append(fact.enrollment_id)
        payment = settled(fact) if POISON not in marks and self._chance.random() < 0.3 else None
        if payment and self._chance.random() < 0.2:
            await self.pay(payment)
        elif payment:
            self._payments.append(payment)
        await self.say(fact)
        return fact

    async def pay(self, payment: PaymentSettled) -> None:
        """Money for an enrollment."""
        self.settled.append(payment.enrollment_id)
        await self.say(payment)

    async def say(self, fact: Struct, *, event_id: str = "") -> str:
        """A fact of ours, as its owner's relay sends it; its ce_id."""
        contract, event_id = contract_of(fact), event_id or uuid7()
        key, header = getattr(fact, contract.key), ("ce_id", event_id.encode())
        await self.record(contract.topic, contract.type, key, encode(fact), header)
        self.ids.add(event_id)
        return event_id

    async def record(
        self, topic: str, type: str, key: str, value: bytes | None, *headers: tuple[str, bytes]
    ) -> None:
        """Any record."""
        all_headers = [("ce_type", type.encode()), ("ce_sequence", b"1"), *headers]
        sent = await self._producer.send(
            topic, value, key=key.encode(), partition=partition_of(key), headers=all_headers
        )
        self._sends.append(sent)

    def _asked(self, request_id: str) -> QueryBill:
        self.commands[request_id] += 1
        who = self._askers[crc32(request_id.encode()) % len(self._askers)]
        return QueryBill(request_id=request_id, person_id=who, insurance_year=2025)

    async def knock(self, http: aiohttp.ClientSession, door: str, request_id: str) -> Answer:
        """A command through a member's door, asked until it is answered."""
        return await self._wechat.ask_http(http, door, self._asked(request_id))

    async def knock_once(self, http: aiohttp.ClientSession, door: str, request_id: str) -> int:
        """The status of one try."""
        return (await self._wechat._knock(http, door, self._wechat.letter(self._asked(request_id))))[0]

    async def command(self, request_id: str = "") -> None:
        """A signed record; many are said twice, some three times."""
        request_id = request_id or f"r-{len(self.commands)}"
        letter = self._wechat.letter(self._asked(request_id))
        for _ in range(1 if self._chance.random() < 0.6 else self._chance.choice([2, 2, 3])):
            await self.post(letter)

    async def post(self, letter: Letter) -> None:
        """A partner's record."""
        partition = partition_of((letter.key or b"").decode())
        headers = [(name, value or b"") for name, value in letter.headers]
        sent = await self._producer.send(
            letter.topic, letter.value, key=letter.key, partition=partition, headers=headers
        )
        self._sends.append(sent)

    async def mangled(self, topic: str, key: str) -> None:
        """Three records in one batch, the second with a header whose name is no UTF-8."""
        batch = self._producer.create_batch()
        for name in ("x", "zzzz", "y"):
            batch.append(key=key.encode(), value=b"{}", timestamp=None, headers=[(name, b"1")])
        batch.close()
        build = batch._build

        def mangle() -> bytearray:
            data = bytearray(build()).replace(b"zzzz", b"\xff\xfe\xff\xfe")
            data[17:21] = calc_crc32c(bytes(data[21:])).to_bytes(4, "big")
            return data

        batch._build = mangle
        self._sends.append(await self._producer.send_batch(batch, topic, partition=partition_of(key)))

    async def all_sent(self) -> None:
        """Pay what is still owed, and wait until the broker has everything."""
        for payment in self._payments:
            await self.pay(payment)
        self._payments = []
        await asyncio.gather(*self._sends)
        self._sends = []
