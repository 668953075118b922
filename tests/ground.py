"""How do tests get a fresh database and fresh topics in milliseconds? By deleting rows and records."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, OffsetSpec

from contracts.topics import TOPICS
from sandbox.stack import Stack
from services.chassis.migrate import VERSION_TABLE
from services.chassis.provision import SCHEMAS

_TABLES = """
select format('%I.%I', nspname, relname) from pg_class join pg_namespace n on n.oid = relnamespace
where nspname = any($1) and relkind in ('r', 'p') and not relispartition and relname <> $2 order by 1
"""
_SEED_TABLES = "select tablename from pg_tables where schemaname = 'seed'"


class Database:
    """The provisioned database: connections as any role."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def url(self, role: str) -> str:
        """How that role reaches it."""
        return self.stack.database_url(role)

    @asynccontextmanager
    async def connect(self, role: str = "") -> AsyncIterator[asyncpg.Connection]:
        """A connection as that role; as the administrator without one."""
        if role:
            conn = await asyncpg.connect(self.url(role), ssl="disable")
        else:
            conn = await asyncpg.connect(self.stack.pg_admin_dsn, database=self.stack.database, ssl="disable")
        try:
            yield conn
        finally:
            await conn.close()


def remember_seed(stack: Stack) -> None:
    """Keep what migrations wrote: emptied tables get it back."""
    asyncio.run(_remember_seed(stack))


async def _remember_seed(stack: Stack) -> None:
    async with Database(stack).connect() as conn:
        await conn.execute("drop schema if exists seed cascade; create schema seed")
        for table in await _tables(conn):
            if await conn.fetchval(f"select exists (select from {table})"):
                await conn.execute(f'create table seed."{table}" as select * from {table}')


async def empty_tables(stack: Stack) -> None:
    """Every table as migrations left it. Triggers and foreign keys do not look."""
    async with Database(stack).connect() as conn:
        tables = await _tables(conn)
        seeded = [row["tablename"] for row in await conn.fetch(_SEED_TABLES)]
        await conn.execute(
            ";".join(
                (
                    "set session_replication_role = replica",
                    *(f"delete from {table}" for table in tables),
                    *(f'insert into {table} select * from seed."{table}"' for table in seeded),
                )
            )
        )


async def _tables(conn: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await conn.fetch(_TABLES, list(SCHEMAS), VERSION_TABLE)]


def empty_topics(bootstrap: str) -> bool:
    """Drop all records of our topics and every group that nobody uses. Whether there were records."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    known = admin.list_topics(timeout=10).topics
    parts = [
        TopicPartition(name, number) for name in TOPICS if name in known for number in known[name].partitions
    ]
    ends = {
        part: future.result().offset for part, future in _offsets(admin, parts, OffsetSpec.latest()).items()
    }
    begins = {
        part: future.result().offset for part, future in _offsets(admin, parts, OffsetSpec.earliest()).items()
    }
    full = [
        TopicPartition(part.topic, part.partition, ends[part]) for part in parts if ends[part] > begins[part]
    ]
    if full:
        _drop(admin, full)
    groups = [group.group_id for group in admin.list_consumer_groups().result().valid]
    for future in (admin.delete_consumer_groups(groups) if groups else {}).values():
        try:
            future.result()
        except KafkaException:
            continue  # somebody is still in it, or a hand took it away before
    return bool(full)


def _offsets(admin: AdminClient, parts: list[TopicPartition], spec: OffsetSpec) -> dict[TopicPartition, Any]:
    return admin.list_offsets(dict.fromkeys(parts, spec))


def _drop(admin: AdminClient, full: list[TopicPartition]) -> None:
    """A compacted topic drops records only while it is also a deleting one."""
    compacted = sorted({part.topic for part in full if TOPICS[part.topic].compacted})
    _set_policy(admin, compacted, "compact,delete")
    for future in admin.delete_records(full).values():
        future.result()
    _set_policy(admin, compacted, "compact")


def _set_policy(admin: AdminClient, topics: list[str], policy: str) -> None:
    change = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
    asked = [
        ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[change]) for topic in topics
    ]
    for future in (admin.incremental_alter_configs(asked) if asked else {}).values():
        future.result()
