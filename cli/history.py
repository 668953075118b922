"""What was said about somebody, by every service and to every partner?

The console remembers it, found by its indexes; what it has not heard yet stands among the newest rows of the
outboxes. Outboxes keep two months and have no index that a person's way could be found by.
"""

import asyncio
import re
from collections.abc import Iterable
from typing import Any

import asyncpg
from msgspec import Struct
from msgspec.json import decode

from contracts.answers import ANSWER_TYPES, Accepted, Rejected
from contracts.enrollment import PersonRecorded
from contracts.message import CONTRACTS, contract_of
from contracts.topics import SERVICES
from services.chassis.ids import partition_of
from services.console.rules import BY_TYPE, Place, Step, answered, step

NEWEST = 20_000  # rows of each outbox, by its index on batch_id: some seconds of the highest load
UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_STEPS = """
select ce_id::text, at, type, topic, part, record_offset, journey, person_id::text, enrollment_id::text,
       obligation_id::text, order_id::text, channel_ref, about
from console.step where {where}"""
_ANSWERS = frozenset(ANSWER_TYPES.values())
_COMPACTED = contract_of(PersonRecorded).type  # the console keeps a person, not the step
_ABOUT = """
key = any($1::text[]) or replace(journey::text, '-', '') = any($2::text[])
or type = any($3::text[]) and subject = any($4::text[])
or type = any($3::text[])
   and exists (select from unnest($1::text[]) p where position(convert_to(p, 'UTF8') in payload) > 0)"""


class History(Struct, frozen=True):
    """steps: all that is known to have been said. behind: topics that the console has not read up to where
    our own look begins, so that something between may be missing.
    """

    steps: list[Step]
    behind: list[str]


async def listen(
    connections: list[asyncpg.Connection],
    persons: Iterable[str],
    journeys: Iterable[str],
    numbers: Iterable[str],
) -> History:
    """All that was said to or about these persons, on these journeys or under these partners' numbers; each
    once.

    connections: one for each of SERVICES, as the auditor.
    """
    who, ways, refs = sorted(persons), sorted(journeys), sorted(numbers)
    steps = await _remembered(connections[0], who, ways, refs)
    parts = sorted({partition_of(person) for person in who} | {kept.part for kept in steps})
    about = (_ABOUT, who, ways, sorted(_ANSWERS), refs)
    known = {kept.ce_id: kept for kept in steps}
    behind: list[str] = []

    async def look(service: str, db: asyncpg.Connection) -> None:
        for said in await _said(db, service, *about):
            if said.person_id in who or said.journey in ways or said.channel_ref in refs:
                known.setdefault(said.ce_id, said)
        behind.extend(await _behind(db, service, parts))

    await asyncio.gather(*map(look, SERVICES, connections))
    return History(list(known.values()), sorted(behind))


async def _remembered(
    db: asyncpg.Connection, who: list[str], ways: list[str], refs: list[str]
) -> list[Step]:
    by_person = await db.fetch(_STEPS.format(where="person_id = any($1::uuid[])"), who)
    by_journey = await db.fetch(_STEPS.format(where="journey = any($1::text[]) and journey <> ''"), ways)
    by_ref = await db.fetch(_STEPS.format(where="channel_ref = any($1::text[]) and channel_ref <> ''"), refs)
    rows = (*by_person, *by_journey, *by_ref)
    return [Step(**{**row, "about": decode(row["about"])}) for row in rows]


async def lately(connections: list[asyncpg.Connection], ce_id: str) -> Step | None:
    """The message with this id, when it is among the newest."""
    found = await asyncio.gather(
        *(
            _said(db, service, "ce_id = $1::uuid", ce_id)
            for service, db in zip(SERVICES, connections, strict=True)
        )
    )
    return next((step for steps in found for step in steps), None)


def _newest(service: str) -> str:
    return f"(select * from {service}.outbox order by batch_id desc limit {NEWEST})"  # noqa: S608 - names of ours


async def _said(db: asyncpg.Connection, service: str, where: str, *values: Any) -> list[Step]:
    """What stands among the newest rows of a service's outbox, as the console will keep it."""
    rows = await db.fetch(
        f"select type, ce_id::text, ce_time, topic, part, key, payload from {_newest(service)} said"  # noqa: S608 - names of ours
        f" where {where}",
        *values,
    )
    return [_step(*row) for row in rows if row["type"] in BY_TYPE]


async def _behind(db: asyncpg.Connection, service: str, parts: list[int]) -> list[str]:
    """The topics of which the console does not know the oldest of the newest rows."""
    rows = await db.fetch(
        f"with said as materialized {_newest(service)}, oldest as (select distinct on (topic) topic, ce_id"  # noqa: S608 - names of ours
        " from said where part = any($1::smallint[]) and type <> $2 order by topic, batch_id, n)"
        " select topic from oldest o where (select count(*) from said) = $3"
        " and not exists (select from console.inbox i where i.ce_id = o.ce_id)"
        " and not exists (select from console.parked p where p.event_id = o.ce_id)",
        parts,
        _COMPACTED,
        NEWEST,
    )
    return [row[0] for row in rows]


def _step(
    type_name: str, ce_id: str, time: object, topic: str, part: int, key: str, payload: bytes
) -> Step:
    """As the console will keep it."""
    place = Place(ce_id, str(time), type_name, topic, part, -1)
    if type_name in _ANSWERS:
        return answered(decode(payload, type=Accepted | Rejected), place, key=key)
    return step(decode(payload, type=CONTRACTS[type_name].message), place)
