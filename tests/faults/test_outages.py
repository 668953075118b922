"""What does a service do while Kafka or Postgres is not there? It waits, and works when they come."""

import signal
import time
from datetime import UTC, datetime

import aiohttp
import pytest

from contracts.answers import Accepted
from sandbox.partner import Partner
from services.chassis.ids import uuid7
from services.chassis.keys import load_keyring
from tests.faults import verdict
from tests.faults.feed import Feed
from tests.faults.field import Field, until
from tests.faults.provider import Provider

NOBODY = Provider()


@pytest.mark.timeout(180)
async def test_while_kafka_is_down_the_door_answers_and_a_stop_is_clean(field: Field) -> None:
    async with Feed(field, calls=False) as feed, aiohttp.ClientSession() as http:
        member = await field.member(field.toy(), name="first").start().ready(60)
        await field.stop_kafka()
        answer = await feed.knock(http, member.door, "r-0")
        assert isinstance(answer, Accepted)
        assert await field.count("unsent") == 1
        assert (await member.get("/health/ready"))[0] == 200
        member.signal(signal.SIGTERM)
        assert await member.ended(40) == 0, member.tail()
        await field.start_kafka()
        field.member(field.toy(), name="second").start()
        assert await verdict.gather_wrong(field, feed, NOBODY, 90) == []


@pytest.mark.timeout(180)
async def test_started_without_kafka_a_service_opens_its_door_and_waits(field: Field) -> None:
    async with Feed(field, calls=False) as feed, aiohttp.ClientSession() as http:
        await feed.fact(uuid7())
        await feed.all_sent()
        await field.stop_kafka()
        member = field.member(field.toy(plant="short_idle")).start()

        async def patient() -> bool:
            assert member.poll() is None, member.tail()
            return bool(await field.count(
                "pg_stat_activity where application_name like 'billing-bulk-%'"
                " and backend_start < now() - interval '7 seconds'"
            ))

        await until(patient, "a lane's session that outlives its silence", 60)
        assert isinstance(await feed.knock(http, member.door, "r-0"), Accepted)
        await field.start_kafka()
        assert await verdict.gather_wrong(field, feed, NOBODY, 90) == []


async def test_started_without_postgres_a_service_refuses_at_the_door_and_waits(field: Field) -> None:
    async with Feed(field, calls=False) as feed, aiohttp.ClientSession() as http:
        await feed.fact(uuid7())
        await feed.all_sent()
        await field.stop_postgres()
        member = field.member(field.toy()).start()

        async def open_door() -> bool:
            try:
                return (await member.get("/health/ready"))[0] == 503
            except aiohttp.ClientError:
                return False

        await until(open_door, "the door", 60)
        began = time.monotonic()
        assert await feed.knock_once(http, member.door, "r-0") == 503
        assert time.monotonic() - began < 8
        await field.start_postgres()
        assert isinstance(await feed.knock(http, member.door, "r-0"), Accepted)
        assert await verdict.gather_wrong(field, feed, NOBODY, 60) == []


async def test_a_partner_whose_broker_is_gone_can_stop(field: Field) -> None:
    key_file = field.keys / "operators.json"
    for _ in range(5):
        partner = Partner("operators", field.stack.kafka("operators"), load_keyring(key_file), _now)
        await partner.start()
        await field.stop_kafka()
        await partner.stop()
        await field.start_kafka()


def _now() -> datetime:
    return datetime.now(UTC)
