"""Is a command answered once, and the same for ever?"""

from typing import Any

import asyncpg

from contracts.billing import QueryBill
from services.chassis import metrics
from services.chassis.arrival import Arrival
from services.chassis.ids import uuid7
from tests.chassis.test_batch import parked
from tests.chassis.toys import approved, toy
from tests.ground import Database


async def test_a_command_is_answered_once_and_the_same_answer_is_said_again(database: Database) -> None:
    async with toy(database) as made:
        ask = QueryBill(request_id="r-1", person_id=uuid7(), insurance_year=2025)
        await made.run(made.arrived(ask), made.arrived(ask))
        await made.run(made.arrived(ask))

        bodies = await made.rows("select type, payload from outbox order by batch_id, n")
        assert len(bodies) == 3
        assert len(set(bodies)) == 1
        assert await made.rows("select count(*) from request") == [(1,)]


async def test_a_command_that_was_done_is_not_parked_though_the_word_of_its_commit_was_lost(
    database: Database,
) -> None:
    async with toy(database) as made:
        ask = made.arrived(QueryBill(request_id="r-1", person_id=uuid7(), insurance_year=2025))
        await made.run(ask)
        whole = made.engine._attempt

        async def committed_and_lost(db: asyncpg.Connection, come: list[Arrival], **how: Any) -> object:
            woken = await whole(db, come, **how)
            if come:
                raise TimeoutError("no word of the commit")
            return woken

        made.engine._attempt = committed_and_lost  # type: ignore[method-assign,assignment]
        await made.engine.run_within(made.db, [ask], [], seconds=5, failures=5)
        assert await parked(made) == []
        assert await made.said("answer.rejected.v1") == []


async def test_a_refusal_that_says_try_again_is_not_remembered(database: Database) -> None:
    async with toy(database) as made:
        ask = QueryBill(request_id="r-1", person_id=uuid7(), insurance_year=2001)
        await made.run(made.arrived(ask), made.arrived(ask))

        assert await made.rows("select count(*) from request") == [(0,)]
        assert len(await made.said("answer.rejected.v1")) == 2


async def test_what_was_rolled_back_is_not_counted(database: Database) -> None:
    async with toy(database) as made:
        fact, ask = approved(), QueryBill(request_id="r-1", person_id=uuid7(), insurance_year=2001)
        made.poisoned = {fact.enrollment_id}
        before = counted("canbao_refused_total", "BILL_NOT_FOUND")
        await made.run(made.arrived(ask), *(made.arrived(approved()) for _ in range(6)), made.arrived(fact))
        assert counted("canbao_refused_total", "BILL_NOT_FOUND") == before + 1


def counted(name: str, reason: str) -> float:
    """What a counter of billing's stands at."""
    lines = metrics.exposition()[0].decode().splitlines()
    ours = f'{name}{{reason="{reason}",service="billing"}} '
    return sum(float(line.removeprefix(ours)) for line in lines if line.startswith(ours))


async def test_the_same_request_with_another_body_is_a_conflict(database: Database) -> None:
    async with toy(database) as made:
        who = uuid7()
        await made.run(made.arrived(QueryBill(request_id="r-1", person_id=who, insurance_year=2025)))

        conflict = made.arrived(QueryBill(request_id="r-1", person_id=who, insurance_year=2024))
        await made.run(conflict)

        assert conflict.answer is not None
        assert conflict.answer.refusal.code == "IDEMPOTENCY_CONFLICT"  # type: ignore[attr-defined]
