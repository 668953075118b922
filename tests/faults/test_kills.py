"""What does a process do that is asked to stop, is halted, or hears garbage? One moment each."""

import signal

import aiohttp
import pytest

from contracts.answers import Accepted
from contracts.operations import Redrive, Resume
from sandbox.partner import Partner
from services.chassis.ids import uuid7
from services.chassis.keys import load_keyring
from tests.faults import verdict
from tests.faults.feed import Feed, now
from tests.faults.field import Field, until
from tests.faults.provider import Provider
from tests.faults.toy import POISON, SLOW

NOBODY = Provider()
pytestmark = pytest.mark.timeout(180)     # processes start slowly on a busy machine


async def in_transaction(field: Field) -> None:
    """Wait until a handler of facts is at work."""

    async def busy() -> bool:
        sessions = "pg_stat_activity where application_name like 'billing-bulk-%' and state ~ '^idle in'"
        return bool(await field.count(sessions))

    await until(busy, "a handler at work")


async def test_asked_to_stop_in_a_long_handler_the_batch_is_done_and_the_code_is_0(field: Field) -> None:
    async with Feed(field, calls=False) as feed:
        field.held.touch()
        member = await field.member(field.toy()).start().ready(60)
        await feed.fact(uuid7(), SLOW)
        await feed.all_sent()
        await in_transaction(field)
        member.signal(signal.SIGTERM)
        field.held.unlink()
        assert await member.ended(30) == 0, member.tail()
        assert await field.count("effect where kind = 'approved'") == 1
        assert await verdict.committed(field, "billing-bulk", "enrollment.enrollments") == 1


async def test_a_halted_service_stays_halted_over_a_restart_until_it_is_resumed(field: Field) -> None:
    async with Feed(field, calls=False) as feed:
        first = field.member(field.toy(), name="first").start()
        for _ in range(40):
            await feed.fact(uuid7(), POISON)
        await feed.all_sent()

        async def halted() -> bool:
            return bool(await field.count("halt"))

        await until(halted, "the halt", 60)
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0
        parked = await field.count("parked where state = 'PARKED'")
        assert parked <= 21 + 1
        field.cured.touch()
        second = await field.member(field.toy(), name="second").start().ready(60)
        assert '"halted":true' in (await second.get("/health/live"))[1]
        assert await field.count("effect") == 0

        operators = Partner("operators", field.stack.kafka("operators"),
                            load_keyring(field.keys / "operators.json"), now)
        await operators.start()
        try:
            resumed = await operators.ask(Resume(request_id="o-1", service="billing", operator="lin"))
            assert isinstance(resumed, Accepted)
            assert resumed.result == {"was_halted": True}
            await operators.ask(Redrive(request_id="o-2", service="billing", operator="lin", dry_run=False))
        finally:
            await operators.stop()
        assert await verdict.gather_wrong(field, feed, NOBODY, 40) == []


async def test_five_hundred_pieces_of_garbage_stop_nobody(field: Field) -> None:
    async with Feed(field, calls=False) as feed:
        member = field.member(field.toy()).start()
        for n in range(500):
            type_name = ("billing.query_bill.v1", "no.such.v1", "x\x00y", "billing.query_bill.v99")[n % 4]
            value = (b"\xff\xfe", b"{", b'{"request_id":"\\u0000"}', None, b"[" * 5000)[n % 5]
            await feed.record("channels.wechat", type_name, uuid7(), value, ("sig", b"\x00\xff"))
            await feed.record("enrollment.enrollments", type_name, uuid7(), value, ("ce_id", b"no uuid"))
            if n % 10 == 0:
                await feed.fact(uuid7())
                await feed.command()
        await feed.all_sent()
        wrong = await verdict.gather_wrong(field, feed, NOBODY, 40)
        assert [line for line in wrong if not line.startswith("parked")] == []
        assert await field.count("parked where state <> 'QUARANTINED'") == 0
        assert '"halted":false' in (await member.get("/health/live"))[1]


async def test_a_header_whose_name_is_no_text_holds_up_nobody(field: Field) -> None:
    async with Feed(field, calls=False) as feed:
        who = uuid7()
        await feed.fact(who)
        await feed.mangled("enrollment.enrollments", who)
        await feed.mangled("channels.wechat", who)
        await feed.fact(who)
        await feed.command()
        await feed.all_sent()
        field.member(field.toy()).start()
        wrong = await verdict.gather_wrong(field, feed, NOBODY, 40)
        assert [line for line in wrong if not line.startswith("parked")] == []


async def test_a_command_asked_over_http_and_by_record_is_answered_once_and_alike(field: Field) -> None:
    async with Feed(field, calls=False) as feed:
        member = await field.member(field.toy()).start().ready(60)
        async with aiohttp.ClientSession() as http:
            answers = [await feed.knock(http, member.door, "r-both") for _ in range(3)]
        await feed.command("r-both")
        await feed.all_sent()
        assert len({str(answer) for answer in answers}) == 1
        assert await verdict.gather_wrong(field, feed, NOBODY, 40) == []
