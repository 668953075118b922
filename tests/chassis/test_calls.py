"""Is the outside asked once for each thing, and does no call stand in the way of another?"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.json import encode
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from typing_extensions import override

from contracts.enrollment import EnrollmentSubmitted
from sandbox.stack import Stack
from services.chassis import telemetry
from services.chassis.calls import Calls, NotSent, Unknown
from services.chassis.database import connect
from services.chassis.door import Door
from services.chassis.ids import uuid7
from services.chassis.service import Running
from services.chassis.settings import Telemetry
from services.chassis.subscriptions import Batch
from services.chassis.transaction import FEW, Transaction
from tests.chassis.running import running, until
from tests.chassis.toys import NOON, Toy, owes, submitted, toy, waived
from tests.ground import Database


class Wish(Struct, frozen=True, kw_only=True):
    """Asks for a call."""

    enrollment_id: str


class Send(Struct, frozen=True, kw_only=True):
    """A request to a provider."""

    enrollment_id: str


class Sent(Struct, frozen=True, kw_only=True):
    """Its outcome."""

    enrollment_id: str


class Soon(Struct, frozen=True, kw_only=True):
    """A timer that an outcome sets."""

    enrollment_id: str


class Provider:
    """Takes what it is sent, then loses so many of its answers, and knows what it took. open: it answers."""

    def __init__(self, lost: int = 0) -> None:
        self.sent: list[str] = []
        self.asked: list[str] = []
        self.lost = lost
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, request: Struct) -> Struct:
        assert isinstance(request, Send)
        self.sent.append(request.enrollment_id)
        await self.open.wait()
        if self.lost:
            self.lost -= 1
            raise Unknown("the answer was lost")
        return Sent(enrollment_id=request.enrollment_id)

    async def ask(self, request: Struct) -> Struct | None:
        assert isinstance(request, Send)
        self.asked.append(request.enrollment_id)
        return Sent(enrollment_id=request.enrollment_id) if request.enrollment_id in self.sent else None


class Refusing(Provider):
    """Turns every first send away unread."""

    @override
    async def send(self, request: Struct) -> Struct:
        assert isinstance(request, Send)
        if request.enrollment_id not in self.asked:
            raise NotSent("busy")
        return await super().send(request)


class Endless(Provider):
    """Asks for more patience than there are years."""

    @override
    async def send(self, request: Struct) -> Struct:
        raise NotSent("patience", after_seconds=float("9" * 400))


def journey(enrollment_id: str) -> str:
    return enrollment_id.replace("-", "")


@asynccontextmanager
async def calling(
    database: Database, broker: Stack, folder: Path, provider: Provider
) -> AsyncIterator[tuple[Toy, Running]]:
    """A service that calls for each wish, says a fact for each outcome, and one more a while later."""
    async with toy(database) as made:
        @made.on(Wish, refs=lambda message: [owes(message.enrollment_id)])
        async def ask_outside(messages: Batch[Wish], tx: Transaction) -> None:
            for message in messages:
                one = message.enrollment_id
                tx.call(Send(enrollment_id=one), number=f"no-{one}", journey=journey(one))

        @made.on(Sent, refs=lambda message: [owes(message.enrollment_id)])
        async def hear(messages: Batch[Sent], tx: Transaction) -> None:
            for message in messages:
                tx.publish(waived(message.enrollment_id, uuid7(), tx.now), sequence=1)
                later = Soon(enrollment_id=message.enrollment_id)
                tx.at(NOON, later, journey=tx.arrival(message).journey)

        @made.on(Soon, refs=lambda timer: [owes(timer.enrollment_id)])
        async def fire(timers: Batch[Soon], tx: Transaction) -> None:
            for timer in timers:
                tx.publish(waived(timer.enrollment_id, uuid7(), tx.now), sequence=2)

        async with running(broker, folder, made.on, gateways={Send: provider}) as run:
            yield made, run


async def done(made: Toy, *ids: str) -> bool:
    """Each outcome was heard, and the timer after it fired."""
    assert sorted(await made.said()) == sorted([*ids, *ids])
    assert await made.rows("select count(*) from call") == [(0,)]
    return True


async def test_an_unknown_outcome_is_asked_for_and_never_sent_again(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    provider = Provider(lost=1)
    async with calling(database, broker, tmp_path, provider) as (made, run):
        one = uuid7()
        await run.door.tell(Wish(enrollment_id=one))
        await until(lambda: done(made, one))
    assert provider.sent == [one]
    assert provider.asked == [one]


async def test_what_was_surely_not_sent_is_sent_again_after_a_question(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    provider = Refusing()
    async with calling(database, broker, tmp_path, provider) as (made, run):
        one = uuid7()
        await run.door.tell(Wish(enrollment_id=one))
        await until(lambda: done(made, one))
    assert provider.sent == [one]


async def test_a_provider_that_asks_for_endless_patience_does_not_shut_the_door(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with calling(database, broker, tmp_path, Endless()) as (made, run):
        await run.door.tell(Wish(enrollment_id=uuid7()))

        async def rests() -> bool:
            return await made.rows(
                "select state from call where next_at between now() + '1 hour' and now() + '1 day'"
            ) == [("NEW",)]

        await until(rests)
        await run.door.tell(Wish(enrollment_id=uuid7()))


@pytest.mark.parametrize("count", [3, 3 * FEW])
async def test_a_call_is_asked_for_once_however_often_it_is_wished_for(
    database: Database, count: int
) -> None:
    async with toy(database) as made:

        @made.on(EnrollmentSubmitted, refs=lambda fact: [owes(fact.enrollment_id)], lane="money")
        async def ask_outside(facts: Batch[EnrollmentSubmitted], tx: Transaction) -> None:
            for fact in facts:
                for wish in ("first", "again"):
                    tx.call(Send(enrollment_id=wish), number=fact.enrollment_id, journey="")

        facts = [submitted() for _ in range(count)]
        await made.run(*map(made.arrived, facts[: count // 3]))
        await made.run(*map(made.arrived, facts))
        await made.run(*map(made.arrived, [*facts, submitted()]))
        assert await made.rows("select count(*) from parked") == [(0,)]
        rows = await made.rows("select number, payload from call")
        assert len(rows) == len(dict(rows)) == count + 1
        assert set(dict(rows).values()) == {encode(Send(enrollment_id="first"))}


async def test_two_outcomes_of_one_call_in_one_batch_have_one_effect(database: Database) -> None:
    async with toy(database) as made:
        heard: list[str] = []

        @made.on(Sent, refs=lambda message: [owes(message.enrollment_id)])
        async def hear(messages: Batch[Sent], tx: Transaction) -> None:
            heard.extend(message.enrollment_id for message in messages)

        one = uuid7()
        await made.db.execute(
            "insert into call(id, number, type, payload, journey) values ($1::uuid, '1', 'Send', $2, null)",
            uuid7(), encode(Send(enrollment_id=one)),
        )
        door = Door(made.engine, made.on)
        calls = Calls(made.engine, {Send: Provider()}, door)
        for count in (1, 2):    # its worker is lost and comes back, before the door has a connection again
            await outcome_waits(database, calls, door, count)

        await door._handle(made.db, door._waiting)

        assert heard == [one]


async def outcome_waits(database: Database, calls: Calls, door: Door, count: int) -> None:
    async def waits() -> bool:
        return len(door._waiting) == count

    db = await connect(database.url("billing"), "calls")
    worker = asyncio.create_task(calls.run(db))
    try:
        await until(waits)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        await db.close()


@pytest.mark.parametrize(
    ("type", "payload", "reason"),
    [
        ("Forgotten", b'{"enrollment_id":"1"}', "TYPE_UNKNOWN"),
        ("Send", b'{"enrollment_id":1}', "BODY_INVALID"),
        ("Send", b"\xff", "BODY_INVALID"),
    ],
)
async def test_a_call_that_cannot_be_read_is_parked_and_never_sent_and_the_others_go_on(
    database: Database, broker: Stack, tmp_path: Path, type: str, payload: bytes, reason: str
) -> None:
    provider = Provider()
    async with calling(database, broker, tmp_path, provider) as (made, run):
        await made.db.execute(
            "insert into call(id, number, type, payload, journey) values ($1::uuid, 'no-1', $2, $3, null)",
            uuid7(), type, payload,
        )
        one = uuid7()
        await run.door.tell(Wish(enrollment_id=one))
        await until(lambda: done(made, one))
        parked = await made.rows("select state, reason, type, topic, key, value from parked")
        assert parked == [("QUARANTINED", reason, type, "call", b"no-1", payload)]
        assert await made.rows("select count(*) from parked_ref") == [(0,)]
        assert len(await made.said("any.message_parked.v1")) == 1
    assert provider.sent == [one]


async def test_a_call_that_can_be_read_again_is_redriven_and_asked_for_before_it_is_sent(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    provider = Provider()
    async with calling(database, broker, tmp_path, provider) as (made, run):
        one = uuid7()
        await made.db.execute(
            "insert into call(id, number, type, payload, journey)"
            " values ($1::uuid, 'no-1', 'Send', $2, $3::uuid)",
            uuid7(), b"{}", journey(one),
        )
        await until(lambda: _parked(made))
        await made.db.execute("update parked set value = $1", encode(Send(enrollment_id=one)))
        seqs = [seq for (seq,) in await made.rows("select seq from parked")]
        assert await run.engine.redrive(made.db, seqs) == {}
        await until(lambda: done(made, one))
        assert await made.rows("select count(*) from parked") == [(0,)]
    assert (provider.asked, provider.sent) == ([one], [one])


async def _parked(made: Toy) -> bool:
    assert await made.rows("select count(*) from parked") == [(1,)]
    return True


async def test_a_claim_that_has_gone_to_another_worker_is_not_given_back(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    provider = Provider(lost=1)
    provider.open.clear()
    async with calling(database, broker, tmp_path, provider) as (made, run):
        one, other = uuid7(), uuid7()
        await run.door.tell(Wish(enrollment_id=one))
        await until(lambda: _sent(provider, one))
        await made.db.execute("update call set attempts = attempts + 1")     # as the other one's claim does
        provider.open.set()
        await run.door.tell(Wish(enrollment_id=other))
        await until(lambda: _sent(provider, one, other))
        await run.door.tell(Wish(enrollment_id=uuid7()))        # behind what the lost answer has written
        assert await made.rows("select state, attempts from call where number = $1", f"no-{one}") == [
            ("CLAIMED", 2)
        ]


async def test_a_slow_provider_costs_the_worker_neither_its_session_nor_what_is_in_flight(
    database: Database, broker: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("calls", "database", "lane"):
        monkeypatch.setattr(f"services.chassis.{name}.IDLE_SECONDS", 2.0)
    monkeypatch.setattr("services.chassis.calls.LOOK_AHEAD", 2)
    provider = Provider()
    provider.open.clear()
    async with calling(database, broker, tmp_path, provider) as (made, run):
        ids = [uuid7(), uuid7()]
        await run.door.tell(Wish(enrollment_id=ids[0]))
        await run.door.tell(Wish(enrollment_id=ids[1]))
        await until(lambda: _sent(provider, *ids))
        begun = await _session(made)

        async def outlived() -> bool:
            pid, spoke = await _session(made)
            assert pid == begun[0], "the session ended"
            return spoke - begun[1] > timedelta(seconds=6)

        await until(outlived)
        provider.open.set()
        await until(lambda: done(made, *ids))
    assert sorted(provider.sent) == sorted(ids)
    assert provider.asked == []


async def _session(made: Toy) -> tuple[int, datetime]:
    """The worker's: its backend, and when it last spoke."""
    rows = await made.rows(
        "select pid, state_change from pg_stat_activity where application_name = 'billing-calls'"
    )
    assert rows, "there is no session"
    pid, spoke = rows[0]
    return int(pid), spoke


async def _sent(provider: Provider, *ids: str) -> bool:
    assert sorted(provider.sent) == sorted(ids)
    return True


@pytest.fixture
def traced() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    telemetry.configure("billing", Telemetry(sample=1.0), exporter=exporter)
    yield exporter
    telemetry.configure("billing", Telemetry(sample=0.0))


async def test_a_call_its_outcome_and_the_timer_after_it_stand_in_the_trace_of_their_journey(
    database: Database, broker: Stack, tmp_path: Path, traced: InMemorySpanExporter
) -> None:
    provider = Provider(lost=1)
    async with calling(database, broker, tmp_path, provider) as (made, run):
        one = uuid7()
        await run.door.tell(Wish(enrollment_id=one))
        await until(lambda: done(made, one))
    spans = [s for s in traced.get_finished_spans() if s.context.trace_id == int(journey(one), 16)]
    tried = [dict(span.attributes or {}) for span in spans if span.name == "call Send"]
    assert tried == [
        {"canbao.call.number": f"no-{one}", "canbao.call.attempt": n, "canbao.call.outcome": outcome}
        for n, outcome in ((1, "unknown"), (2, "answered"))
    ]
    assert [s.status.is_ok for s in spans if s.name == "call Send"] == [False, True]
    assert {"process Sent", "process Soon"} <= {span.name for span in spans}
    assert len([span for span in spans if span.name == "publish billing.bill_waived.v1"]) == 2
