"""Which rows does the console write and read, by name?"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol

from msgspec import Struct

from contracts.enrollment import PersonRecorded
from contracts.message import contract_of
from services.chassis.rows import Rows
from services.chassis.transaction import Transaction
from services.console import tables
from services.console.rules import Person, Step

STEPS = Rows(tables.Step, Step)
PEOPLE = Rows(tables.Person, Person)
_LATEST = PEOPLE.upsert(newer="sequence")
MOST_STEPS = 500
LONGEST_ID = 100
_COUNT = """
insert into tally as t (topic, part, type, facts)
select * from unnest($1::text[], $2::smallint[], $3::text[], $4::bigint[])
on conflict (topic, part, type) do update set facts = t.facts + excluded.facts"""


class Reads(Protocol):
    """A connection, or a transaction."""

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Rows."""
        ...


async def add_steps(tx: Transaction, steps: Iterable[Step]) -> None:
    """New steps, and so many more of each type from each partition; one statement, in one order."""
    new: Counter[tuple[str, int, str]] = Counter()
    for step in steps:
        tx.add(STEPS, step)
        new[step.topic, step.part, step.type] += 1
    rows = sorted((*key, facts) for key, facts in new.items())
    await tx.execute(_COUNT, *map(list, zip(*rows, strict=True)))


def save_person(tx: Transaction, person: Person) -> None:
    """A person, or its newer version."""
    tx.upsert(_LATEST, person)


class Counts(Struct, frozen=True):
    """What has happened so far. facts, lately: by type, ever and in the last minute. parked, redriven: by
    service. people: registered ones."""

    facts: dict[str, int]
    lately: dict[str, int]
    people: int
    parked: dict[str, int]
    redriven: dict[str, int]


# The primary keys begin with the system time in milliseconds: a minute is a range of them.
_MINUTE_AGO = """
(lpad(to_hex((extract(epoch from now() - interval '60 s') * 1000)::bigint), 12, '0')
 || repeat('0', 20))::uuid"""
_LATELY = f"""
select type, count(*) from step where ce_id >= {_MINUTE_AGO} group by 1
union all select $1, count(*) from person where person_id >= {_MINUTE_AGO}"""  # noqa: S608 -- ours


async def counts(db: Reads) -> Counts:
    """Now. Costs a few rows for each type and partition, and the last minute's steps."""
    tallies = await db.fetch("select topic, type, sum(facts)::bigint from tally group by 1, 2")
    lately = await db.fetch(_LATELY, contract_of(PersonRecorded).type)
    people = await db.fetch("select count(*) from person")
    facts, parked, redriven = Counter[str](), Counter[str](), Counter[str]()
    for topic, type_name, number in tallies:
        facts[type_name] += number
        if type_name == "any.message_parked.v1":
            parked[topic.removesuffix(".operations")] += number
        elif type_name == "any.message_redriven.v1":
            redriven[topic.removesuffix(".operations")] += number
    facts[contract_of(PersonRecorded).type] = people[0][0]
    return Counts(dict(facts), {row[0]: row[1] for row in lately}, people[0][0], dict(parked), dict(redriven))


class Timeline(Struct, frozen=True):
    """Somebody's way, or a part of it. kind: what was searched for. more: there are more steps than these."""

    kind: str
    steps: list[Step]
    people: list[Person]
    more: bool


_BY_ID = {
    "person": "person_id = $1::uuid",
    "bill": "obligation_id = $1::uuid",
    "order": "order_id = $1::uuid",
    "journey": "journey = replace($1::uuid::text, '-', '')",
    "event": "ce_id = $1::uuid",
}
# What was asked for stands before what came of it: both were said in one transaction, the answer last.
_IN_ORDER = "order by at, type like 'answer.%' desc, ce_id"
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}")


async def timeline(db: Reads, wanted: str) -> Timeline | None:
    """All steps of the person or of the journeys that the id belongs to, in order. None: nobody has said it.

    wanted: an id with or without dashes, a bill as obligation_id/version, or a channel's number of a
    transaction or request.
    """
    if not wanted.isprintable() or len(wanted) > LONGEST_ID:
        return None
    text, slash, version = wanted.strip().lower().partition("/")
    if not _UUID.fullmatch(text):
        return await _journeys(db, "transaction", "channel_ref = $1", wanted.strip())
    if slash:
        return await _journeys(db, "bill", f"{_BY_ID['bill']} and about->>'version' = $2", text, version)
    people = await _people(db, [text])
    if people:
        return await _steps(db, "person", _BY_ID["person"], text)
    for kind, where in _BY_ID.items():
        found = await _journeys(db, kind, where, text)
        if found is not None:
            return found
    return None


async def _journeys(db: Reads, kind: str, where: str, value: str, *more: str) -> Timeline | None:
    rows = await db.fetch(  # where: one of ours
        f"select distinct journey from step where {where} limit 100",  # noqa: S608
        value, *more,
    )  # fmt: skip
    journeys = [row[0] for row in rows if row[0]]
    if journeys:
        return await _steps(db, kind, "journey = any($1::text[])", journeys)
    return await _steps(db, kind, where, value, *more) if rows else None


async def _steps(db: Reads, kind: str, where: str, value: Any, *more: str) -> Timeline:
    rows = await db.fetch(f"{STEPS.select} where {where} {_IN_ORDER} limit {MOST_STEPS + 1}", value, *more)
    steps = [STEPS.of(row) for row in rows]
    ids = {step.person_id for step in steps if step.person_id} | ({value} if kind == "person" else set())
    return Timeline(kind, steps[:MOST_STEPS], await _people(db, sorted(ids)), len(steps) > MOST_STEPS)


async def _people(db: Reads, ids: list[str]) -> list[Person]:
    rows = await db.fetch(f"{PEOPLE.select} where person_id = any($1::uuid[])", ids)
    return [PEOPLE.of(row) for row in rows]
