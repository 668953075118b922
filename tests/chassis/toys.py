"""What does the engine run in its own tests? A few messages of billing, handled in the plainest way, on a
real database.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
from msgspec import Struct
from msgspec.json import encode

from contracts.billing import BillWaived, QueryBill
from contracts.enrollment import EnrollmentApproved, EnrollmentSubmitted
from contracts.message import EnrollmentId, ObligationId, OrderId, PersonId, contract_of
from contracts.payment import PaymentSettled
from contracts.reasons import Reason
from services.chassis.arrival import Arrival, Raw, Unreadable
from services.chassis.batch import Engine
from services.chassis.database import connect
from services.chassis.halt import Halt
from services.chassis.ids import partition_of, uuid7
from services.chassis.keys import KeyFile, Keyring
from services.chassis.refs import Refs
from services.chassis.relay import Memory
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.transaction import Transaction
from services.chassis.wire import Reader
from tests.ground import Database

NOON = datetime(2024, 12, 20, 12, 0, tzinfo=UTC)
refs = Refs("billing")
owes = refs.by_uuid("owes")
person = refs.by_uuid("person")


class Remind(Struct, frozen=True, kw_only=True):
    """A timer."""

    enrollment_id: str
    poison: bool = False


class Toy:
    """Billing with handlers that write one fact for each message; poisoned: enrollment ids whose handler
    raises.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.poisoned: set[str] = set()
        self.poison: BaseException = ZeroDivisionError("a bug")
        self.endless: set[str] = set()
        self.grounds: set[str] = set()          # enrollments whose ground has come
        self.batches: list[list[str]] = []
        self.memory, self.halt = Memory(), Halt()
        self.on = self._subscriptions()
        self.keys = Keyring(KeyFile(principal="billing", digest="A" * 43 + "="))
        self.reader = Reader(self.on, "money", self.keys, frozenset())
        self.engine = Engine("billing", self.keys, self.reader, self.memory, self.halt)
        self.db: asyncpg.Connection = None

    def _subscriptions(self) -> Subscriptions:  # noqa: C901 -- five handlers of three lines
        on = Subscriptions("billing")

        @on(EnrollmentApproved, refs=lambda f: [owes(f.enrollment_id), person(f.person_id)], lane="money")
        async def bill(facts: Batch[EnrollmentApproved], tx: Transaction) -> None:
            self.batches.append([fact.enrollment_id for fact in facts])
            for fact in facts:
                if fact.enrollment_id in self.endless:
                    await asyncio.Event().wait()
                if fact.enrollment_id in self.poisoned:
                    raise self.poison
                tx.publish(waived(fact.enrollment_id, fact.person_id, tx.now), sequence=1)

        @on(PaymentSettled, refs=lambda f: [owes(f.enrollment_id)], lane="money")
        async def settle(facts: Batch[PaymentSettled], tx: Transaction) -> None:
            for fact in facts:
                if "settle " + fact.enrollment_id in self.poisoned:
                    raise ZeroDivisionError("a bug")
                if fact.enrollment_id in self.grounds:
                    tx.publish(waived(fact.enrollment_id, fact.person_id, tx.now), sequence=2)
                else:
                    tx.wait(fact, owes(fact.enrollment_id))

        @on(QueryBill, refs=lambda c: [person(c.person_id)])
        async def query(commands: Batch[QueryBill], tx: Transaction) -> None:
            for command in commands:
                if command.person_id in self.endless:
                    await asyncio.Event().wait()
                if command.insurance_year == 2000:
                    raise ZeroDivisionError("a bug")
                if command.insurance_year == 2001:
                    tx.refuse(command, Reason.BILL_NOT_FOUND)
                else:
                    tx.accept(command, year=command.insurance_year)

        @on(Remind, refs=lambda t: [owes(t.enrollment_id)])
        async def remind(timers: Batch[Remind], tx: Transaction) -> None:
            for timer in timers:
                if timer.poison:
                    raise ZeroDivisionError("a bug")
                tx.publish(waived(timer.enrollment_id, uuid7(), tx.now), sequence=3)

        return on

    def arrived(
        self, message: Struct, *, event_id: str = "", offset: int | None = None
    ) -> Arrival:
        """The message as the reader would hand it over."""
        contract = contract_of(message)
        key = getattr(message, "person_id", "")
        headers = (
            ("ce_id", (event_id or uuid7()).encode()),
            ("ce_type", contract.type.encode()),
            ("ce_time", b""),
        )
        topic = contract.topic or "channels.wechat"
        raw = Raw(
            topic,
            partition_of(key),
            offset,
            key.encode(),
            headers,
            encode(message),
            int(datetime.now(UTC).timestamp() * 1000),
        )
        what = self.reader.again(raw, contract.type, trusted=True)
        assert isinstance(what, Arrival), what
        return what

    async def run(self, *arrivals: Arrival, unreadable: Sequence[Unreadable] = ()) -> None:
        await self.engine.run(self.db, arrivals, unreadable)

    async def said(self, type: str = "billing.bill_waived.v1") -> list[str]:
        """Subjects of what stands in the outbox, in order."""
        return [
            r[0]
            for r in await self.db.fetch(
                "select subject from outbox where type = $1 order by batch_id, n", type
            )
        ]

    async def rows(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.db.fetch(sql, *args)]


@asynccontextmanager
async def toy(database: Database, kind: type[Toy] = Toy) -> AsyncIterator[Toy]:
    made = kind(database)
    made.db = await connect(database.url("billing"), "toy")
    try:
        yield made
    finally:
        await made.db.close()


def approved(person_id: str = "", enrollment_id: str = "") -> EnrollmentApproved:
    enrollment_id = enrollment_id or uuid7()
    return EnrollmentApproved(
        journey=enrollment_id.replace("-", ""),
        region_code="990100",
        person_id=PersonId(person_id or uuid7()),
        enrollment_id=EnrollmentId(enrollment_id),
        scheme="RESIDENT",
        insurance_year=2025,
        categories=[],
        decided_at=NOON,
    )


def settled(fact: EnrollmentApproved) -> PaymentSettled:
    return PaymentSettled(
        journey=fact.journey,
        region_code="990100",
        person_id=fact.person_id,
        enrollment_id=fact.enrollment_id,
        obligation_id=ObligationId(fact.enrollment_id),
        version=1,
        order_id=OrderId(uuid7()),
        item=0,
        amount_fen=40000,
        channel_code="wechat",
        channel_ref="1",
        paid_at=NOON,
        posted_at=NOON,
    )


def waived(enrollment_id: str, person_id: str, now: datetime) -> BillWaived:
    return BillWaived(
        journey=enrollment_id.replace("-", ""),
        region_code="990100",
        person_id=PersonId(person_id),
        enrollment_id=EnrollmentId(enrollment_id),
        obligation_id=ObligationId(enrollment_id),
        version=1,
        scheme="RESIDENT",
        insurance_year=2025,
        category="orphan",
        subsidy_fen=0,
        policy="demo-2025",
        waived_at=now,
    )


def submitted() -> EnrollmentSubmitted:
    one = uuid7()
    return EnrollmentSubmitted(
        journey=one.replace("-", ""),
        region_code="990100",
        person_id=PersonId(uuid7()),
        enrollment_id=EnrollmentId(one),
        scheme="RESIDENT",
        insurance_year=2025,
        channel_code="wechat",
        categories=[],
        submitted_at=NOON,
    )
