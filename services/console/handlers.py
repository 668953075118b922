"""What does the console do when something was said? It remembers; it decides nothing."""

from typing import Any

from contracts.answers import Accepted, Rejected
from contracts.enrollment import PersonRecorded
from services.chassis.arrival import Arrival
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.transaction import Transaction
from services.console import rules, store

on = Subscriptions("console")


@on(PersonRecorded, refs=lambda fact: [], lane="bulk")
async def keep_people(facts: Batch[PersonRecorded], tx: Transaction) -> None:
    """The masked name that stands over a timeline; the seals are for others."""
    for fact in facts:
        store.save_person(tx, rules.person(fact, tx.arrival(fact).sequence, tx.arrival(fact).time))


async def keep_steps(facts: Batch[Any], tx: Transaction) -> None:
    """Each fact is one step of somebody's way. They only add, so none waits for another and none has refs."""
    steps = [rules.step(fact, _place(tx.arrival(fact))) for fact in facts]
    await store.add_steps(tx, steps)


async def keep_answers(answers: Batch[Any], tx: Transaction) -> None:
    """What a partner asked for and was told is a step too: with it a way begins."""
    steps = [rules.answered(it, _place(tx.arrival(it)), key=tx.arrival(it).key) for it in answers]
    await store.add_steps(tx, steps)


def _place(arrival: Arrival) -> rules.Place:
    return rules.Place(
        ce_id=arrival.event_id or "",
        time=arrival.time,
        type=arrival.type,
        topic=arrival.raw.topic,
        part=arrival.raw.partition or 0,
        record_offset=arrival.raw.offset or 0,
    )


for _fact in rules.WORDS:
    on(_fact, refs=lambda fact: [], lane="bulk")(keep_steps)
for _answer in (Accepted, Rejected):
    on(_answer, refs=lambda answer: [], lane="bulk")(keep_answers)
