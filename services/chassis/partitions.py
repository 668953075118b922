"""Which month of inbox and outbox has a partition, who makes the next ones and drops the old?

The provisioning makes the first ones. From then on `keep_months` runs once a day as `<service>_maintenance`:
in a deployment `python -m services.chassis.partitions` as a scheduled job in any service's image, in the
sandbox by whoever keeps it running. A row without a partition is an error (23514), and there is no default
partition on purpose: it would forbid detaching without blocking writers.
"""

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import msgspec
from msgspec import Struct

from contracts.topics import TOPICS
from services.chassis.tables import PARTITIONED

INBOX_MONTHS = 13  # longer than any retention, so that a fact replayed from a topic is always recognised
OUTBOX_MONTHS = 2  # at least 30 days are kept for republishing a lost tail
MONTHS_AHEAD = 3
# a new service reads what its topics still hold: those ids need a place as well
_HELD = timedelta(days=max(topic.retention_days for topic in TOPICS.values() if not topic.compacted))
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


def _wanted(table: str, now: datetime) -> list[datetime]:
    """The months that must stand. A writer's clock may be a day behind ours; an event's id is as old as its
    topic lets it become.
    """
    wanted = [month(now - (_HELD if table == "inbox" else timedelta(days=1)))]
    while wanted[-1] < month(now, MONTHS_AHEAD):
        wanted.append(month(wanted[-1], 1))
    return wanted


async def keep_months(dsn: str, service: str, *, now: datetime) -> list[str]:
    """What a service needs once a day (now: system clock): the months to come are made, those past keeping
    dropped; one line for each. dsn: of `<service>_maintenance`.
    """
    conn = await asyncpg.connect(dsn, ssl="disable")
    try:
        made = await make_partitions(conn, service, now=now)
        dropped = await drop_partitions(conn, service, now=now)
    finally:
        await conn.close()
    return [f"+ {service}.{name}" for name in made] + [f"- {service}.{name}" for name in dropped]


async def make_partitions(conn: asyncpg.Connection, schema: str, *, now: datetime) -> list[str]:
    """Create what is missing, up to three months after `now` (system clock); the names made.

    The caller's role must be able to SET ROLE to the schema's owner. New tables are attached, not created in
    place, because CREATE … PARTITION OF would queue behind readers and stop every writer meanwhile.
    """
    statements, made = [f"set local role {schema}_owner"], []
    async with conn.transaction():
        await conn.execute("select pg_advisory_xact_lock($1, hashtext($2))", _LOCK, schema)
        for table in PARTITIONED:
            present = await _months(conn, schema, table)
            for start in _wanted(table, now):
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
    finished on the next run. Concurrent maintainers: the second finds the lock taken and does nothing. A
    month of the outbox with something that was never sent stays.
    """
    if not await conn.fetchval("select pg_try_advisory_lock($1, hashtext($2))", _LOCK, schema):
        return []
    dropped = []
    try:
        await conn.execute(f"set role {schema}_owner")
        for table in PARTITIONED:
            kept = f"{table}_{month(now, -(INBOX_MONTHS if table == 'inbox' else OUTBOX_MONTHS)):%Y_%m}"
            parent = f"alter table {schema}.{table} detach partition {schema}"
            months = await _months(conn, schema, table)
            # a half one first: Postgres detaches no other before it is finished
            for name, state in sorted(months.items(), key=lambda month: (month[1] != "half", month[0])):
                if name >= kept or (table == "outbox" and await _is_unsent(conn, schema, name)):
                    continue
                if state != "loose":
                    await conn.execute(f"{parent}.{name} {'finalize' if state == 'half' else 'concurrently'}")
                await conn.execute(f"drop table {schema}.{name}")
                dropped.append(name)
    finally:
        await conn.execute("reset role")
        await conn.execute("select pg_advisory_unlock($1, hashtext($2))", _LOCK, schema)
    return dropped


async def _is_unsent(conn: asyncpg.Connection, schema: str, name: str) -> bool:
    """Whether a batch of this month of the outbox waits for the relay."""
    start = _start_of(name)
    return bool(
        await conn.fetchval(
            f"select exists (select from {schema}.unsent where at >= $1 and at < $2)",  # noqa: S608 -- ours
            start,
            month(start, 1),
        )
    )


def _start_of(name: str) -> datetime:
    """The first instant of the month that a partition is named for."""
    _, year, of_year = name.split("_")
    return datetime(int(year), int(of_year), 1, tzinfo=UTC)


async def months_ahead(conn: asyncpg.Connection, schema: str, *, now: datetime) -> int:
    """How many months after that of `now` (system clock) can be written to; 0: this one is the last."""
    present = [
        {name.removeprefix(f"{table}_") for name, state in found.items() if state == "attached"}
        for table in PARTITIONED
        for found in [await _months(conn, schema, table)]
    ]
    count = 0
    while all(f"{month(now, count + 1):%Y_%m}" in names for names in present):
        count += 1
    return count


async def inbox_floor(conn: asyncpg.Connection, schema: str) -> str:
    """The smallest event id the inbox has a place for; an older one counts as seen. ValueError: no
    partition at all."""
    names = [name for name, state in (await _months(conn, schema, "inbox")).items() if state == "attached"]
    if not names:
        raise ValueError(f"{schema}.inbox has no partition: run the provisioning")
    return uuid7_floor(_start_of(min(names)))


class Upkeep(Struct, frozen=True):
    """What the daily job needs to know. databases: of each service, as its `<service>_maintenance`."""

    databases: dict[str, str]


def main() -> None:
    """Once, for the services of the file that CANBAO_SETTINGS names; a failure ends with a trace and 1."""
    upkeep = msgspec.toml.decode(Path(os.environ["CANBAO_SETTINGS"]).read_bytes(), type=Upkeep)
    for service, dsn in upkeep.databases.items():
        done = asyncio.run(keep_months(dsn, service, now=datetime.now(UTC)))
        sys.stdout.writelines(f"{line}\n" for line in done)


if __name__ == "__main__":
    main()
