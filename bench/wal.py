"""Which table wrote how much into the log? Postgres' own reader of it, by relation."""

import asyncio
import re
from collections import Counter
from pathlib import Path

import asyncpg
from msgspec import Struct

from sandbox.postgres import wheel_programs

_LINE = re.compile(rb"len \(rec/tot\):\s+(\d+)/\s*\d+.*?lsn: .*?desc: ")
_RELATION = re.compile(rb"rel \d+/\d+/(\d+)")
# By the number of a file: the table it belongs to, its partitions' root, and whether it is an index.
_FILES = """
select c.relfilenode::bigint, n.nspname || '.' || coalesce(root.relname, base.relname),
       c.relkind in ('i', 'I')
from pg_class c
left join pg_index i on i.indexrelid = c.oid
left join pg_class toasted on toasted.reltoastrelid = coalesce(i.indrelid, c.oid)
join pg_class base on base.oid = coalesce(toasted.oid, i.indrelid, c.oid)
left join pg_inherits h on h.inhrelid = base.oid
left join pg_class root on root.oid = h.inhparent
join pg_namespace n on n.oid = base.relnamespace
where c.relfilenode <> 0"""


class Written(Struct, frozen=True):
    """Bytes of records, without the whole pages that follow a checkpoint. by_table: heap and index."""

    by_table: dict[str, tuple[int, int]]
    other: int

    def of(self, prefix: str) -> int:
        """Bytes of all tables whose name, with its schema, begins like this."""
        return sum(sum(both) for name, both in self.by_table.items() if name.startswith(prefix))


async def position(db: asyncpg.Connection) -> str:
    """Where the log ends now; all before it is on disk when this returns."""
    here = await db.fetchval("select pg_current_wal_insert_lsn()::text")
    while not await db.fetchval("select pg_current_wal_flush_lsn() >= $1::text::pg_lsn", here):
        await asyncio.sleep(0.02)
    return str(here)


async def written(db: asyncpg.Connection, start: str, end: str) -> Written:
    """What stands between two positions, which are on this machine."""
    folder = Path(await db.fetchval("show data_directory"))
    process = await asyncio.create_subprocess_exec(
        str(wheel_programs() / "pg_waldump"), "-p", str(folder / "pg_wal"), "-s", start, "-e", end,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, limit=1 << 20,
    )  # fmt: skip
    assert process.stdout is not None
    by_file: Counter[int] = Counter()
    other = 0
    async for line in process.stdout:
        length = _LINE.search(line)
        relation = _RELATION.search(line)
        if length and relation:
            by_file[int(relation[1])] += int(length[1])
        elif length:
            other += int(length[1])
    await process.wait()
    both: dict[str, tuple[int, int]] = {}
    for file, name, is_index in await db.fetch(_FILES):
        heap, index = both.get(name, (0, 0))
        size = by_file.pop(file, 0)
        both[name] = (heap, index + size) if is_index else (heap + size, index)
    return Written({name: sizes for name, sizes in both.items() if any(sizes)}, other + by_file.total())
