"""Do the months of inbox and outbox come and go by themselves, and is it seen when they do not?"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import msgspec
import pytest

from sandbox.stack import Stack, upkeep
from sandbox.stack import keep_months as keep_months_of_all
from services.chassis.partitions import keep_months, month, months_ahead
from services.chassis.provision import provision_postgres
from services.chassis.tables import PARTITIONED
from tests.chassis.running import until
from tests.source import ROOT

BEGAN = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
SPARE = "canbao_months_test"


@pytest.fixture
async def spare(stack: Stack) -> AsyncIterator[asyncpg.Connection]:
    """A second database of the same server, made in November 2026; gone afterwards."""
    admin = stack.pg_admin_dsn
    await provision_postgres(admin, stack.secrets, database=SPARE, now=BEGAN, services=["billing"])
    conn = await asyncpg.connect(stack.pg_admin_dsn, database=SPARE, ssl="disable")
    try:
        yield conn
    finally:
        await conn.close()
        conn = await asyncpg.connect(stack.pg_admin_dsn, database="postgres", ssl="disable")
        await conn.execute(f"drop database {SPARE} with (force)")
        await conn.close()


def maintenance(stack: Stack) -> str:
    return stack.database_url("billing_maintenance", SPARE)


async def months_of(conn: asyncpg.Connection, table: str) -> list[str]:
    rows = await conn.fetch(
        "select relname from pg_inherits join pg_class on oid = inhrelid where inhparent = $1::text::regclass"
        " order by 1",
        f"billing.{table}",
    )
    return [str(row[0]).removeprefix(f"{table}_") for row in rows]


async def test_over_two_years_of_days_every_month_stands_before_it_comes_and_goes_after_its_time(
    stack: Stack, spare: asyncpg.Connection
) -> None:
    now = BEGAN
    while now < BEGAN + timedelta(days=730):
        now += timedelta(days=5)
        await keep_months(maintenance(stack), "billing", now=now)
        assert await months_ahead(spare, "billing", now=now) == 3
        for table, kept in (("inbox", timedelta(days=395)), ("outbox", timedelta(days=30))):
            first = (await months_of(spare, table))[0]
            # what is as old as promised has its place, unless it was before our time
            assert first <= f"{max(now - kept, BEGAN):%Y_%m}"
    assert await months_of(spare, "inbox") == [f"{month(now, n):%Y_%m}" for n in range(-13, 4)]
    assert await months_of(spare, "outbox") == [f"{month(now, n):%Y_%m}" for n in range(-2, 4)]


async def test_a_month_that_holds_what_was_never_sent_stays(stack: Stack, spare: asyncpg.Connection) -> None:
    await spare.execute("insert into billing.unsent(at) values ($1)", BEGAN)
    later = BEGAN + timedelta(days=200)

    await keep_months(maintenance(stack), "billing", now=later)
    assert "2026_11" in await months_of(spare, "outbox")
    assert "2026_12" not in await months_of(spare, "outbox")

    await spare.execute("delete from billing.unsent")
    assert await keep_months(maintenance(stack), "billing", now=later) == ["- billing.outbox_2026_11"]


async def test_a_new_service_has_a_place_for_all_that_its_topics_hold(spare: asyncpg.Connection) -> None:
    assert (await months_of(spare, "inbox"))[0] == "2026_10"
    assert (await months_of(spare, "outbox"))[0] == "2026_11"


@pytest.mark.parametrize(("days", "ahead"), [(0, 3), (8, 2), (40, 1), (70, 0), (400, 0)])
async def test_it_is_seen_how_many_months_are_left(
    spare: asyncpg.Connection, days: int, ahead: int
) -> None:
    assert await months_ahead(spare, "billing", now=BEGAN + timedelta(days=days)) == ahead


async def test_the_service_itself_may_look_but_not_touch(stack: Stack, spare: asyncpg.Connection) -> None:
    conn = await asyncpg.connect(stack.database_url("billing", SPARE), ssl="disable")
    try:
        assert await months_ahead(conn, "billing", now=BEGAN) == 3
    finally:
        await conn.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await keep_months(stack.database_url("billing", SPARE), "billing", now=BEGAN + timedelta(days=400))


def test_the_daily_job_reads_one_file_and_says_what_it_did(stack: Stack, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_bytes(
        msgspec.toml.encode(upkeep(stack))
    )
    done = subprocess.run(
        [sys.executable, "-m", "services.chassis.partitions"],
        cwd=ROOT,
        env={**os.environ, "CANBAO_SETTINGS": str(settings)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr     # the provisioning has just made them


async def test_whoever_keeps_a_sandbox_running_keeps_its_months(stack: Stack) -> None:
    conn = await asyncpg.connect(stack.pg_admin_dsn, database=stack.database, ssl="disable")
    now = datetime.now(UTC)

    said, well = list[str](), asyncio.Event()

    async def kept() -> bool:
        return said == [f"+ billing.inbox_{month(now, 2):%Y_%m}"]

    try:
        await conn.execute(f"drop table billing.inbox_{month(now, 2):%Y_%m}")
        assert await months_ahead(conn, "billing", now=now) == 1
        keeping = asyncio.create_task(keep_months_of_all(upkeep(stack), said.append, well.set))
        await until(kept)
        await asyncio.wait_for(well.wait(), 20)
        keeping.cancel()
        assert await months_ahead(conn, "billing", now=now) == 3
    finally:
        await conn.close()


def test_both_tables_are_kept() -> None:
    assert set(PARTITIONED) == {"inbox", "outbox"}
