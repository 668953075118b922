"""What if a rollback is cut short, or an error that should pass does not? The engine, on a real Postgres."""

import asyncio
from pathlib import Path

import pytest
from msgspec import Struct

from contracts.billing import BILLS
from sandbox.stack import Stack
from services.chassis.door import Busy
from services.chassis.ids import uuid7
from services.chassis.subscriptions import Batch
from services.chassis.transaction import Transaction
from tests.chassis.running import producing, running, say, until
from tests.chassis.toys import approved, settled, toy
from tests.ground import Database


async def test_what_a_cut_off_rollback_left_open_does_not_go_with_the_next_batch(database: Database) -> None:
    async with toy(database) as made:
        await made.db.execute("begin")
        await made.db.execute("insert into inbox(ce_id) values ($1)", lost := uuid7())

        await made.run(made.arrived(fact := approved()))

        assert await made.said() == [fact.enrollment_id]
        assert await made.rows("select count(*) from inbox where ce_id = $1", lost) == [(0,)]


async def test_redriven_ground_wakes_at_once_what_awaits_it(database: Database) -> None:
    async with toy(database) as made:
        fact = approved()
        made.poisoned = {fact.enrollment_id}
        await made.run(made.arrived(settled(fact)))
        await made.run(made.arrived(fact))
        made.poisoned, made.grounds = set(), {fact.enrollment_id}

        culprit = await made.rows("select seq from parked where state = 'PARKED'")
        await made.engine.redrive(made.db, [culprit[0][0]])

        assert await made.rows("select state from parked") == []
        assert await made.rows("select seq from outbox where topic = $1 order by batch_id, n", BILLS) == [
            (1,),
            (2,),
        ]


@pytest.mark.parametrize("error", [OSError("for ever"), asyncio.CancelledError("stray")])
async def test_what_should_pass_and_does_not_is_halved_and_parked(
    database: Database, broker: Stack, tmp_path: Path, error: BaseException
) -> None:
    async with toy(database) as made, producing(broker) as producer:
        facts = [approved() for _ in range(40)]
        made.poisoned, made.poison = {facts[17].enrollment_id}, error
        for fact in facts:
            await say(producer, fact)
        async with running(broker, tmp_path, made.on):

            async def the_others() -> bool:
                return len(await made.said()) == 39

            await until(the_others, 40)
        assert await made.rows("select reason from parked") == [("HANDLER_FAILED",)]


class Stumble(Struct, frozen=True, kw_only=True):
    """An internal message whose handler meets somebody else's cancel."""

    times: int


async def test_a_stray_cancel_at_the_door_costs_one_caller_a_retry_and_no_more(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made:
        left = [asyncio.CancelledError("of somebody's task")]

        @made.on(Stumble, refs=lambda message: [])
        async def stumble(messages: Batch[Stumble], tx: Transaction) -> None:
            if left:
                raise left.pop()

        async with running(broker, tmp_path, made.on) as run:
            with pytest.raises(Busy):
                await run.door.tell(Stumble(times=1))
            await run.door.tell(Stumble(times=2))
            assert run.vitals().stopped == ()
