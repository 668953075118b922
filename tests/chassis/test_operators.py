"""Is what operators order done, whatever state the service is in, and do they hear what came of it?"""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.json import encode

from contracts.answers import Accepted, Rejected
from contracts.billing import QueryBill
from contracts.enrollment import EnrollmentSubmitted
from contracts.message import PersonId
from contracts.operations import Redrive, Reread, Resume
from contracts.reasons import Reason
from contracts.topics import OPERATED, TOPICS
from sandbox.keys import make_keys
from sandbox.stack import Stack
from services.chassis import trust
from services.chassis.arrival import Raw, Unreadable
from services.chassis.halt import IN_A_ROW
from services.chassis.ids import uuid7
from services.chassis.keys import load_keyring
from services.chassis.operators import Orders
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.transaction import Transaction
from services.chassis.wire import Reader
from tests.chassis.running import partner, producing, running, say, until
from tests.chassis.test_lane import bills, skip_to_end
from tests.chassis.test_parking import in_ms
from tests.chassis.test_wire import reason
from tests.chassis.toys import Toy, approved, owes, submitted, toy
from tests.ground import Database


def counting(heard: list[str]) -> Subscriptions:
    """A service whose only lane is bulk."""
    on = Subscriptions("billing")

    @on(EnrollmentSubmitted, refs=lambda fact: [owes(fact.enrollment_id)], lane="bulk")
    async def count(facts: Batch[EnrollmentSubmitted], tx: Transaction) -> None:
        heard.extend(fact.enrollment_id for fact in facts)

    return on


async def test_what_was_set_aside_unread_in_the_bulk_lane_is_redriven_too(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    heard: list[str] = []
    async with (
        toy(database) as made,
        producing(broker) as producer,
        partner("operators", broker, tmp_path) as operators,
        running(broker, tmp_path, counting(heard)),
    ):
        early = submitted()
        await say(producer, early, event_id=in_ms(ahead=302_000))
        await until(lambda: parked(made, [("QUARANTINED", "ID_FROM_FUTURE")]))

        async def comes() -> bool:
            order = Redrive(
                request_id=uuid7(), service="billing", operator="lin", reason="ID_FROM_FUTURE", dry_run=False
            )
            answer = await operators.ask(order)
            assert isinstance(answer, Accepted)
            return heard == [early.enrollment_id]

        await until(comes)
        assert await made.rows("select count(*) from parked") == [(0,)]


async def test_an_operator_hears_why_a_row_stays(database: Database, broker: Stack, tmp_path: Path) -> None:
    async with toy(database) as made, partner("operators", broker, tmp_path) as operators:
        fact = approved()
        made.poisoned = {fact.enrollment_id}
        await made.run(made.arrived(fact))
        ((seq,),) = await made.rows("select seq from parked")
        async with running(broker, tmp_path, made.on):
            answer = await operators.ask(
                Redrive(
                    request_id="o-1", service="billing", operator="lin", seqs=[seq, seq + 1], dry_run=False
                )
            )
        assert isinstance(answer, Accepted)
        assert answer.result == {
            "redriven": 0,
            "left": 1,
            "why": {str(seq): "failed again: ZeroDivisionError: a bug", str(seq + 1): "no such row"},
        }


async def test_why_a_row_stays_ends_in_no_blank(database: Database, broker: Stack, tmp_path: Path) -> None:
    async with toy(database) as made, partner("operators", broker, tmp_path) as operators:
        query = made.arrived(QueryBill(request_id="q-1", person_id=PersonId(uuid7()), insurance_year=2025))
        await made.run(unreadable=[Unreadable(query.raw, Reason.SIGNATURE_INVALID, "", query.type)])
        async with running(broker, tmp_path, made.on):
            answer = await operators.ask(
                Redrive(
                    request_id="o-1", service="billing", operator="lin", reason="SIGNATURE_INVALID",
                    dry_run=False,
                )
            )  # fmt: skip
        ((seq,),) = await made.rows("select seq from parked")
        assert isinstance(answer, Accepted)
        assert answer.result["why"] == {str(seq): f"row {seq}: SIGNATURE_INVALID"}


async def test_a_reason_that_there_is_not_is_refused(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with (
        toy(database) as made,
        partner("operators", broker, tmp_path) as operators,
        running(broker, tmp_path, made.on),
    ):
        order = Redrive(request_id="o-1", service="billing", operator="lin", reason="NONSENSE")
        answer = await operators.ask(order)
        assert isinstance(answer, Rejected)
        assert (answer.refusal.code, answer.refusal.field) == ("SCHEMA_INVALID", "reason")


async def test_however_many_orders_failed_a_resume_is_done(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with (
        toy(database) as made,
        partner("operators", broker, tmp_path) as operators,
        running(broker, tmp_path, made.on) as run,
    ):
        lane = next(lane for lane in run.lanes if lane.name == "operators")
        for _ in range(IN_A_ROW + 1):
            lane.engine.halt.failed("a bug in an order's handler")

        answer = await operators.ask(Resume(request_id="o-1", service="billing", operator="lin"))

        assert isinstance(answer, Accepted)


async def test_an_operator_redrives_and_resumes_by_signed_orders(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with (
        toy(database) as made,
        producing(broker) as producer,
        partner("operators", broker, tmp_path) as operators,
    ):
        facts = [approved() for _ in range(30)]
        made.poisoned = {fact.enrollment_id for fact in facts}
        async with running(broker, tmp_path, made.on) as run:
            for fact in facts:
                await say(producer, fact)
            await until(lambda: halted(made))
            assert run.halt.declared
            made.poisoned = set()

            resumed = await operators.ask(Resume(request_id="o-1", service="billing", operator="lin"))
            assert isinstance(resumed, Accepted)
            assert resumed.result == {"was_halted": True}
            counted = await operators.ask(Redrive(request_id="o-2", service="billing", operator="lin"))
            assert isinstance(counted, Accepted)
            assert counted.result["redriven"] == 0
            redriven = await operators.ask(
                Redrive(request_id="o-3", service="billing", operator="lin", dry_run=False)
            )
            assert isinstance(redriven, Accepted)
            assert redriven.result["redriven"] == counted.result["left"]
            await until(lambda: came_through(made, 30))


async def test_an_order_that_fails_is_refused_and_the_next_one_is_done(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with (
        toy(database) as made,
        partner("operators", broker, tmp_path) as operators,
        running(broker, tmp_path, made.on),
    ):
        failing = Redrive(request_id="o-1", service="billing", operator="lin", seqs=[2**63], dry_run=False)
        answer = await operators.ask(failing)
        assert isinstance(answer, Rejected)
        assert answer.refusal.code == "UNDER_REPAIR"
        resumed = await operators.ask(Resume(request_id="o-2", service="billing", operator="lin"))
        assert isinstance(resumed, Accepted)


async def test_an_order_under_a_used_request_id_is_not_done(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made, partner("operators", broker, tmp_path) as operators:
        fact = approved()
        made.poisoned = {fact.enrollment_id}
        await made.run(made.arrived(fact))
        made.poisoned = set()
        async with running(broker, tmp_path, made.on):
            await operators.ask(Redrive(request_id="o-1", service="billing", operator="lin"))
            other = Redrive(request_id="o-1", service="billing", operator="lin", dry_run=False)
            answer = await operators.ask(other)
            assert isinstance(answer, Rejected)
            assert answer.refusal.code == "IDEMPOTENCY_CONFLICT"
            assert await made.said() == []


async def halted(made: Toy) -> bool:
    return await made.rows("select count(*) from halt") == [(1,)]


async def came_through(made: Toy, count: int) -> bool:
    return len(await made.said()) == count


async def parked(made: Toy, expected: list[tuple[str, str]]) -> bool:
    return await made.rows("select state, reason from parked order by seq") == expected


def order(keys: Path, body: dict[str, object] | bytes, *, flip: bool = False) -> Raw:
    """An operator's order, signed."""
    value = body if isinstance(body, bytes) else encode({"request_id": "o-1", "operator": "lin"} | body)
    key = str(body.get("service", "")) if isinstance(body, dict) else ""
    head = {"ce_id": uuid7().encode(), "ce_type": b"any.resume.v1", "ce_time": b"2024-12-20T01:00:00Z",
            "ce_source": b"/operators"}  # fmt: skip
    ring = load_keyring(keys / "operators.json")
    signed = trust.sign(ring, topic="operators", key=key.encode(), headers=head, value=value, money=False)
    return Raw("operators", 0, 1, key.encode(), (*head.items(), *signed), value + b" " * flip,
               int(time.time() * 1000))  # fmt: skip


@pytest.mark.parametrize(
    ("body", "flip", "heard"),
    [
        ({"service": "billing"}, False, {"billing": ""}),
        ({"service": "console"}, False, {"console": ""}),
        ({"service": "nosuch"}, False, {"enrollment": "refused SCHEMA_INVALID service"}),
        ({"service": "billing", "operator": ""}, False, {"billing": "refused SCHEMA_INVALID operator"}),
        ({"service": 7}, False, {"enrollment": "refused SCHEMA_INVALID service"}),
        ({}, False, {"enrollment": "refused SCHEMA_INVALID service"}),
        ({"service": "billing", "request_id": "a b"}, False, {"enrollment": "parked SCHEMA_INVALID"}),
        (b"garbage", False, {"enrollment": "parked SCHEMA_INVALID"}),
        ({"service": "billing"}, True, {"enrollment": "parked SIGNATURE_INVALID"}),
    ],
)
def test_an_order_is_taken_refused_or_kept_by_one_service_and_never_by_two(
    tmp_path: Path, body: dict[str, object] | bytes, *, flip: bool, heard: dict[str, str]
) -> None:
    make_keys(keys := tmp_path / "keys")
    said, raw = {}, order(keys, body, flip=flip)
    for service in OPERATED:
        kept = frozenset({"operators"} if TOPICS["operators"].owner == service else ())
        reader = Reader(Orders(service).on, "money", load_keyring(keys / f"{service}.json"), kept)
        said[service] = reason(reader.read(raw))
    assert {service: word for service, word in said.items() if word != "skipped"} == heard


async def test_a_service_that_stands_beyond_facts_it_never_saw_reads_them_when_an_operator_says_so(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    """A broker that has forgotten its newest records gives their offsets to others."""
    async with toy(database) as made, producing(broker) as producer:
        async with running(broker, tmp_path, made.on):
            await say(producer, approved())
            await until(lambda: bills(made, 1))
        begin = datetime.now(UTC)
        for _ in range(30):
            await say(producer, approved())
        await producer.flush()
        await stand_at_the_end(broker, made)
        async with (
            partner("operators", broker, tmp_path) as operators,
            running(broker, tmp_path, made.on),
        ):
            order = Reread(request_id="o-1", service="billing", operator="lin", since=begin)
            answer = await operators.ask(order)
            assert isinstance(answer, Accepted)
            assert answer.result["partitions"] >= 1
            await until(lambda: bills(made, 31))
            never = datetime(2199, 1, 1, tzinfo=UTC)
            order = Reread(request_id="o-2", service="billing", operator="lin", since=never)
            answer = await operators.ask(order)
            assert isinstance(answer, Accepted)
            assert answer.result == {"partitions": 0}


async def stand_at_the_end(stack: Stack, made: Toy) -> None:
    """The reader's group and its database stand where other records were."""
    for partition, end in (await skip_to_end(stack)).items():
        await made.db.execute(
            "update progress set \"offset\" = $1 where topic = $2 and partition = $3",
            end - 1, partition.topic, partition.partition,
        )
