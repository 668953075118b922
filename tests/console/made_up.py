"""What does the console run on in its tests? The real engine and handlers, fed with made-up facts."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
from msgspec import Struct
from msgspec.json import encode

from contracts.answers import ANSWER_TYPES, Accepted, Rejected
from contracts.billing import BillIssued, BillSettled
from contracts.enrollment import (
    Contact,
    CoverageActivated,
    EnrollmentApproved,
    EnrollmentSubmitted,
    Identity,
    PersonRecorded,
)
from contracts.message import EnrollmentId, ObligationId, OrderId, PersonId, Sealed, contract_of
from contracts.notify import NotificationSent
from contracts.operations import MessageParked
from contracts.partners import PARTNERS
from contracts.payment import FundsUnmatched, PaymentSettled
from contracts.reasons import Reason, refused
from services.chassis.arrival import Arrival, Raw
from services.chassis.batch import Engine
from services.chassis.database import connect
from services.chassis.halt import Halt
from services.chassis.ids import partition_of, uuid7
from services.chassis.keys import KeyFile, Keyring
from services.chassis.relay import Memory
from services.chassis.wire import Reader
from services.console.handlers import on
from tests.ground import Database

NOON = datetime(2024, 12, 20, 4, 0, tzinfo=UTC)  # 12:00 in Shanghai


class Listener:
    """The console without its broker."""

    def __init__(self, db: asyncpg.Connection) -> None:
        keys = Keyring(KeyFile(principal="console", digest="A" * 43 + "="))
        self.db, self.offset = db, 0
        self.reader = Reader(on, "bulk", keys, frozenset())
        self.engine = Engine("console", keys, self.reader, Memory(), Halt())

    async def hear(self, *facts: Struct, sequence: int = 1, service: str = "billing") -> list[str]:
        """One batch, a minute of business time between its facts; their ce_ids."""
        arrivals = [
            self.arrived(fact, NOON + timedelta(minutes=n), sequence, service) for n, fact in enumerate(facts)
        ]
        await self.engine.run(self.db, arrivals)
        return [dict(a.raw.headers)["ce_id"].decode() for a in arrivals]  # type: ignore[union-attr]

    async def answer(self, answer: Accepted | Rejected, partner: str, *, key: str) -> None:
        """What a partner was told, under the record key of its command."""
        topic = PARTNERS[partner].replies
        arrived = self._arrived(topic, ANSWER_TYPES[type(answer)], key, answer, answer.answered_at, 1)
        await self.engine.run(self.db, [arrived])

    def arrived(self, fact: Struct, at: datetime, sequence: int = 1, service: str = "billing") -> Arrival:
        """The fact as the lane would hand it over."""
        contract = contract_of(fact)
        topic, key = contract.topic.format(service=service), getattr(fact, contract.key)
        return self._arrived(topic, contract.type, key, fact, at, sequence)

    def _arrived(
        self, topic: str, type_name: str, key: str, said: Struct, at: datetime, sequence: int
    ) -> Arrival:
        self.offset += 1
        headers = (
            ("ce_id", uuid7().encode()),
            ("ce_type", type_name.encode()),
            ("ce_time", at.isoformat().encode()),
            ("ce_sequence", b"%d" % sequence),
        )
        raw = Raw(
            topic,
            partition_of(key),
            self.offset,
            key.encode(),
            headers,
            encode(said),
            int(datetime.now(UTC).timestamp() * 1000),
        )
        arrival = self.reader.read(raw)
        assert isinstance(arrival, Arrival), arrival
        return arrival


@asynccontextmanager
async def listening(database: Database) -> AsyncIterator[Listener]:
    """A console on the test's database."""
    db = await connect(database.url("console"), "console-test")
    try:
        yield Listener(db)
    finally:
        await db.close()


class Citizen:
    """One person whose year goes well, and the ids of it."""

    def __init__(self, name_masked: str = "王*芳") -> None:
        self.name_masked = name_masked
        self.person, self.enrollment, self.obligation, self.order = (
            PersonId(uuid7()),
            EnrollmentId(uuid7()),
            ObligationId(uuid7()),
            OrderId(uuid7()),
        )
        self.channel_ref = f"4200{uuid7()[-12:]}"
        self.journey = self.enrollment.replace("-", "")

    def facts(self) -> Iterable[Struct]:
        """All that is said of the year, in order."""
        case: dict[str, Any] = {
            "journey": self.journey,
            "region_code": "990100",
            "person_id": self.person,
            "enrollment_id": self.enrollment,
        }
        scheme: dict[str, Any] = {"scheme": "resident", "insurance_year": 2025}
        due: dict[str, Any] = {"obligation_id": self.obligation, "version": 1}
        yield self.recorded()
        yield EnrollmentSubmitted(
            **case, **scheme, channel_code="wechat", categories=["subsistence"], submitted_at=NOON
        )
        yield EnrollmentApproved(**case, **scheme, categories=["subsistence"], decided_at=NOON)
        yield BillIssued(
            **case,
            **due,
            **scheme,
            item="RESIDENT_MEDICAL_ANNUAL",
            category="subsistence",
            lines=[],
            due_fen=12000,
            subsidy_fen=95000,
            closes_on=date(2025, 3, 31),
            policy="demo-2025/1",
            explanation=["经认定为城乡低保对象"],
        )
        yield PaymentSettled(
            **case,
            **due,
            order_id=self.order,
            item=0,
            amount_fen=12000,
            channel_code="wechat",
            channel_ref=self.channel_ref,
            paid_at=NOON,
            posted_at=NOON,
        )
        yield BillSettled(**case, **due, order_id=self.order, paid_fen=12000, paid_at=NOON)
        yield CoverageActivated(**case, **scheme, starts_on=date(2025, 1, 1), ends_on=date(2025, 12, 31))
        yield NotificationSent(
            journey=self.journey,
            region_code="990100",
            person_id=self.person,
            notification_id=uuid7(),
            template="PAYMENT_SETTLED",
            about=uuid7(),
            road="SMS",
            to_masked="138****0001",
            at=NOON,
            provider_ref="1",
            attempts=1,
            doubtful=False,
        )

    def recorded(self, name_masked: str = "") -> PersonRecorded:
        """The person's sealed copies, as the topic carries them."""
        return PersonRecorded(
            person_id=self.person,
            region_code="990100",
            name_masked=name_masked or self.name_masked,
            for_payment=Sealed[Identity](reader="payment", key_id="enrollment>payment.1", box="c2VhbGVk"),
            for_notify=Sealed[Contact](reader="notify", key_id="enrollment>notify.1", box="c2VhbGVk"),
        )

    def unmatched(self) -> FundsUnmatched:
        """The bill was paid a second time."""
        return FundsUnmatched(
            journey=self.journey,
            region_code="990100",
            person_id=self.person,
            enrollment_id=self.enrollment,
            obligation_id=self.obligation,
            funds_id=uuid7(),
            order_id="",
            amount_fen=12000,
            channel_code="bank",
            channel_ref="B" + self.channel_ref,
            reason="PAID_TWICE",
            received_at=NOON,
        )


def accepted(request_id: str, command: str, **result: str) -> Accepted:
    """A request was done."""
    return Accepted(request_id=request_id, command=command, answered_at=NOON, result=result)


def rejected(request_id: str, command: str, reason: Reason, **where: str) -> Rejected:
    """A request was not done."""
    refusal = refused(reason, **where)
    return Rejected(request_id=request_id, command=command, answered_at=NOON, refusal=refusal)


def parked(number: int, service: str = "billing") -> MessageParked:
    """Something that a service could not handle."""
    return MessageParked(
        service=service,
        parked_id=str(number),
        reason="HANDLER_FAILED",
        type="enrollment.enrollment_approved.v1",
        source="enrollment.enrollments/1/7",
        refs=1,
        at=NOON,
    )
