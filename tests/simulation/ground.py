"""On what does the simulation stand? A Postgres of its own, provisioned for a fixed date, often emptied."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

import asyncpg

from sandbox.ports import Ports
from sandbox.postgres import QUICK, Postgres, remove
from sandbox.stack import DATABASE, keep_passwords
from services.chassis.migrate import VERSION_TABLE
from services.chassis.provision import SCHEMAS, provision_postgres
from tests.simulation.clockwork import START

WHY_NOT = "the simulation stops Postgres' backends by signals: it needs Linux, and root"
FRESH_EVERY = 40        # runs; then what DELETE has left behind is truncated away
_TABLES = """
select format('%I.%I', nspname, relname) from pg_class join pg_namespace n on n.oid = relnamespace
where nspname = any($1) and relkind in ('r', 'p') and not relispartition and relname not in ($2, 'clock')
order by 1"""
_SEQUENCES = """
select format('%I.%I', nspname, relname) from pg_class join pg_namespace n on n.oid = relnamespace
where nspname = any($1) and relkind = 'S' order by 1"""
_DEFAULTS = """
select format('alter table %I.%I alter column %I set default sim.now()', nspname, relname, attname)
from pg_attrdef d join pg_attribute a on a.attrelid = adrelid and a.attnum = adnum
join pg_class c on c.oid = adrelid join pg_namespace n on n.oid = relnamespace
where nspname = any($1) and pg_get_expr(adbin, adrelid) = 'now()'"""
_NOW = """
create schema sim;
create table sim.clock (at timestamptz not null);
create function sim.now() returns timestamptz language plpgsql as $$
begin   -- the same for a whole transaction, as the real one is
    if coalesce(current_setting('sim.at', true), '') = '' then
        perform set_config('sim.at', (select at::text from sim.clock), true);
    end if;
    return current_setting('sim.at')::timestamptz;
end $$;
insert into sim.clock values (now());
grant usage on schema sim to public;
grant select on sim.clock to public"""


class Ground(NamedTuple):
    """Where the database is. urls: by service."""

    admin_dsn: str
    urls: dict[str, str]


def works_here() -> bool:
    """Whether backends can be stopped."""
    return sys.platform == "linux" and os.geteuid() == 0


@contextmanager
def standing() -> Iterator[Ground]:
    """A server with every schema, for as long as this lasts."""
    folder = Path(tempfile.mkdtemp(prefix="canbao-sim-", dir="/tmp"))
    folder.chmod(0o711)  # the user that root lends to Postgres must pass through
    server = Postgres(folder, Ports(folder), **QUICK | {"autovacuum": "off", "log_lock_waits": "off"})
    try:
        server.start()
        secrets = keep_passwords(folder / "secrets.json")
        asyncio.run(_provision(server.admin_dsn, secrets))
        place = f"127.0.0.1:{server.port}/{DATABASE}"
        yield Ground(server.admin_dsn, {s: f"postgresql://{s}:{secrets[s]}@{place}" for s in SCHEMAS})
    finally:
        server.stop("QUIT")
        remove(folder)
        rmtree(folder, ignore_errors=True)


async def _provision(dsn: str, secrets: dict[str, str]) -> None:
    await provision_postgres(dsn, secrets, database=DATABASE, now=START)
    db = await asyncpg.connect(dsn, database=DATABASE, ssl="disable")
    try:
        await db.execute(_NOW)
        for row in await db.fetch(_TABLES, list(SCHEMAS), VERSION_TABLE):
            assert not await db.fetchval(f"select exists (select from {row[0]})"), f"{row[0]} has seed rows"
        for row in await db.fetch(_DEFAULTS, list(SCHEMAS)):
            await db.execute(row[0])
        for role in SCHEMAS:
            await db.execute(f"alter role {role} set deadlock_timeout = '1h'")
    finally:
        await db.close()


class Emptying:
    """Every table as migrations left it, every sequence at its begin."""

    def __init__(self) -> None:
        self._runs = 0
        self._delete = self._truncate = self._restart = ""

    async def empty(self, db: asyncpg.Connection) -> None:
        """Over the administrator's connection, nobody else being at work."""
        if not self._delete:
            await self._learn(db)
        fresh = self._runs % FRESH_EVERY == 0
        self._runs += 1
        await db.execute((self._truncate if fresh else self._delete) + self._restart)

    async def _learn(self, db: asyncpg.Connection) -> None:
        tables = [row[0] for row in await db.fetch(_TABLES, list(SCHEMAS), VERSION_TABLE)]
        sequences = [row[0] for row in await db.fetch(_SEQUENCES, list(SCHEMAS))]
        self._truncate = f"truncate {', '.join(tables)};"
        deletes = ";".join(f"delete from {table}" for table in tables)
        self._delete = f"set session_replication_role = replica;{deletes};reset session_replication_role;"
        skews = ";".join(f"update {service}.clock set skew = '0'" for service in SCHEMAS)
        self._restart = f"{skews};select " + ", ".join(f"setval('{s}', 1, false)" for s in sequences)
