"""What does notify do when something happens? Load, decide, save, publish."""

from functools import lru_cache
from typing import Any, get_args

from contracts.enrollment import PersonRecorded
from contracts.policy import help_of
from contracts.reasons import Reason
from services.chassis.refs import Ref, Refs
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.transaction import Transaction
from services.notify import rules, store
from services.notify.rules import Addressee, MailTaken, SendAgain, SendRefused, SmsTaken
from services.notify.rules.words import Told

on = Subscriptions("notify")
refs = Refs("notify")
person = refs.by_uuid("person")
notification = refs.by_uuid("notification")


@on(PersonRecorded, refs=lambda fact: [person(fact.person_id)], lane="bulk")
async def keep_contacts(facts: Batch[PersonRecorded], tx: Transaction) -> None:
    """The latest sealed contact; it stays sealed."""
    for fact in facts:
        sequence = tx.arrival(fact).sequence
        tx.upsert(
            store.LATEST,
            Addressee(fact.person_id, fact.region_code, fact.name_masked, fact.for_notify, sequence),
        )


async def tell(facts: Batch[Any], tx: Transaction) -> None:
    """Something happened that a citizen should know; in which words is a row of TEMPLATES."""
    known = await store.addressees(tx, [fact.person_id for fact in facts])
    for fact in facts:
        addressee = known.get(fact.person_id)
        fact_id = tx.arrival(fact).event_id or ""
        hotline = _hotline(addressee.region_code) if addressee else ""
        match rules.tell(fact, fact_id=fact_id, addressee=addressee, hotline=hotline, now=tx.now):
            case rules.Tells(born, request):
                tx.add(store.NOTIFICATIONS, born)
                tx.call(request, number=rules.number(request), journey=born.journey)
            case rules.Awaited():
                tx.wait(fact, person(fact.person_id))
            case rules.Nobody():
                pass


def _about_person(fact: Any) -> list[Ref]:
    return [person(fact.person_id)] if fact.person_id else []


for _told in get_args(Told):
    on(_told, refs=_about_person, lane="bulk")(tell)


@lru_cache
def _hotline(region_code: str) -> str:
    """KeyError: enrollment took a person of a region that has no policy pack."""
    found = help_of(region_code)
    if isinstance(found, Reason):
        raise KeyError(region_code)
    return found.hotline


def _about(outcome: SmsTaken | MailTaken | SendRefused | SendAgain) -> list[Ref]:
    return [notification(outcome.notification_id)]


@on(SmsTaken, refs=_about, lane="bulk")
async def note_texts(outcomes: Batch[SmsTaken], tx: Transaction) -> None:
    """The SMS provider has it."""
    await _taken(outcomes, tx)


@on(MailTaken, refs=_about, lane="bulk")
async def note_mails(outcomes: Batch[MailTaken], tx: Transaction) -> None:
    """The mail server has it."""
    await _taken(outcomes, tx)


async def _taken(outcomes: Batch[SmsTaken] | Batch[MailTaken], tx: Transaction) -> None:
    known = await store.notifications(tx, [outcome.notification_id for outcome in outcomes])
    for outcome in outcomes:
        match rules.taken(outcome, known[outcome.notification_id], now=tx.now):
            case rules.Ended(ended, said):
                tx.change(store.MOVED, ended)
                tx.publish(said, sequence=1)
            case rules.Unchanged():
                pass


@on(SendRefused, refs=_about, lane="bulk")
async def take_other_roads(outcomes: Batch[SendRefused], tx: Transaction) -> None:
    """A provider did not send it: tomorrow, by mail, or not at all."""
    known = await store.notifications(tx, [outcome.notification_id for outcome in outcomes])
    people = await store.addressees(tx, [outcome.person_id for outcome in outcomes])
    for outcome in outcomes:
        it = known[outcome.notification_id]
        match rules.refused(outcome, it, people[outcome.person_id], now=tx.now):
            case rules.Resends(resent, request):
                tx.change(store.MOVED, resent)
                tx.call(request, number=rules.number(request), journey=resent.journey)
            case rules.Defers(deferred, at, timer):
                tx.change(store.MOVED, deferred)
                tx.at(at, timer, journey=deferred.journey)
            case rules.Ended(ended, said):
                tx.change(store.MOVED, ended)
                tx.publish(said, sequence=1)
            case rules.Unchanged():
                pass


@on(SendAgain, refs=_about, lane="bulk")
async def send_again(timers: Batch[SendAgain], tx: Transaction) -> None:
    """The morning after: the phone takes messages again."""
    known = await store.notifications(tx, [timer.notification_id for timer in timers])
    people = await store.addressees(tx, [timer.person_id for timer in timers])
    for timer in timers:
        match rules.again(known[timer.notification_id], people[timer.person_id]):
            case rules.Resends(resent, request):
                tx.change(store.MOVED, resent)
                tx.call(request, number=rules.number(request), journey=resent.journey)
            case rules.Unchanged():
                pass
