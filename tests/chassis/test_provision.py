"""Does a server get what contracts ask for, once and again, and is a drift seen and mended?"""

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from sandbox.stack import Stack, provision_stack
from services.chassis.migrate import administrator, check, declared_ddl, metadata_of, upgrade
from services.chassis.partitions import drop_partitions, inbox_floor, make_partitions, month, uuid7_floor
from services.chassis.provision import SCHEMAS, provision_postgres
from services.chassis.roles import scram_verifier
from services.chassis.topics import Broker
from tests.ground import Database

NOVEMBER = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
SPARE = "canbao_provision_test"


@pytest.fixture
async def spare(stack: Stack) -> AsyncIterator[asyncpg.Connection]:
    """A second database of the same server, provisioned for November 2026; gone afterwards."""
    await provision_postgres(stack.pg_admin_dsn, stack.secrets, database=SPARE, now=NOVEMBER)
    async with administer(stack, SPARE) as conn:
        yield conn
    async with administer(stack, "postgres") as conn:
        await conn.execute(f"drop database {SPARE} with (force)")


@asynccontextmanager
async def administer(stack: Stack, database: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(stack.pg_admin_dsn, database=database, ssl="disable")
    try:
        yield conn
    finally:
        await conn.close()


async def months_of(conn: asyncpg.Connection, table: str) -> list[str]:
    rows = await conn.fetch(
        "select inhrelid::regclass::text as name from pg_inherits"
        " where inhparent = $1::text::regclass order by 1",
        table,
    )
    return [row["name"] for row in rows]


# Postgres


def test_provisioning_again_changes_nothing_and_costs_less_than_two_seconds(stack: Stack) -> None:
    said: list[str] = []
    started = time.process_time()
    provision_stack(stack, said.append)
    assert time.process_time() - started < 2
    assert said == []
    assert Broker(stack.kafka_admin).plan().lines() == []


@pytest.mark.parametrize("service", SCHEMAS)
async def test_tables_as_declared_and_as_migrated_agree(stack: Stack, service: str) -> None:
    engine = administrator(stack.pg_admin_dsn, stack.database)
    try:
        assert await check(service, engine) == []
        assert await upgrade(service, engine) is False
    finally:
        await engine.dispose()


SHAPE = """
select c.relname, c.relkind::text, c.reloptions::text, a.attname, format_type(a.atttypid, a.atttypmod),
       a.attnotnull, pg_get_expr(d.adbin, d.adrelid), pg_get_indexdef(i.indexrelid), null, null
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    left join pg_index i on i.indexrelid = c.oid
where c.relnamespace = $1::text::regnamespace and c.relkind in ('r', 'i')
union all
select c.relname, 'constraint', null, null, null, null, null, null, k.conname, pg_get_constraintdef(k.oid)
from pg_constraint k join pg_class c on c.oid = k.conrelid where c.relnamespace = $1::text::regnamespace
"""


@pytest.mark.parametrize("service", SCHEMAS)
async def test_revisions_make_the_very_tables_that_code_declares(database: Database, service: str) -> None:
    """Columns, defaults, checks, indexes and fillfactor; alembic's own comparison sees only some."""
    async with database.connect() as conn:
        undone = conn.transaction()
        await undone.start()
        own = {table.name for table in metadata_of(service).sorted_tables}
        await conn.execute("set local search_path = pg_catalog")
        migrated = [row for row in await conn.fetch(SHAPE, service) if _belongs(row["relname"], own)]
        await conn.execute(f"alter schema {service} rename to migrated; create schema {service}")
        for statement in declared_ddl(service):
            await conn.execute(statement)
        declared = await conn.fetch(SHAPE, service)
        await undone.rollback()
    assert sorted(map(str, migrated)) == sorted(map(str, declared))
    assert own <= {row["relname"] for row in declared}


def _belongs(name: str, tables: set[str]) -> bool:
    return name in tables or name.startswith(
        tuple(f"{kind}_{table}" for kind in ("pk", "uq", "ix") for table in tables)
    )


async def test_a_drifted_table_is_seen_by_check(stack: Stack, spare: asyncpg.Connection) -> None:
    await spare.execute("alter table payment.ledger add column forgotten int")
    engine = administrator(stack.pg_admin_dsn, SPARE)
    try:
        found = await check("payment", engine)
    finally:
        await engine.dispose()
    assert len(found) == 1
    assert "forgotten" in found[0]


async def test_a_new_database_has_months_up_to_three_ahead(spare: asyncpg.Connection) -> None:
    ahead = ["2026_11", "2026_12", "2027_01", "2027_02"]
    assert await months_of(spare, "billing.inbox") == [f"billing.inbox_{m}" for m in ("2026_10", *ahead)]
    assert await months_of(spare, "billing.outbox") == [f"billing.outbox_{m}" for m in ahead]
    assert await inbox_floor(spare, "billing") == uuid7_floor(datetime(2026, 10, 1, tzinfo=UTC))


async def test_an_event_finds_its_month_by_the_time_in_its_id(spare: asyncpg.Connection) -> None:
    for instant, name in (
        (NOVEMBER, "inbox_2026_11"),
        (datetime(2026, 12, 1, tzinfo=UTC), "inbox_2026_12"),
        (datetime(2027, 3, 1, tzinfo=UTC) - timedelta(milliseconds=1), "inbox_2027_02"),
    ):
        ce_id = uuid7_floor(instant)[:14] + "7000-8000-000000000001"
        found = await spare.fetchval(
            "insert into billing.inbox (ce_id) values ($1) returning tableoid::regclass::text", ce_id
        )
        assert found == f"billing.{name}"


async def test_time_goes_on_and_months_are_made_ahead_and_dropped_behind(
    stack: Stack, spare: asyncpg.Connection
) -> None:
    later = datetime(2028, 1, 15, tzinfo=UTC)
    maintainer = await asyncpg.connect(stack.database_url("billing_maintenance", SPARE), ssl="disable")
    try:
        made = await make_partitions(maintainer, "billing", now=later)
        months = ("2028_01", "2028_02", "2028_03", "2028_04")
        assert made == [f"inbox_{m}" for m in ("2027_12", *months)] + [f"outbox_{m}" for m in months]
        assert await make_partitions(maintainer, "billing", now=later) == []
        dropped = await drop_partitions(maintainer, "billing", now=later)
        assert dropped == [
            "inbox_2026_10",
            "inbox_2026_11",
            "outbox_2026_11",
            "outbox_2026_12",
            "outbox_2027_01",
            "outbox_2027_02",
        ]
        assert await drop_partitions(maintainer, "billing", now=later) == []
    finally:
        await maintainer.close()
    assert await inbox_floor(spare, "billing") == uuid7_floor(datetime(2026, 12, 1, tzinfo=UTC))


async def test_a_detach_that_was_cut_short_is_finished(stack: Stack, spare: asyncpg.Connection) -> None:
    reader = await asyncpg.connect(stack.database_url("auditor", SPARE), ssl="disable")
    try:
        await reader.execute("begin isolation level repeatable read")
        await reader.fetch("select ce_id from billing.inbox")
        await spare.execute("set statement_timeout = '200ms'")
        with pytest.raises(asyncpg.QueryCanceledError):
            await spare.execute(
                "alter table billing.inbox detach partition billing.inbox_2026_11 concurrently"
            )
        await reader.execute("rollback")
    finally:
        await reader.close()
    await spare.execute("reset statement_timeout")
    assert "inbox_2026_11" in await drop_partitions(spare, "billing", now=datetime(2028, 1, 15, tzinfo=UTC))


async def test_a_password_is_stored_as_postgres_itself_would_store_it(database: Database) -> None:
    async with database.connect() as admin:
        await admin.execute("set scram_iterations = 4096; create role canbao_scram_test password 'p-ä'")
        try:
            theirs = await admin.fetchval(
                "select rolpassword from pg_authid where rolname = 'canbao_scram_test'"
            )
        finally:
            await admin.execute("drop role canbao_scram_test")
    salt = base64.b64decode(theirs.split(":")[1].split("$")[0])
    assert scram_verifier("p-ä", salt) == theirs


@pytest.mark.parametrize(
    ("instant", "later", "first"),
    [
        (NOVEMBER, 0, (2026, 11)),
        (NOVEMBER, 2, (2027, 1)),
        (NOVEMBER, -11, (2025, 12)),
        (NOVEMBER, -13, (2025, 10)),
    ],
)
def test_months_are_counted_over_years(instant: datetime, later: int, first: tuple[int, int]) -> None:
    assert month(instant, later) == datetime(*first, 1, tzinfo=UTC)


def test_the_first_id_of_november_2026_is_the_one_in_the_books() -> None:
    assert uuid7_floor(datetime(2026, 11, 1, tzinfo=UTC)) == "01a19467-e800-0000-0000-000000000000"
