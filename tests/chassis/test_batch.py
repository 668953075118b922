"""What happens to a batch, and to the one message in it that fails?"""

import time
from binascii import b2a_base64

import asyncpg
import pytest
from structlog.testing import capture_logs

from contracts.billing import QueryBill
from services.chassis.attempt import WOKEN_AT_ONCE
from services.chassis.halt import Halted
from services.chassis.ids import uuid7
from tests.chassis.toys import Toy, approved, settled, toy
from tests.ground import Database


async def parked(made: Toy) -> list[tuple[str, str]]:
    return [
        (state, reason) for state, reason in await made.rows("select state, reason from parked order by seq")
    ]


async def test_a_batch_is_one_call_and_one_transaction(database: Database) -> None:
    async with toy(database) as made:
        facts = [approved() for _ in range(100)]

        await made.run(*map(made.arrived, facts))

        assert await made.said() == [fact.enrollment_id for fact in facts]
        assert len(made.batches) == 1
        assert await made.rows("select count(*) from inbox") == [(100,)]
        assert await made.rows("select count(*) from unsent") == [(1,)]


async def test_facts_that_share_a_ref_run_in_order_in_calls_of_their_own(database: Database) -> None:
    async with toy(database) as made:
        who = uuid7()
        facts = [approved(person_id=who), approved(), approved(person_id=who)]

        await made.run(*map(made.arrived, facts))

        assert made.batches == [[facts[0].enrollment_id, facts[1].enrollment_id], [facts[2].enrollment_id]]


async def test_a_fact_heard_twice_has_one_effect(database: Database) -> None:
    async with toy(database) as made:
        fact, ce_id = approved(), uuid7()

        await made.run(made.arrived(fact, event_id=ce_id), made.arrived(fact, event_id=ce_id))
        await made.run(made.arrived(fact, event_id=ce_id), made.arrived(new := approved()))

        assert await made.said() == [fact.enrollment_id, new.enrollment_id]


def aged(milliseconds: int) -> str:
    """A uuid7 of another time."""
    stamp = f"{int(time.time() * 1000) - milliseconds:012x}"
    return f"{stamp[:8]}-{stamp[8:]}-{uuid7()[14:]}"


async def test_a_fact_whose_id_is_older_than_the_inbox_counts_as_seen(database: Database) -> None:
    async with toy(database) as made:
        old, new = approved(), approved()

        await made.run(made.arrived(old, event_id=aged(100 * 86_400_000)), made.arrived(new))
        await made.run(made.arrived(old, event_id=aged(100 * 86_400_000)), made.arrived(newer := approved()))

        assert await made.said() == [new.enrollment_id, newer.enrollment_id]
        assert await parked(made) == []


async def test_what_was_parked_for_longer_than_the_inbox_keeps_is_handled_when_it_is_redriven(
    database: Database,
) -> None:
    async with toy(database) as made:
        fact, before = approved(), aged(100 * 86_400_000)
        made.poisoned = {fact.enrollment_id}
        await made.run(made.arrived(fact, event_id=(ce_id := uuid7())))
        await made.db.execute(
            "update parked set event_id = $1,"
            " headers = convert_to(replace(convert_from(headers, 'utf8'), $2, $3), 'utf8')",
            before, _base64(ce_id), _base64(before),
        )

        made.poisoned = set()
        await made.engine.redrive(made.db, [seq for seq, in await made.rows("select seq from parked")])

        assert await made.said() == [fact.enrollment_id]
        assert await parked(made) == []


def _base64(text: str) -> str:
    return b2a_base64(text.encode(), newline=False).decode()


async def test_a_fact_whose_month_has_no_place_yet_is_neither_lost_nor_parked(database: Database) -> None:
    async with toy(database) as made:
        early = made.arrived(approved())
        early.event_id = aged(-200 * 86_400_000)

        with pytest.raises(asyncpg.CheckViolationError):
            await made.run(early)

        assert await parked(made) == []


async def test_when_the_37th_of_100_raises_it_alone_is_parked(database: Database) -> None:
    async with toy(database) as made:
        facts = [approved() for _ in range(100)]
        made.poisoned = {facts[36].enrollment_id}

        with capture_logs() as lines:
            await made.run(*map(made.arrived, facts))

        assert await made.said() == [f.enrollment_id for f in facts if f is not facts[36]]
        assert await parked(made) == [("PARKED", "HANDLER_FAILED")]
        (line,) = [line for line in lines if line["event"] == "parked"]
        assert line["place"].startswith("enrollment.enrollments/")
        assert line["error"] == "ZeroDivisionError: a bug"
        assert line["where"][-1].startswith("chassis/attempt.py:")
        assert await made.said("any.message_parked.v1") != []
        assert await made.rows("select count(*) from inbox") == [(99,)]


async def test_what_concerns_a_parked_person_waits_behind_in_order_and_resumes_with_it(
    database: Database,
) -> None:
    async with toy(database) as made:
        who = uuid7()
        first, second, other = approved(person_id=who), approved(person_id=who), approved()
        made.poisoned = {first.enrollment_id}
        await made.run(made.arrived(first), made.arrived(second), made.arrived(other))
        assert await made.said() == [other.enrollment_id]
        assert await parked(made) == [("PARKED", "HANDLER_FAILED"), ("BEHIND", "BEHIND_PARKED")]

        made.poisoned = set()
        seqs = await made.rows("select seq from parked where state = 'PARKED'")
        assert await made.engine.redrive(made.db, [seqs[0][0]]) == {}

        assert await made.said() == [other.enrollment_id, first.enrollment_id, second.enrollment_id]
        assert await parked(made) == []
        assert await made.rows("select count(*) from inbox") == [(3,)]


async def test_a_redrive_that_fails_again_leaves_everything_parked(database: Database) -> None:
    async with toy(database) as made:
        who = uuid7()
        first, second = approved(person_id=who), approved(person_id=who)
        made.poisoned = {first.enrollment_id}
        await made.run(made.arrived(first), made.arrived(second))

        seqs = await made.rows("select seq from parked where state = 'PARKED'")
        why = await made.engine.redrive(made.db, [seqs[0][0]])
        assert why == {seqs[0][0]: "failed again: ZeroDivisionError: a bug"}

        assert await parked(made) == [("PARKED", "HANDLER_FAILED"), ("BEHIND", "BEHIND_PARKED")]


async def test_a_parked_fact_that_is_delivered_again_stays_one_row(database: Database) -> None:
    async with toy(database) as made:
        fact, ce_id = approved(), uuid7()
        made.poisoned = {fact.enrollment_id}
        await made.run(made.arrived(fact, event_id=ce_id))

        await made.run(made.arrived(fact, event_id=ce_id))

        assert len(await parked(made)) == 1


async def test_a_fact_whose_ground_is_missing_waits_and_runs_when_the_ground_comes(
    database: Database,
) -> None:
    async with toy(database) as made:
        ground = approved()
        await made.run(made.arrived(settled(ground)))
        assert await parked(made) == [("AWAITS", "AWAITS_GROUND")]
        assert await made.said() == []

        made.grounds = {ground.enrollment_id}
        await made.run(made.arrived(ground))

        assert await made.rows("select subject, seq from outbox order by n") == [
            (ground.enrollment_id, 1),
            (ground.enrollment_id, 2),
        ]
        assert await parked(made) == []


async def test_a_herd_that_awaits_one_ground_does_not_come_along_with_whoever_passes_by(
    database: Database,
) -> None:
    async with toy(database) as made:
        fact = approved()
        for _ in range(3):
            await made.run(*(made.arrived(settled(fact)) for _ in range(30)))
        newest = "select coalesce(max(seq), 0) from parked"
        ((before,),) = await made.rows(newest)
        await made.run(made.arrived(settled(fact)))
        ((tried,),) = await made.rows(f"select count(*) from parked where seq > {before}")
        assert tried == WOKEN_AT_ONCE + 1

        made.grounds = {fact.enrollment_id}
        await made.run(made.arrived(fact))
        assert len(await made.said()) == WOKEN_AT_ONCE + 1
        assert await made.rows("select count(*), state from parked group by state") == [
            (91 - WOKEN_AT_ONCE, "AWAITS")
        ]


async def test_one_that_awaits_and_fails_is_not_taken_for_the_fault_of_what_woke_it(
    database: Database,
) -> None:
    async with toy(database) as made:
        ground = approved()
        await made.run(made.arrived(settled(ground)))
        made.poisoned = {ground.enrollment_id}

        await made.run(made.arrived(ground), made.arrived(other := approved()))

        assert await made.said() == [other.enrollment_id]
        assert sorted(await parked(made)) == [("AWAITS", "AWAITS_GROUND"), ("PARKED", "HANDLER_FAILED")]


async def test_one_that_awaited_and_then_fails_is_parked_and_has_one_effect_after_its_redrive(
    database: Database,
) -> None:
    async with toy(database) as made:
        ground = approved()
        late, ce_id = settled(ground), uuid7()
        await made.run(made.arrived(late, event_id=ce_id))
        made.grounds, made.poisoned = {ground.enrollment_id}, {"settle " + ground.enrollment_id}

        await made.run(made.arrived(ground))
        assert await parked(made) == [("PARKED", "HANDLER_FAILED")]
        await made.run(made.arrived(late, event_id=ce_id))          # delivered again meanwhile

        made.poisoned = set()
        await made.engine.redrive(made.db, [seq for seq, in await made.rows("select seq from parked")])
        assert await made.rows(
            "select subject, seq from outbox where type like 'billing%' order by batch_id"
        ) == [(ground.enrollment_id, 1), (ground.enrollment_id, 2)]
        assert await parked(made) == []


async def test_a_sweep_does_not_redrive_what_is_parked(database: Database) -> None:
    async with toy(database) as made:
        ground = approved()
        await made.run(made.arrived(settled(ground)))
        made.poisoned = {ground.enrollment_id}
        await made.run(made.arrived(ground))
        made.poisoned = set()

        await made.engine.wake(
            made.db, [seq for (seq,) in await made.rows("select seq from parked where state = 'AWAITS'")]
        )

        assert sorted(await parked(made)) == [("BEHIND", "BEHIND_PARKED"), ("PARKED", "HANDLER_FAILED")]
        made.grounds = {ground.enrollment_id}
        await made.engine.redrive(
            made.db, [seq for (seq,) in await made.rows("select seq from parked where state = 'PARKED'")]
        )
        assert await made.rows(
            "select subject, seq from outbox where type like 'billing%' order by batch_id, n"
        ) == [(ground.enrollment_id, 1), (ground.enrollment_id, 2)]


async def test_more_than_twenty_failures_in_a_row_stop_the_service(database: Database) -> None:
    async with toy(database) as made:
        facts = [approved() for _ in range(60)]
        made.poisoned = {fact.enrollment_id for fact in facts}

        with pytest.raises(Halted), capture_logs() as lines:
            await made.run(*map(made.arrived, facts))

        assert len(await parked(made)) == 21
        assert await made.rows("select failures from halt") == [(21,)]
        assert await made.said("any.service_halted.v1") == ["billing"]
        assert [line["failures"] for line in lines if line["event"] == "halted"] == [21]
        with pytest.raises(Halted):
            await made.run(made.arrived(approved()))


async def test_a_command_about_somebody_under_repair_is_told_so_and_may_come_again(
    database: Database,
) -> None:
    async with toy(database) as made:
        fact = approved()
        made.poisoned = {fact.enrollment_id}
        await made.run(made.arrived(fact))

        ask = QueryBill(request_id="r-1", person_id=fact.person_id, insurance_year=2025)
        first = made.arrived(ask)
        await made.run(first)
        assert first.answer.refusal.code == "UNDER_REPAIR"  # type: ignore[union-attr]

        made.poisoned = set()
        await made.engine.redrive(made.db, [seq for seq, in await made.rows("select seq from parked")])
        second = made.arrived(ask)
        await made.run(second)
        assert second.answer.result == {"year": 2025}  # type: ignore[union-attr]


async def test_what_was_answered_is_answered_the_same_while_its_person_is_under_repair(
    database: Database,
) -> None:
    async with toy(database) as made:
        fact = approved()
        ask = QueryBill(request_id="r-1", person_id=fact.person_id, insurance_year=2025)
        first, again = made.arrived(ask), made.arrived(ask)
        await made.run(first)
        made.poisoned = {fact.enrollment_id}
        await made.run(made.arrived(fact))

        await made.run(again)

        assert again.answer == first.answer


async def test_a_fact_heard_again_while_its_person_is_parked_makes_nobody_else_wait(
    database: Database,
) -> None:
    async with toy(database) as made:
        who = uuid7()
        heard, ce_id, bad = approved(person_id=who), uuid7(), approved(person_id=who)
        await made.run(made.arrived(heard, event_id=ce_id))
        made.poisoned, made.grounds = {bad.enrollment_id}, {heard.enrollment_id}
        await made.run(made.arrived(bad))

        # the settlement shares a ref with what was heard, not with the parked person
        await made.run(made.arrived(heard, event_id=ce_id), made.arrived(settled(heard)))

        assert await parked(made) == [("PARKED", "HANDLER_FAILED")]
        assert await made.rows("select seq from outbox where type like 'billing%' order by batch_id, n") == [
            (1,),
            (2,),
        ]


async def test_a_halt_that_was_heard_of_stays_though_one_more_message_fails(database: Database) -> None:
    async with toy(database) as made:
        made.halt.declared = True

        assert made.halt.failed("once") is False
        assert made.halt.declared
