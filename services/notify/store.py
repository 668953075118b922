"""Which rows does notify read and write, and how?"""

from collections.abc import Iterable

from services.chassis.rows import Rows
from services.chassis.transaction import Transaction
from services.notify import rules, tables
from services.notify.rules import Addressee, Notification

ADDRESSEES = Rows(tables.Addressee, rules.Addressee)
LATEST = ADDRESSEES.upsert(newer="sequence")
NOTIFICATIONS = Rows(tables.Notification, rules.Notification)
MOVED = NOTIFICATIONS.change("road", "status", "attempts", "provider_ref", "reason", "ended_at")


async def addressees(tx: Transaction, person_ids: Iterable[str]) -> dict[str, Addressee]:
    """By person id, contacts sealed."""
    found = await ADDRESSEES.fetch(tx, person_id=[each for each in person_ids if each])
    return {addressee.person_id: addressee for addressee in found}


async def notifications(tx: Transaction, ids: Iterable[str]) -> dict[str, Notification]:
    """By notification id."""
    return {it.notification_id: it for it in await NOTIFICATIONS.fetch(tx, notification_id=list(ids))}
