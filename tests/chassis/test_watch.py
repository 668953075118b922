"""Is an alarm raised when a message waits too long, or when the months run out, and only now and then?"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from structlog.testing import capture_logs

from services.chassis import metrics, timers, watch
from services.chassis.partitions import month
from services.chassis.watch import Watch
from tests.chassis.running import until
from tests.chassis.toys import approved, settled, toy
from tests.ground import Database


@asynccontextmanager
async def watching(db: asyncpg.Connection, made: Watch) -> AsyncIterator[None]:
    task = asyncio.create_task(made.look(db))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_who_has_waited_too_long_for_his_ground_is_said_once_in_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.01)
    async with toy(database) as made, toy(database) as other:
        await made.run(made.arrived(settled(approved())))

        with capture_logs() as said:
            async with watching(made.db, Watch("billing", made.halt, [])):
                await until(lambda: measured(0.0))
                assert said == []
                await other.db.execute("update parked set first_at = now() - interval '11 minutes'")
                await until(lambda: measured(660.0))
                await until(lambda: measured(660.5))        # it goes on, and nothing more is said

        assert [(line["event"], line["messages"]) for line in said] == [("awaits_too_long", 1)]


@pytest.mark.parametrize(("asked", "args"), [(watch._OPEN, ()), (timers._AWAITS, (30, 0, 100))])
async def test_who_awaits_his_ground_is_found_however_much_was_set_aside(
    database: Database, asked: str, args: tuple[int, ...]
) -> None:
    async with toy(database) as made:
        await made.db.execute(
            "insert into parked(state, reason, digest, recorded_ms)"
            " select 'QUARANTINED', 'SIGNATURE_INVALID', '', 0 from generate_series(1, 5000)"
        )
        await made.run(made.arrived(settled(approved())))

        plan = await made.rows(f"explain (analyze, costs off) {asked}", *args)

        assert "Rows Removed by Filter: 5" not in str(plan), plan


async def measured(least: float) -> bool:
    ours = 'canbao_awaits_oldest_seconds{service="billing"}'
    lines = metrics.exposition()[0].decode().splitlines()
    return any(float(line.rpartition(" ")[2]) >= least for line in lines if line.startswith(ours))


async def test_what_stands_aside_and_holds_others_up_is_counted(database: Database) -> None:
    async with toy(database) as made:
        fact = approved()
        made.poisoned = {fact.enrollment_id}
        await made.run(made.arrived(fact))
        await made.run(made.arrived(fact), made.arrived(settled(approved())))
        await Watch("billing", made.halt, [])._look_at_parked(made.db)
        lines = metrics.exposition()[0].decode().splitlines()
        assert {line for line in lines if line.startswith("canbao_parked_open{")} == {
            'canbao_parked_open{service="billing",state="PARKED"} 1.0',
            'canbao_parked_open{service="billing",state="BEHIND"} 1.0',
            'canbao_parked_open{service="billing",state="AWAITS"} 1.0',
        }


async def test_a_month_without_a_place_raises_an_alarm_before_it_comes(database: Database) -> None:
    async with toy(database) as made:
        look = Watch("billing", made.halt, [])
        with capture_logs() as said:
            await look._look_at_months(made.db, datetime.now(UTC))
            assert said == []
            await look._look_at_months(made.db, month(datetime.now(UTC), 3) + timedelta(days=20))

        assert [line["event"] for line in said] == ["next_month_missing"]
