"""Does a business transaction cost the same over large tables? Rounds before and after a season is written
beneath.
"""

from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct

from bench.comparison import Say, one_line
from bench.pipeline import Round
from bench.season import write_rows
from bench.site import Site, site
from contracts.topics import SERVICES

_ROWS = """
select sum(reltuples)::bigint from pg_class c join pg_namespace n on n.oid = relnamespace
where relkind = 'r' and nspname = any($1)"""


class Size(Struct, frozen=True, kw_only=True):
    """rounds: on each side, of so many transactions after so many that warm. bills: of the season, each
    about 54 rows.
    """

    rounds: int
    transactions: int
    warming: int
    bills: int


QUICK = Size(rounds=1, transactions=1_500, warming=300, bills=5_000)
FULL = Size(rounds=3, transactions=3_000, warming=500, bills=190_000)


async def measure(folder: Path, size: Size, say: Say) -> dict[str, Any]:
    """Both sides, and CPU per transaction of the second for one of the first. Raises Broken and what `site`
    raises.
    """
    async with site(folder, 2 * size.rounds * (size.transactions + size.warming), say) as here:
        small = await _rounds(here, size, say)
        rows = [await _count(here)]
        await write_rows(here.stack, size.bills, say, SERVICES)
        large = await _rounds(here, size, say)
        rows.append(await _count(here))
    return {
        "rows": rows,
        "cpu_us_per_bt": [[round(it.cpu_us) for it in side] for side in (small, large)],
        "wal_bytes_per_bt": [round(median(it.wrote["wal_bytes"] for it in side)) for side in (small, large)],
        "disturbed": sum(it.disturbed for it in small + large),
        "cpu_ratio": round(median(it.cpu_us for it in large) / median(it.cpu_us for it in small), 3),
    }


async def _rounds(here: Site, size: Size, say: Say) -> list[Round]:
    played = []
    for _ in range(size.rounds):
        services = here.services()
        await services.up()
        try:
            await here.play(services, size.warming)
            played.append(await here.play(services, size.transactions))
        finally:
            await services.down()
        say(one_line(played[-1]))
    return played


async def _count(here: Site) -> int:
    """About; by what Postgres noted when it last looked."""
    await here.ground.db.execute("analyze")
    return int(await here.ground.db.fetchval(_ROWS, list(SERVICES)))


def as_text(said: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"about {rows:>12,} rows: {' '.join(map(str, cpu))} µs CPU and {wal:,} B of log per BT"
        for rows, cpu, wal in zip(said["rows"], said["cpu_us_per_bt"], said["wal_bytes_per_bt"])
    ]
    disturbed = f"; {said['disturbed']} rounds disturbed" if said["disturbed"] else ""
    return "\n".join([*lines, f"CPU, large ÷ small, by medians: {said['cpu_ratio']}{disturbed}"])
