"""Do timers run, each at its instant, whatever stands beside them and whoever else takes them?"""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec import Struct
from msgspec.json import encode

from contracts.answers import Accepted
from contracts.operations import AdvanceClock
from sandbox.stack import Stack
from services.chassis import batch, timers
from services.chassis.database import connect
from services.chassis.ids import uuid7
from services.chassis.subscriptions import Batch
from services.chassis.timers import AWAITS_SECONDS, Timers
from services.chassis.transaction import Transaction
from tests.chassis.running import partner, running, until
from tests.chassis.toys import NOON, Remind, Toy, approved, owes, settled, toy, waived
from tests.ground import Database


class Later(Struct, frozen=True, kw_only=True):
    """Asks for timers."""

    enrollment_id: str


class Hang(Struct, frozen=True, kw_only=True):
    """A timer whose handler never ends."""

    enrollment_id: str


async def due(made: Toy, *timers: tuple[datetime, Struct]) -> None:
    """These timers stand in the table, as handlers have set them."""
    for run_at, timer in timers:
        await row(made, run_at, type(timer).__name__, encode(timer))


async def row(made: Toy, run_at: datetime, type: str, payload: bytes) -> None:
    await made.db.execute(
        "insert into job(id, run_at, type, payload, journey) values ($1::uuid, $2, $3, $4, null)",
        uuid7(), run_at, type, payload,
    )


async def equal(made: Toy, sql: str, *expected: object) -> bool:
    assert await made.rows(sql) == [expected]
    return True


async def test_a_timer_runs_at_its_instant_and_that_is_its_now(
    database: Database, broker: Stack, tmp_path: Path
) -> None:
    async with toy(database) as made:
        later = datetime.now(UTC) + timedelta(days=400)

        @made.on(Later, refs=lambda message: [])
        async def set_timers(messages: Batch[Later], tx: Transaction) -> None:
            for message in messages:
                tx.at(NOON, Remind(enrollment_id=message.enrollment_id), journey="")
                tx.at(later, Remind(enrollment_id=uuid7()), journey="")

        async with running(broker, tmp_path, made.on) as run:
            await run.door.tell(Later(enrollment_id=uuid7()))
            await until(lambda: equal(made, "select ce_time from outbox where seq = 3", NOON))
            assert len(await made.rows("select id from job")) == 1

            async with partner("operators", broker, tmp_path) as operators:
                order = AdvanceClock(
                    request_id="o-1", service="billing", operator="lin", to=later + timedelta(hours=1)
                )
                answer = await operators.ask(order)
            assert isinstance(answer, Accepted)
            assert await made.rows("select count(*) from job") == [(0,)]
            assert (await made.rows("select ce_time from outbox where seq = 3 order by batch_id"))[1] == (
                later,
            )


async def test_timers_of_many_instants_share_a_transaction_and_each_has_its_own_now(
    database: Database,
) -> None:
    async with toy(database) as made:
        instants = [NOON + timedelta(seconds=n) for n in range(300)]
        await due(made, *((at, Remind(enrollment_id=uuid7())) for at in instants))

        assert await Timers(made.engine).fire(made.db, NOON + timedelta(days=1)) == 300

        said = await made.rows("select ce_time from outbox where seq = 3 order by batch_id, n")
        assert [at for (at,) in said] == instants
        assert await made.rows("select count(distinct batch_id) from outbox") == [(1,)]


async def test_of_timers_of_one_thing_the_earlier_runs_first_and_at_its_own_instant(
    database: Database,
) -> None:
    async with toy(database) as made:
        one = uuid7()
        await due(made, *((NOON + timedelta(hours=n), Remind(enrollment_id=one)) for n in (2, 0, 1)))
        await Timers(made.engine).fire(made.db, NOON + timedelta(days=1))
        said = await made.rows("select ce_time from outbox where seq = 3 order by batch_id, n")
        assert said == [(NOON + timedelta(hours=n),) for n in (0, 1, 2)]


async def test_the_next_of_a_million_timers_of_one_instant_are_found_without_sorting_the_million(
    database: Database,
) -> None:
    async with toy(database) as made, toy(database) as rival:
        await due(rival, (NOON, Remind(enrollment_id=uuid7())))
        loop = asyncio.create_task(Timers(made.engine).run(made.db))
        await until(lambda: equal(rival, "select count(*) from job", 0))
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)

        plan = await made.rows(f"explain {timers._DUE}", NOON, timers.AT_MOST)

        assert "Index Scan using job_due" in str(plan), plan
        assert "Sort" not in str(plan), plan


@pytest.mark.parametrize(
    ("type", "payload", "reason"),
    [
        ("Forgotten", b'{"enrollment_id":"1"}', "TYPE_UNKNOWN"),
        ("Remind", b'{"enrollment_id":1}', "BODY_INVALID"),
        ("Remind", b"\xff", "BODY_INVALID"),
        ("Remind", b'{"enrollment_id":"no uuid"}', "BODY_INVALID"),
    ],
)
async def test_a_timer_that_cannot_be_read_is_parked_and_stops_no_other(
    database: Database, type: str, payload: bytes, reason: str
) -> None:
    async with toy(database) as made:
        ids = [uuid7(), uuid7()]
        await due(made, (NOON, Remind(enrollment_id=ids[0])))
        await row(made, NOON, type, payload)
        await due(made, (NOON + timedelta(hours=1), Remind(enrollment_id=ids[1])))

        await Timers(made.engine).advance(made.db, NOON + timedelta(days=1))

        assert await made.said() == ids
        parked = await made.rows("select state, reason, type, topic, value from parked")
        assert parked == [("QUARANTINED", reason, type, "timer", payload)]
        assert await made.rows("select count(*) from parked_ref") == [(0,)]
        assert await made.rows("select count(*) from job") == [(0,)]
        assert len(await made.said("any.message_parked.v1")) == 1


async def test_an_unreadable_timer_is_parked_beside_one_that_fails(database: Database) -> None:
    async with toy(database) as made:
        good = uuid7()
        await row(made, NOON, "Forgotten", b"{}")
        for timer in (Remind(enrollment_id=uuid7(), poison=True), Remind(enrollment_id=good)):
            await due(made, (NOON, timer))
        await Timers(made.engine).advance(made.db, NOON + timedelta(days=1))
        assert await made.said() == [good]
        rows = await made.rows("select state, reason from parked order by state")
        assert rows == [("PARKED", "HANDLER_FAILED"), ("QUARANTINED", "TYPE_UNKNOWN")]


async def test_of_two_members_that_read_an_unreadable_timer_one_parks_it(database: Database) -> None:
    async with toy(database) as made, toy(database) as rival:
        await row(made, NOON, "Forgotten", b"{}")
        await asyncio.gather(*(
            Timers(member.engine).fire(member.db, NOON) for member in (made, rival)
        ))
        assert await made.rows("select count(*) from parked") == [(1,)]


async def test_a_parked_timer_that_is_redriven_has_its_own_now(database: Database) -> None:
    async with toy(database) as made:
        await row(made, NOON, "Remind", encode(Remind(enrollment_id=(one := uuid7()), poison=True)))
        await Timers(made.engine).fire(made.db, NOON)
        await made.db.execute("update parked set value = $1", encode(Remind(enrollment_id=one)))
        seqs = [seq for (seq,) in await made.rows("select seq from parked")]
        assert await made.engine.redrive(made.db, seqs) == {}
        assert await made.rows("select ce_time from outbox where seq = 3") == [(NOON,)]


async def test_timers_go_on_when_a_rival_took_those_of_one_instant(database: Database) -> None:
    async with toy(database) as made:
        taken, left = uuid7(), uuid7()
        first = datetime.now(UTC) + timedelta(hours=1)
        second = first + timedelta(hours=1)
        await due(made, (first, Remind(enrollment_id=taken)), (second, Remind(enrollment_id=left)))
        rival = await connect(database.url("billing"), "rival")
        try:
            moving = await _held_at_the_clock(made, rival, second + timedelta(hours=1))
            await rival.execute("delete from job where run_at = $1", first)
            await rival.execute("commit")
            await moving
        finally:
            await rival.close()
        assert await made.said() == [left]


async def _held_at_the_clock(made: Toy, rival: asyncpg.Connection, to: datetime) -> asyncio.Task[datetime]:
    """The clock's mover has seen the first due instant, and waits for the rival's lock on the clock's row."""
    await rival.execute("begin")
    await rival.execute("update clock set skew = skew")
    moving = asyncio.create_task(Timers(made.engine).advance(made.db, to))

    async def waits() -> object:
        return await rival.fetchval(
            "select count(*) > 0 from pg_stat_activity"
            " where application_name = 'toy' and wait_event_type = 'Lock'"
        )

    await until(waits)
    return moving


async def test_a_timer_that_never_ends_is_parked_after_five_failures_and_the_others_run(
    database: Database, broker: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with toy(database) as made:
        ids = [uuid7() for _ in range(3)]

        @made.on(Hang, refs=lambda timer: [owes(timer.enrollment_id)])
        async def hang(timers: Batch[Hang], tx: Transaction) -> None:
            await asyncio.Event().wait()

        await due(made, *((NOON, Remind(enrollment_id=one)) for one in ids))
        await due(made, (NOON, Hang(enrollment_id=uuid7())))
        monkeypatch.setattr(Timers, "deadline_seconds", 0.2)
        async with running(broker, tmp_path, made.on):
            await until(lambda: equal(made, "select count(*) from job", 0))
        assert sorted(await made.said()) == sorted(ids)
        assert await made.rows("select state, reason, type from parked") == [
            ("PARKED", "HANDLER_FAILED", "Hang")
        ]


async def test_what_awaits_and_never_ends_is_parked_after_five_sweeps_and_the_others_go_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with toy(database) as made:
        endless, sound = approved(), approved()
        await made.run(made.arrived(settled(endless)), made.arrived(settled(sound)))
        await made.db.execute("update parked set at = at - make_interval(secs => $1)", AWAITS_SECONDS + 1)
        subscription = made.on.by_type["payment.payment_settled.v1"]
        handler = subscription.handler

        async def hang(facts: Batch[Any], tx: Transaction) -> None:
            if facts[0].enrollment_id == endless.enrollment_id:
                await asyncio.Event().wait()
            await handler(facts, tx)

        subscription.handler = hang
        made.grounds = {sound.enrollment_id}
        monkeypatch.setattr(Timers, "deadline_seconds", 0.2)
        timers = Timers(made.engine)
        async with asyncio.timeout(20):
            for _ in range(batch.FAILURES_BEFORE_HALVES):
                with pytest.raises(TimeoutError):
                    await timers.sweep(made.db)
            await timers.sweep(made.db)

        assert await made.rows("select state from parked") == [("PARKED",)]
        assert await made.said() == [sound.enrollment_id]


async def test_what_awaits_and_cannot_be_read_hides_none_behind_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with toy(database) as made:
        facts = [approved() for _ in range(3)]
        await made.run(*(made.arrived(settled(fact)) for fact in facts))
        await made.db.execute("update parked set at = at - make_interval(secs => $1)", AWAITS_SECONDS + 1)
        await made.db.execute("update parked set value = '{}' where seq < (select max(seq) from parked)")
        made.grounds = {fact.enrollment_id for fact in facts}
        monkeypatch.setattr(timers, "SWEPT_AT_MOST", 1)

        sweeps = Timers(made.engine)
        for _ in facts:
            await sweeps.sweep(made.db)

        assert await made.said() == [facts[-1].enrollment_id]


async def test_what_ends_no_timer_before_its_fifth_failure(database: Database) -> None:
    async with toy(database) as made:
        failures = [TimeoutError("away")] * (batch.FAILURES_BEFORE_HALVES - 1)
        one = uuid7()

        @made.on(Hang, refs=lambda timer: [owes(timer.enrollment_id)])
        async def stumble(timers: Batch[Hang], tx: Transaction) -> None:
            if failures:
                raise failures.pop()
            tx.publish(waived(timers[0].enrollment_id, uuid7(), tx.now), sequence=3)

        await due(made, (NOON, Hang(enrollment_id=one)))
        timers = Timers(made.engine)
        for _ in range(batch.FAILURES_BEFORE_HALVES - 1):
            with pytest.raises(TimeoutError):
                await timers.fire(made.db, NOON)
        await timers.fire(made.db, NOON)
        assert await made.said() == [one]
        assert await made.rows("select count(*) from parked") == [(0,)]
