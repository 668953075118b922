"""Where does the raw loop work? Schemas `raw_…` beside the services' own, topics `raw.…` beside theirs,
four processes.
"""

import asyncio
import secrets
import sys
from pathlib import Path

import asyncpg
import msgspec
from confluent_kafka.admin import AdminClient, NewTopic

from bench.gate import TOPICS as GATED
from bench.pipeline import Broken
from bench.raw_loop import Place
from contracts.topics import PARTITIONS, SERVICES, TOPICS
from sandbox.processes import ROOT
from sandbox.stack import Stack
from services.chassis.settings import Kafka

PREFIX = "raw."
# The business's tables as the services have them: columns, checks, indexes, room for updates. What only
# carries people
# is filled from theirs. The engine's are what the loop needs, narrow.
_TABLES = {
    "enrollment": ("person", "enrollment", "coverage", "request"),
    "billing": ("bill",),
    "payment": ("person", "obligation", "orders", "order_item", "receipt", "ledger", "request"),
    "notify": ("addressee", "notification", "call"),
}
_PEOPLE = ("enrollment.person", "payment.person", "notify.addressee")
_ENGINE = """
create table {s}.inbox (ce_id uuid primary key, at timestamptz not null default now());
create sequence {s}.batch_seq;
create table {s}.unsent (
    batch_id bigint primary key default nextval('{s}.batch_seq'), at timestamptz not null default now()
) with (fillfactor = 50);
create table {s}.outbox (
    batch_id bigint not null, ce_time timestamptz not null, at timestamptz not null default now(),
    n int not null, seq int not null, part smallint not null, topic smallint not null,
    type smallint not null, key uuid not null, ce_id uuid not null, subject text not null, payload bytea
);
create index on {s}.outbox (batch_id);
"""


async def lay(
    db: asyncpg.Connection, stack: Stack, name: str = "raw", engine: str | dict[str, str] = _ENGINE
) -> str:
    """Make schemas, role and topics; the role's way into the database. People are copied by `fill`.

    name: of the role, and before its schemas and topics. engine: the loop's own tables, if they differ by
    service.
    """
    password = secrets.token_urlsafe(24)
    await db.execute(
        f"create role {name} login password '{password}';"
        f"grant connect on database {stack.database} to {name}"
    )
    for service, tables in _TABLES.items():
        schema = f"{name}_{service}"
        await db.execute(f"create schema {schema} authorization {name}")
        for table in tables:
            await db.execute(f"create table {schema}.{table} (like {service}.{table} including all)")
            options = await db.fetchval(
                "select reloptions from pg_class where oid = $1::text::regclass", f"{service}.{table}"
            )
            if options:
                await db.execute(f"alter table {schema}.{table} set ({', '.join(options)})")
        await db.execute((engine if isinstance(engine, str) else engine[service]).format(s=schema))
        await db.execute(
            f"grant all on all tables in schema {schema} to {name};"
            f"grant all on all sequences in schema {schema} to {name}"
        )
    admin = AdminClient({"bootstrap.servers": stack.kafka_admin})
    new = [
        NewTopic(f"{name}.{t.name}", PARTITIONS, 1, config=t.config) for t in map(TOPICS.__getitem__, GATED)
    ]
    for made in admin.create_topics(new).values():
        await asyncio.to_thread(made.result)
    return f"postgresql://{name}:{password}@{stack.pg_host}:{stack.pg_port}/{stack.database}"


async def fill(db: asyncpg.Connection, name: str = "raw") -> None:
    """The same people know this loop."""
    for table in _PEOPLE:
        await db.execute(f"insert into {name}_{table} select * from {table}; analyze {name}_{table}")  # noqa: S608 - names of ours


class RawLoop:
    """Four processes, one for each service."""

    name = prefix = "raw"
    module = "bench.raw_loop"

    def __init__(self, stack: Stack, dsn: str, folder: Path, skew_seconds: float) -> None:
        self._files = []
        for service in SERVICES:
            place = Place(
                service=service,
                dsn=dsn,
                kafka=Kafka(bootstrap=stack.kafka_admin),
                keys=str(folder.resolve() / "keys" / f"{service}.json"),
                prefix=f"{self.prefix}.",
                skew_seconds=skew_seconds,
            )
            file = folder / f"{self.name}-{service}.json"
            file.touch(mode=0o600)
            file.write_bytes(msgspec.json.encode(place))
            self._files.append(file)
        self._running: list[asyncio.subprocess.Process] = []

    async def up(self) -> None:
        """Start the four; Broken: one does not come up."""
        for file in self._files:
            self._running.append(
                await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    self.module,
                    str(file),
                    cwd=ROOT,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
            )
        for process in self._running:
            assert process.stdout is not None
            if await process.stdout.readline() != b"ready\n":
                raise Broken(f"the {self.name} loop did not come up")

    async def down(self) -> None:
        """End them."""
        running, self._running = self._running, []
        for process in running:
            if process.returncode is None:
                process.terminate()
        for process in running:
            await process.wait()

    def roots(self) -> list[int]:
        """Their processes."""
        return [process.pid for process in self._running]
