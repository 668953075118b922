"""Does this stand in a service's outbox, and where? Outboxes are known by batch alone: an index more would
cost every fact.

Batches are numbered in the order of time, give or take a transaction's length; so an instant is looked for as
a word in a dictionary, and an event's id tells its instant.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import asyncpg

from services.chassis.ids import millis

_BEFORE, _AFTER = timedelta(seconds=30), timedelta(seconds=15)  # a transaction lasts 10 s at most; two clocks
_HALVES = """
select w.i, (select at from {s}.outbox where batch_id >= w.batch order by batch_id limit 1)
from unnest($1::int[], $2::bigint[]) w(i, batch)"""
# "offset 0" keeps the condition on ce_id out of the inner query: it goes by the index on batch_id.
_THERE = """
select ce_id::text from unnest($1::bigint[], $2::bigint[]) around(low, high),
lateral (select ce_id from {s}.outbox where batch_id between low and high offset 0) rows
where ce_id = any($3::uuid[])"""
_ANYWHERE = "select ce_id::text from {s}.outbox where ce_id = any($1::uuid[])"


async def standing(db: asyncpg.Connection, wanted: Mapping[str, Iterable[str]]) -> set[str]:
    """Those of these ids that stand in the outbox of a service that may have said them. wanted: by service.
    All of an outbox is read only for what stands nowhere where it should.
    """
    found: set[str] = set()
    for service, ids in wanted.items():
        found |= await _around(db, service, sorted(ids))
    for service, ids in wanted.items():
        if left := sorted(set(ids) - found):
            found |= {row[0] for row in await db.fetch(_ANYWHERE.format(s=service), left)}
    return found


async def _around(db: asyncpg.Connection, service: str, wanted: list[str]) -> set[str]:
    """Those that were written about when their ids were drawn."""
    times = [datetime.fromtimestamp(millis(ce_id) / 1000, UTC) for ce_id in wanted]
    spans = _joined((at - _BEFORE, at + _AFTER) for at in times)
    edges = await _first_batches(db, service, [edge for span in spans for edge in span])
    there = await db.fetch(_THERE.format(s=service), edges[::2], edges[1::2], wanted)
    return {row[0] for row in there}


def _joined(spans: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Spans in order, those that overlap as one."""
    joined: list[tuple[datetime, datetime]] = []
    for low, high in spans:
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    return joined


async def _first_batches(db: asyncpg.Connection, service: str, instants: list[datetime]) -> list[int]:
    """The number of the first batch of each instant or later, all looked for at once: a query a halving."""
    low, high = await db.fetchrow(
        f"select coalesce(min(batch_id), 0), coalesce(max(batch_id), 0) + 1 from {service}.outbox"  # noqa: S608 - names of ours
    )
    spans = [[low, high] for _ in instants]
    while open_ones := [i for i, (a, b) in enumerate(spans) if a < b]:
        middles = [sum(spans[i]) // 2 for i in open_ones]
        for i, at in await db.fetch(_HALVES.format(s=service), open_ones, middles):
            middle = sum(spans[i]) // 2
            if at is not None and at < instants[i]:
                spans[i][0] = middle + 1
            else:
                spans[i][1] = middle
    return [a for a, _ in spans]
