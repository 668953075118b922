"""What does verify find nothing wrong with? One citizen's year in every schema and on the topics."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import asyncpg
from confluent_kafka import Producer
from msgspec import Struct
from msgspec.json import decode, encode
from msgspec.structs import asdict

from contracts.answers import ANSWER_TYPES, Accepted, Answer, Rejected
from contracts.billing import BillIssued
from contracts.enrollment import EnrollmentApproved
from contracts.message import CONTRACTS, EnrollmentId, ObligationId, OrderId, PersonId, contract_of
from contracts.partners import PARTNERS
from contracts.payment import PaymentSettled
from contracts.reasons import Reason
from contracts.reasons import refused as refusal_of
from contracts.topics import SERVICES
from sandbox.stack import Stack
from services.chassis.ids import partition_of, uuid7
from services.chassis.outbox import Said
from services.chassis.relay import headers
from services.console.rules import Place, answered, step

NOON = datetime(2024, 12, 20, 4, 0, tzinfo=UTC)
WECHAT = PARTNERS["wechat"]


class Year:
    """Approved, billed 400.00, paid by WeChat, settled, covered; with what was said of it.

    Written past every constraint and trigger, as the administrator: what breaks it must be able to.
    """

    def __init__(self, stack: Stack, db: asyncpg.Connection) -> None:
        self.stack, self.db = stack, db
        self.person, self.enrollment, self.obligation = uuid7(), uuid7(), uuid7()
        self.order, self.entry, self.channel_ref = uuid7(), uuid7(), f"4200{uuid7()[-12:]}"
        self.journey = self.enrollment.replace("-", "")
        self.events: dict[str, str] = {}
        self.offsets: dict[str, int] = {}
        self.part = partition_of(self.person)

    async def live(self) -> None:
        """All of it."""
        await self.db.execute("set session_replication_role = replica")
        await self._rows()
        case: dict[str, Any] = {
            "journey": self.journey,
            "region_code": "990100",
            "person_id": PersonId(self.person),
            "enrollment_id": EnrollmentId(self.enrollment),
        }
        scheme: dict[str, Any] = {"scheme": "RESIDENT", "insurance_year": 2025}
        due: dict[str, Any] = {**case, "obligation_id": ObligationId(self.obligation), "version": 1}
        await self.say("enrollment", EnrollmentApproved(**case, **scheme, categories=[], decided_at=NOON))
        await self.say(
            "billing",
            BillIssued(
                **due,
                **scheme,
                item="RESIDENT_MEDICAL_ANNUAL",
                category="ordinary",
                lines=[],
                due_fen=40000,
                subsidy_fen=67000,
                closes_on=date(2025, 3, 31),
                policy="demo-2025/1",
                explanation=[],
            ),
        )
        await self.say(
            "payment",
            PaymentSettled(
                **due,
                order_id=OrderId(self.order),
                item=0,
                amount_fen=40000,
                channel_code="wechat",
                channel_ref=self.channel_ref,
                paid_at=NOON,
                posted_at=NOON,
            ),
        )
        for service, lane, fact in (
            ("billing", "bulk", "EnrollmentApproved"),
            ("payment", "bulk", "BillIssued"),
            ("notify", "bulk", "BillIssued"),
            ("billing", "money", "PaymentSettled"),
        ):
            await self.consume(service, lane, fact)
        await self.tell("BillIssued")

    async def put(self, table: str, **values: Any) -> None:
        """One row."""
        names, holes = ", ".join(values), ", ".join(f"${n}" for n in range(1, len(values) + 1))
        await self.db.execute(f"insert into {table} ({names}) values ({holes})", *values.values())

    async def _rows(self) -> None:
        whose = {"person_id": self.person, "region_code": "990100", "insurance_year": 2025}
        case = {**whose, "enrollment_id": self.enrollment, "scheme": "RESIDENT"}
        await self.put(
            "enrollment.person",
            person_id=self.person,
            region_code="990100",
            identity_index=self.person.encode(),
            level="REAL_NAME",
            key_id="k",
            box="sealed",
            recorded_at=NOON,
            sequence=1,
        )
        await self.put(
            "enrollment.enrollment",
            **case,
            status="APPROVED",
            categories="[]",
            reasons="[]",
            channel_code="wechat",
            submitted_by="self",
            submitted_at=NOON,
            decided_by="o-1",
            decided_at=NOON,
            sequence=2,
        )
        await self.put(
            "enrollment.coverage",
            **case,
            status="ACTIVE",
            approved_at=NOON,
            paid_at=NOON,
            late=False,
            starts_on=date(2025, 1, 1),
            ends_on=date(2025, 12, 31),
            sequence=1,
        )
        await self.bill()
        await self._pay()

    async def _pay(self) -> None:
        whose = {"person_id": self.person, "region_code": "990100", "insurance_year": 2025}
        await self.put(
            "payment.obligation",
            **whose,
            enrollment_id=self.enrollment,
            obligation_id=self.obligation,
            journey=self.journey,
            version=1,
            due_fen=40000,
            status="SETTLED",
            order_id=self.order,
        )
        await self.put_order()
        await self.put(
            "payment.order_item",
            order_id=self.order,
            item=0,
            person_id=self.person,
            obligation_id=self.obligation,
            version=1,
            amount_fen=40000,
            status="SETTLED",
        )
        await self.put(
            "payment.receipt",
            channel_code="wechat",
            channel_ref=self.channel_ref,
            order_id=self.order,
            amount_fen=40000,
            reason="",
            paid_at=NOON,
            received_at=NOON,
        )
        for leg, account, fen in ((1, 1002, 40000), (2, 2202, -40000)):
            await self.put(
                "payment.ledger",
                entry_id=self.entry,
                leg=leg,
                account=account,
                amount_fen=fen,
                order_id=self.order,
                posted_at=NOON,
            )

    async def put_order(self, **other: Any) -> None:
        """The order that paid, or one like it."""
        await self.put(
            "payment.orders",
            **{
                "order_id": self.order,
                "person_id": self.person,
                "channel_code": "wechat",
                "partner": "wechat",
                "request_id": "r-1",
                "amount_fen": 40000,
                "status": "SETTLED",
                "channel_ref": self.channel_ref,
                "created_at": NOON,
                "paid_at": NOON,
                "sequence": 1,
            }
            | other,
        )

    async def bill(self, **other: Any) -> None:
        """The bill, or one like it."""
        await self.put(
            "billing.bill",
            **{
                "obligation_id": self.obligation,
                "version": 1,
                "enrollment_id": self.enrollment,
                "person_id": self.person,
                "region_code": "990100",
                "scheme": "RESIDENT",
                "insurance_year": 2025,
                "category": "ordinary",
                "certified": "[]",
                "due_fen": 40000,
                "subsidy_fen": 67000,
                "policy": "demo-2025/1",
                "closes_on": date(2025, 3, 31),
                "status": "SETTLED",
                "order_id": self.order,
                "issued_at": NOON,
                "paid_at": NOON,
                "sequence": 2,
            }
            | other,
        )

    async def funds(self, **other: Any) -> None:
        """Money in suspense."""
        await self.put(
            "payment.funds",
            **{
                "funds_id": uuid7(),
                "status": "RECEIVED",
                "reason": "PAID_TWICE",
                "journey": self.journey,
                "region_code": "990100",
                "person_id": self.person,
                "enrollment_id": self.enrollment,
                "amount_fen": 40000,
                "channel_code": "bank",
                "channel_ref": "b-1",
                "received_at": NOON,
            }
            | other,
        )

    async def say(self, service: str, fact: Struct, *, sequence: int = 1, record: bool = True) -> None:
        """A fact, in the outbox and on its topic."""
        contract = contract_of(fact)
        subject = getattr(fact, contract.subject)
        said = Said(
            self.part,
            contract.topic,
            contract.type,
            sequence,
            self.person,
            uuid7(),
            subject,
            NOON,
            self.journey,
            encode(fact),
        )
        self.events[type(fact).__name__] = said.ce_id
        names = ("part", "topic", "type", "seq", "key", "ce_id", "subject", "ce_time", "journey", "payload")
        await self.put(
            f"{service}.outbox", batch_id=len(self.events), n=0, **dict(zip(names, said, strict=True))
        )
        if record:
            self.offsets[type(fact).__name__] = self.send(
                said.topic, said.payload, headers(said, f"/{service}")
            )

    async def answer(
        self,
        service: str,
        request_id: str,
        command: str,
        key: str,
        refused: Reason | None = None,
        ce_id: str = "",
        **result: str,
    ) -> None:
        """What WeChat was told, as the outbox says it; its request is remembered."""
        head: dict[str, Any] = {"request_id": request_id, "command": command, "answered_at": NOON}
        told: Answer = Accepted(**head, result=result)
        if refused is not None:
            told = Rejected(**head, refusal=refusal_of(refused))
        self.events[request_id] = ce_id or uuid7()
        await self.put(
            f"{service}.outbox", batch_id=len(self.events), n=0, part=self.part, topic=WECHAT.replies,
            type=ANSWER_TYPES[type(told)], seq=1, key=key, ce_id=self.events[request_id], subject=request_id,
            ce_time=NOON, journey=None, payload=encode(told),
        )  # fmt: skip
        await self.put(
            f"{service}.request", partner=WECHAT.code, request_id=request_id, command=command, digest=b"",
            answer=encode(told), key=key,
        )  # fmt: skip

    async def park(self, service: str, **row: Any) -> None:
        """Something that the service could not handle."""
        common = {"state": "PARKED", "reason": "HANDLER_FAILED", "digest": b"", "recorded_ms": 1}
        await self.put(f"{service}.parked", **(common | row))

    async def remember(self) -> None:
        """The console has heard everything, and the outboxes have dropped it: two months later."""
        for service in SERVICES:
            rows = await self.db.fetch(f"delete from {service}.outbox returning *")
            for row in rows:
                place = Place(
                    str(row["ce_id"]), str(row["ce_time"]), row["type"], row["topic"], row["part"], 0
                )
                if row["type"] in CONTRACTS:
                    kept = step(decode(row["payload"], type=CONTRACTS[row["type"]].message), place)
                else:
                    kept = answered(decode(row["payload"], type=Accepted | Rejected), place, key=row["key"])
                await self.put("console.step", **{**asdict(kept), "about": encode(kept.about).decode()})
                await self.put("console.inbox", ce_id=row["ce_id"])

    def send(self, topic: str, value: bytes, head: Sequence[tuple[str, bytes]]) -> int:
        """A record, past every ACL; its offset."""
        sent: list[int | None] = []
        producer = Producer({"bootstrap.servers": self.stack.kafka_admin, "log_level": 0})
        producer.produce(
            topic,
            value,
            self.person,
            self.part,
            lambda _, record: sent.append(record.offset()),
            headers=dict(head),
        )
        producer.flush(10)
        assert sent[0] is not None
        return sent[0]

    async def consume(self, service: str, lane: str, fact: str, *, inbox: bool = True) -> None:
        """A service has handled it, up to and with its offset."""
        topic = {"EnrollmentApproved": "enrollment.enrollments", "BillIssued": "billing.bills"}.get(
            fact, "payment.payments"
        )
        await self.progress(service, lane, topic, self.offsets[fact])
        if inbox:
            await self.put(f"{service}.inbox", ce_id=self.events[fact])

    async def progress(self, service: str, lane: str, topic: str, offset: int) -> None:
        """What a lane's database has done."""
        await self.db.execute(
            f"insert into {service}.progress values ($1, $2, $3, $4)"
            ' on conflict (lane, topic, partition) do update set "offset" = excluded."offset"',
            lane,
            topic,
            self.part,
            offset,
        )

    async def tell(self, fact: str) -> None:
        """The citizen was told of it."""
        await self.put(
            "notify.notification",
            notification_id=self.events[fact],
            person_id=self.person,
            journey=self.journey,
            region_code="990100",
            template="bill_issued",
            params="{}",
            to_masked="王*芳",
            road="SMS",
            status="SENT",
            attempts=1,
            provider_ref="1",
            reason="",
            born_at=NOON,
        )
