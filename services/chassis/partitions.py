"""Which month of inbox and outbox has a partition, who makes the next ones and drops the old?

Run when a stack is provisioned and by `<service>_maintenance` afterwards. A row without a partition is an
error (23514), and there is no default partition on purpose: it would forbid detaching without blocking
writers.
"""

from datetime import UTC, datetime, timedelta

import asyncpg

from services.chassis.tables import PARTITIONED

INBOX_MONTHS = 13  # longer than any retention, so that a fact replayed from a topic is always recognised
OUTBOX_MONTHS = 2  # at least 30 days are kept for republishing a lost tail
_LOCK = 0x63616E62  # one maintainer at a time; of the two-int keys, which refs do not use


def month(instant: datetime, later: int = 0) -> datetime:
    """The first instant (UTC) of the month that lies `later` months after the instant's month."""
    utc = instant.astimezone(UTC)
    count = utc.year * 12 + utc.month - 1 + later
    return datetime(count // 12, count % 12 + 1, 1, tzinfo=UTC)


def uuid7_floor(instant: datetime) -> str:
    """The smallest uuid7 of an instant: 48 bits of milliseconds, then zeros."""
    hexa = f"{int(instant.timestamp() * 1000):012x}"
    return f"{hexa[:8]}-{hexa[8:]}-0000-0000-000000000000"


def _bounds(table: str, start: datetime) -> tuple[str, str]:
    end = month(start, 1)
    if table == "inbox":
        return uuid7_floor(start), uuid7_floor(end)
    return start.isoformat(), end.isoformat()


async def _months(conn: asyncpg.Connection, schema: str, table: str) -> dict[str, str]:
    """Month table -> 'attached', 'half' (a DETACH CONCURRENTLY that was cut short) or 'loose' (not
    attached)."""
    rows = await conn.fetch(
        "select c.relname, case when i.inhrelid is null then 'loose' when i.inhdetachpending then 'half'"
        " else 'attached' end as state from pg_class c left join pg_inherits i on i.inhrelid = c.oid"
        " where c.relnamespace = $1::text::regnamespace and c.relkind = 'r' and c.relname ~ $2",
        schema,
        f"^{table}_\\d{{4}}_\\d{{2}}$",
    )
    return {row["relname"]: row["state"] for row in rows}


async def make_partitions(
    conn: asyncpg.Connection, schema: str, *, now: datetime, months_ahead: int = 3
) -> list[str]:
    """Create what is missing from the month of `now` (system clock) to `months_ahead` later; the names made.

    On the first of a month the month before is made too: a writer's clock may be a little behind ours. The
    caller's role must be able to SET ROLE to the schema's owner. New tables are attached, not created in
    place, because CREATE … PARTITION OF would queue behind readers and stop every writer meanwhile.
    """
    first = month(now - timedelta(days=1))
    wanted = [first]
    while wanted[-1] < month(now, months_ahead):
        wanted.append(month(wanted[-1], 1))
    statements, made = [f"set local role {schema}_owner"], []
    async with conn.transaction():
        await conn.execute("select pg_advisory_xact_lock($1, hashtext($2))", _LOCK, schema)
        for table in PARTITIONED:
            present = await _months(conn, schema, table)
            for start in wanted:
                name = f"{table}_{start:%Y_%m}"
                if present.get(name) == "attached":
                    continue
                low, high = _bounds(table, start)
                made.append(name)
                statements += [
                    f"create table if not exists {schema}.{name} (like {schema}.{table} including all)",
                    f"alter table {schema}.{table} attach partition {schema}.{name}"
                    f" for values from ('{low}') to ('{high}')",
                ]
        if made:
            await conn.execute(";".join(statements))
    return made


async def drop_partitions(conn: asyncpg.Connection, schema: str, *, now: datetime) -> list[str]:
    """Drop months past their retention (system clock), without ever stopping a writer; the names dropped.

    Not inside a transaction: DETACH CONCURRENTLY waits for old transactions. One cut short by a time-out is
    finished on the next run. Concurrent maintainers: the second finds the lock taken and does nothing.
    """
    if not await conn.fetchval("select pg_try_advisory_lock($1, hashtext($2))", _LOCK, schema):
        return []
    dropped = []
    try:
        await conn.execute(f"set role {schema}_owner")
        for table in PARTITIONED:
            kept = f"{table}_{month(now, -(INBOX_MONTHS if table == 'inbox' else OUTBOX_MONTHS)):%Y_%m}"
            parent = f"alter table {schema}.{table} detach partition {schema}"
            for name, state in sorted((await _months(conn, schema, table)).items()):
                if name >= kept:
                    continue
                if state != "loose":
                    await conn.execute(f"{parent}.{name} {'finalize' if state == 'half' else 'concurrently'}")
                await conn.execute(f"drop table {schema}.{name}")
                dropped.append(name)
    finally:
        await conn.execute("reset role")
        await conn.execute("select pg_advisory_unlock($1, hashtext($2))", _LOCK, schema)
    return dropped


async def inbox_floor(conn: asyncpg.Connection, schema: str) -> str:
    """The smallest event id the inbox has a place for; an older one counts as seen. ValueError: no
    partition at all."""
    names = [name for name, state in (await _months(conn, schema, "inbox")).items() if state == "attached"]
    if not names:
        raise ValueError(f"{schema}.inbox has no partition: run the provisioning")
    year, of_year = min(names).removeprefix("inbox_").split("_")
    return uuid7_floor(datetime(int(year), int(of_year), 1, tzinfo=UTC))
