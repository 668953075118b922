"""How much did a round write? The log, tables, indexes and topics, on disk, before and after."""

from pathlib import Path

import asyncpg

from contracts.topics import SERVICES

# Each transaction that writes takes a number, and nobody else does.
_POSTGRES = """
select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint as wal_bytes,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint as commits,
       sum(pg_table_size(c.oid))::bigint as heap_bytes, sum(pg_indexes_size(c.oid))::bigint as index_bytes
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and n.nspname = any($1)"""

Weight = dict[str, int]


async def weigh(db: asyncpg.Connection, topics: Path, prefix: str) -> Weight:
    """Now. topics: the broker's folder. prefix: "" for the services, else before their schemas and topics."""
    schemas = [f"{prefix}_{service}" if prefix else service for service in SERVICES]
    row = await db.fetchrow(_POSTGRES, schemas)
    return {**row, "kafka_bytes": _on_disk(topics, f"{prefix}." if prefix else "")}


def _on_disk(topics: Path, prefix: str) -> int:
    """Records of all topics of a loop. Others' topics begin with another loop's name, ours with a word of
    the business.
    """
    folders = [folder for folder in topics.iterdir() if "." in folder.name and folder.is_dir()]
    if prefix:
        folders = [folder for folder in folders if folder.name.startswith(prefix)]
    return sum(log.stat().st_size for folder in folders for log in folder.glob("*.log"))


def per_transaction(before: Weight, after: Weight, count: int) -> dict[str, float]:
    """What one of so many business transactions wrote."""
    return {what: (after[what] - before[what]) / count for what in after}
