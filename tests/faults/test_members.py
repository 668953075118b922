"""Who may write under a member's name? One process at a time, and never one that has lost its connection."""

import signal
import time

import psutil
import pytest

from services.chassis.ids import uuid7
from tests.faults import verdict
from tests.faults.feed import Feed
from tests.faults.field import Field, Member, until
from tests.faults.provider import Provider, providing
from tests.faults.toy import CALL

FENCED = 75
NOBODY = Provider()
pytestmark = pytest.mark.timeout(180)     # processes start slowly on a busy machine


async def frozen(member: Member, field: Field) -> None:
    """Stop its process, and wait until the server has ended its silent sessions."""
    pid = member.pid
    member.signal(signal.SIGSTOP)

    async def forgotten() -> bool:
        sessions = f"pg_stat_activity where application_name like 'billing-%-{pid}'"
        return not await field.count(sessions)

    await until(forgotten, "the silent sessions' end", 30)


@pytest.mark.parametrize("wire", ["only_listener", "only_beat", "only_batch"])
async def test_each_tripwire_alone_ends_a_member_whose_connection_was_cut(field: Field, wire: str) -> None:
    async with Feed(field, calls=False) as feed:
        member = await field.member(field.toy(plant=f"short_idle {wire}")).start().ready(60)
        await field.query(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name like 'billing-bulk-%'"
        )
        if wire == "only_batch":
            await feed.fact(uuid7())
            await feed.all_sent()
        assert await member.ended() == FENCED, member.tail()


async def test_a_call_that_its_frozen_worker_had_yet_to_send_is_sent_by_another_and_not_again_after_the_thaw(
    field: Field,
) -> None:
    async with providing(Provider(refused=1.0)) as provider, Feed(field, calls=False) as feed:
        field.freeze.touch()
        toy = field.toy(provider.address, plant="short_idle")
        first = field.member(toy, -1, name="first").start()     # no lane of it ends the process at the thaw
        number = (await feed.fact(uuid7(), CALL)).enrollment_id
        await feed.all_sent()

        async def stopped() -> bool:
            return not field.freeze.exists() and psutil.Process(first.pid).status() == psutil.STATUS_STOPPED

        async def without_leader() -> bool:
            return not await field.count("pg_stat_activity where application_name = 'billing-calls'")

        await until(stopped, "the worker to freeze before it sends again", 60)
        await until(without_leader, "the end of its session")
        provider.refused = 0.0
        second = await field.member(toy, -1, name="second").start().ready(60)
        await field.effects("call", 1, 60)
        assert provider.accepted[number] == 1
        first.signal(signal.SIGCONT)
        await second.stop()
        await feed.fact(uuid7(), CALL)
        await feed.all_sent()
        await field.effects("call", 2, 60)      # the first one is its own again
        assert provider.accepted[number] == 1


async def test_a_freeze_is_noticed_by_the_clock_alone(field: Field) -> None:
    member = await field.member(field.toy(plant="short_idle only_beat")).start().ready(60)
    await frozen(member, field)
    member.signal(signal.SIGCONT)
    assert await member.ended() == FENCED, member.tail()


async def test_the_second_of_one_name_waits_and_takes_over_when_the_first_is_killed(field: Field) -> None:
    async with Feed(field, calls=False) as feed:
        first = await field.member(field.toy(), name="first").start().ready(60)
        second = field.member(field.toy(), name="second").start()

        async def waits() -> bool:
            return second.said("member_name_taken") > 0

        await until(waits, "the second to find its name taken", 60)
        await feed.fact(uuid7())
        await feed.all_sent()
        await field.effects("approved", 1)
        assert second.said("assigned") == 0
        began = time.monotonic()
        first.signal(signal.SIGKILL)
        await feed.fact(uuid7())
        await feed.all_sent()
        await field.effects("approved", 2)
        assert time.monotonic() - began < 9, "it waited for the session timeout"
        assert await verdict.gather_wrong(field, feed, NOBODY, 40) == []


async def test_scaled_down_the_neighbour_has_the_partitions_before_any_timeout(field: Field) -> None:
    async with Feed(field, calls=False) as feed:
        stays = await field.member(field.toy(), 0).start().ready(60)
        leaves = await field.member(field.toy(), 1).start().ready(60)
        people = [uuid7() for _ in range(40)]       # in every partition
        leaves.signal(signal.SIGTERM)
        assert await leaves.ended() == 0, leaves.tail()
        began = time.monotonic()
        for person_id in people:
            await feed.fact(person_id)
        await feed.all_sent()
        await field.effects("approved", 40)
        assert time.monotonic() - began < 5, "it waited for the session timeout, 10 s"
        assert stays.poll() is None
        assert await verdict.gather_wrong(field, feed, NOBODY, 40) == []


async def test_a_member_without_a_stable_name_lives_and_survives_its_database(field: Field) -> None:
    async with Feed(field, calls=False) as feed:
        member = await field.member(field.toy(), -1).start().ready(60)
        assert (await member.get("/health/live"))[0] == 200
        await feed.fact(uuid7())
        await feed.all_sent()
        await field.effects("approved", 1)
        await field.restart_postgres()
        for _ in range(10):
            await feed.record("enrollment.enrollments", "enrollment.enrollment_rejected.v1", uuid7(), b"{}")
        await feed.fact(uuid7())
        await feed.all_sent()
        assert await verdict.gather_wrong(field, feed, NOBODY, 40) == []
        assert (await member.get("/health/live"))[0] == 200, member.tail()
        assert member.poll() is None


@pytest.mark.parametrize("number", [0, -1])
async def test_asked_to_stop_without_its_database_a_member_ends(field: Field, number: int) -> None:
    async with Feed(field, calls=False) as feed:
        member = await field.member(field.toy(), number).start().ready(60)
        await field.stop_postgres()
        await feed.record("enrollment.enrollments", "enrollment.enrollment_rejected.v1", uuid7(), b"{}")
        await feed.all_sent()
        member.signal(signal.SIGTERM)
        assert await member.ended(40) == (FENCED if number >= 0 else 0), member.tail()
