"""Does a business transaction cost what was agreed to: statements, rows, bytes, instructions?"""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka.admin import AdminClient
from msgspec.structs import replace

from bench import exact
from bench.tap import Passed, tapped
from sandbox.stack import Stack
from tests.ground import Database


@pytest.fixture
async def beside(database: Database, broker: Stack) -> AsyncIterator[Stack]:
    """The stack; what the raw loop laid beside it is gone afterwards."""
    yield broker
    admin = AdminClient({"bootstrap.servers": broker.kafka_admin, "log_level": 0})
    topics = [name for name in admin.list_topics(timeout=10).topics if name.startswith("raw.")]
    for gone in (admin.delete_topics(topics) if topics else {}).values():
        gone.result()
    async with database.connect() as db:
        schemas = [
            row[0] for row in await db.fetch("select nspname from pg_namespace where nspname ~ '^raw_'")
        ]
        for schema in schemas:
            await db.execute(f"drop schema {schema} cascade")
        await db.execute("drop owned by raw; drop role raw")


async def test_a_transaction_costs_what_was_agreed_to(beside: Stack, tmp_path: Path) -> None:
    found = await exact.count(beside, tmp_path)

    assert exact.differences(exact.expected(), found) == [], (
        "If that is wanted: ./canbao bench exact writes it down; commit what it wrote"
    )


def test_more_than_two_per_cent_of_anything_is_told() -> None:
    agreed = exact.expected()
    chatty = replace(agreed.ours, round_trips=agreed.ours.round_trips + 3)
    fat = replace(agreed.raw, wal={**agreed.raw.wal, "billing.ghost": (agreed.raw.wal_bytes // 40, 0)})

    assert exact.differences(agreed, agreed) == []
    assert exact.differences(agreed, replace(agreed, ours=chatty, raw=fat)) == [
        f"ours, round trips: {chatty.round_trips} for 100 people, expected {agreed.ours.round_trips}",
        f"raw, WAL bytes: {fat.wal_bytes:,} for 100 people, expected {agreed.raw.wal_bytes:,}",
    ]


def test_another_python_is_not_held_to_this_ones_instructions() -> None:
    agreed = exact.expected()
    slow = replace(agreed, ours=replace(agreed.ours, instructions={"services/chassis/wire.py": 10**9}))

    assert [line.split(":")[0] for line in exact.differences(agreed, slow)] == ["ours, instructions"]
    assert exact.differences(agreed, replace(slow, python="3.99")) == []


async def test_the_tap_counts_what_a_client_waits_for(database: Database) -> None:
    passed, stack = Passed(), database.stack
    async with tapped(stack.pg_host, stack.pg_port, passed) as port:
        url = stack.database_url("billing").replace(f":{stack.pg_port}/", f":{port}/")
        db = await asyncpg.connect(url, ssl="disable")
        passed.forget()
        await db.execute("begin")
        await db.execute("insert into unsent default values; insert into unsent default values")
        await db.execute("commit")
        await db.execute("select 1")
        await db.execute("delete from unsent")
        await db.execute("rollback")
        await db.close()

    assert (passed.round_trips, passed.commits) == (6, 2)
