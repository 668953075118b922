"""How far is a lane? Its last offsets stand in its service's database; the broker's only follow them.

A batch moves a partition on from where it took it up and from nowhere else: whoever sets `progress` back
makes every member read again from there.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

if TYPE_CHECKING:
    from services.chassis.transaction import Transaction

Place = tuple[str, int]     # topic, partition
_DONE = """select p.topic, p.partition, p."offset"
from unnest($2::text[], $3::int[]) it(topic, partition) join progress p using (topic, partition)
where p.lane = $1"""
_FIRST = """insert into progress select $1::text, *, -1 from unnest($2::text[], $3::int[])
on conflict do nothing"""


class Step(NamedTuple):
    """before: the last offset that was done when the records were fetched, -1: none. last: of the batch."""

    before: int
    last: int


Positions = dict[Place, Step]


class Moved(Exception):
    """A partition is not where the batch took it up: read again from where it is."""


async def read_progress(db: asyncpg.Connection, lane: str, places: Collection[Place]) -> dict[Place, int]:
    """The last offset that is done in each of these; -1: none yet. Each has its row afterwards."""
    rows = await db.fetch(_DONE, lane, *_columns(places))
    if len(rows) < len(places):
        await db.execute(_FIRST, lane, *_columns(places))
        rows = await db.fetch(_DONE, lane, *_columns(places))
    return {(row[0], row[1]): row[2] for row in rows}


def _columns(places: Collection[Place]) -> tuple[list[str], list[int]]:
    return [topic for topic, _ in places], [partition for _, partition in places]


async def save_progress(tx: "Transaction | asyncpg.Connection", lane: str, positions: Positions) -> None:
    """These are done, in the transaction that did them. Moved: somebody else has set one of them."""
    tag = await tx.execute(
        'update progress p set "offset" = step.last'
        " from unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]) step(topic, partition, before, last)"
        " where p.lane = $1 and p.topic = step.topic and p.partition = step.partition"
        ' and p."offset" = step.before',
        lane, *_columns(positions),
        [step.before for step in positions.values()], [step.last for step in positions.values()],
    )
    if tag != f"UPDATE {len(positions)}":
        raise Moved


async def set_back(db: asyncpg.Connection, begins: Mapping[Place, int]) -> int:
    """All lanes read these partitions again from there, where they are beyond it; how many did. One statement
    each: a lane holds its rows until its commit, and two orders of locks would be a deadlock.
    """
    count = 0
    for (topic, partition), begin in begins.items():
        tag = await db.execute(
            'update progress set "offset" = $3 where topic = $1 and partition = $2 and "offset" > $3',
            topic, partition, begin - 1,
        )
        count += tag != "UPDATE 0"
    return count
