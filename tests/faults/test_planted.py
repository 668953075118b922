"""Would the harness notice? A protection is taken out of the engine, and something must be found wrong."""

import signal

import pytest

from services.chassis.ids import uuid7
from tests.faults import verdict
from tests.faults.feed import Feed
from tests.faults.field import Field
from tests.faults.provider import Provider
from tests.faults.test_kills import in_transaction
from tests.faults.toy import SLOW

NOBODY = Provider()
pytestmark = pytest.mark.timeout(180)     # processes start slowly on a busy machine


async def found(field: Field, feed: Feed) -> str:
    """What the harness says, as one text. Timers and calls are not looked at here."""
    wrong = await verdict.gather_wrong(field, feed, NOBODY, 4)
    return "\n".join(line for line in wrong if not line.startswith(("call", "timer", "stuck: rows")))


async def test_without_seeking_back_a_failed_batch_is_found_lost(field: Field) -> None:
    async with Feed(field, calls=False) as feed:
        await field.member(field.toy(plant="no_seek_back", passing=0.6)).start().ready(60)
        wrong = ""
        for _ in range(10):         # how many batches that makes, and which of them fail, is chance
            for _ in range(10):
                await feed.some(10)
                await feed.all_sent()
                await field.query("select pg_sleep(0.02)")
            if " lost, e.g." in (wrong := await found(field, feed)):
                break
        assert " lost, e.g." in wrong


async def test_without_the_inbox_a_second_reading_is_found_doubled(field: Field) -> None:
    async with Feed(field, calls=False) as feed:
        first = field.member(field.toy(plant="mute_offsets"), name="first").start()
        await feed.some(50)
        await feed.all_sent()
        await field.effects("approved", 50)
        await first.stop()
        field.member(field.toy(plant="no_inbox"), name="second").start()
        await field.effects("approved", 100)
        assert "doubled" in await found(field, feed)


@pytest.mark.parametrize(("second", "lost"), [("no_refill", "approved: 1 lost"), ("", "")])
async def test_offsets_before_the_commit_lose_a_killed_batch_unless_they_are_compared_with_the_database(
    field: Field, second: str, lost: str
) -> None:
    async with Feed(field, calls=False) as feed:
        field.held.touch()
        first = field.member(field.toy(plant="offsets_first"), name="first").start()
        await feed.fact(uuid7(), SLOW)
        await feed.all_sent()
        await in_transaction(field)
        first.signal(signal.SIGKILL)
        await first.ended()
        field.held.unlink()
        await field.member(field.toy(plant=second), name="second").start().ready(60)
        wrong = await found(field, feed)
        assert lost in wrong if lost else not wrong


async def test_a_relay_that_forgets_before_it_sends_is_found_out(field: Field) -> None:
    async with Feed(field, calls=False) as feed:
        first = field.member(field.toy(plant="relay_forgets_first"), name="first").start()
        await feed.fact(uuid7())
        await feed.all_sent()
        assert await first.ended(60) == 128 + signal.SIGKILL
        await field.member(field.toy(), name="second").start().ready(60)
        wrong = await found(field, feed)
        assert "topics: " in wrong
        assert "made up" not in wrong


@pytest.mark.parametrize("people", [1, 3])
async def test_without_waves_the_wrong_order_is_found(field: Field, people: int) -> None:
    async with Feed(field, calls=False) as feed:
        ids = [uuid7() for _ in range(people)]
        for n in range(60):
            await feed.fact(ids[n % people])
        await feed.all_sent()
        await field.member(field.toy(plant="no_order")).start().ready(60)
        await field.effects("approved", 60)
        assert "order" in await found(field, feed)
