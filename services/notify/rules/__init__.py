"""What is the rule for telling people: who hears what, by which road, and when again?"""

from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from contracts.enrollment import Contact
from contracts.message import PersonId, Sealed
from contracts.notify import NotificationFailed, NotificationSent
from contracts.payment import FundsUnmatched
from contracts.reasons import Reason
from services.notify.rules.words import CHINA, TEMPLATES, Told, words

# ---- What notify and the providers say to each other (the gateways send the first, the second come back as
# messages)


class _Notice(Struct, frozen=True, kw_only=True):
    """Names a notification in everything said about it: notification_id is the providers' out_id and
    Message-ID."""

    notification_id: str
    person_id: str


class SendSms(_Notice, frozen=True, kw_only=True):
    """Tell it by SMS. contact: sealed for notify, its place is the person id; the gateway opens it, nobody
    else.

    template: the provider's template code. params: what it puts into the text, by name, without C2 data.
    Sending twice sends twice: after an unknown outcome the gateway asks by notification_id.
    """

    contact: Sealed[Contact]
    template: str
    params: dict[str, str]


class SendMail(_Notice, frozen=True, kw_only=True):
    """Tell it by mail. contact as in SendSms. subject and text are complete, Chinese."""

    contact: Sealed[Contact]
    subject: str
    text: str


class SmsTaken(_Notice, frozen=True, kw_only=True):
    """The SMS provider has it. provider_ref: its number. doubtful: an earlier attempt may be out too."""

    provider_ref: str
    doubtful: bool = False


class MailTaken(_Notice, frozen=True, kw_only=True):
    """The mail server has it. provider_ref: its last reply, which names its queue number. doubtful: as in
    SmsTaken.
    """

    provider_ref: str
    doubtful: bool = False


class SendRefused(_Notice, frozen=True, kw_only=True):
    """The provider did not send it and says why. road: SMS or EMAIL. code: its own, or ours in capitals.

    final: this address will never take it; otherwise not today (a daily limit).
    """

    road: str
    code: str
    detail: str
    final: bool


# ---- What notify keeps: a value's fields are its table's columns, in their order


class Addressee(Struct, frozen=True):
    """Whom we can reach. contact stays sealed; its place is the person id."""

    person_id: PersonId
    region_code: str
    name_masked: str
    contact: Sealed[Contact]
    sequence: int


class Notification(Struct, frozen=True):
    """One fact told to one person; its id is the fact's. attempts: how often it was handed to a road."""

    notification_id: str
    person_id: PersonId
    journey: str
    region_code: str
    template: str
    params: dict[str, str]
    to_masked: str
    road: str
    status: str
    attempts: int
    provider_ref: str
    reason: str
    born_at: datetime
    ended_at: datetime | None


# ---- States. What stands in no row came late or twice and changes nothing. Source: domain B2


class Status(StrEnum):
    """DEFERRED: the provider takes no more today. FALLBACK: on its way by mail. DEAD: no road is left."""

    SENDING = "SENDING"
    DEFERRED = "DEFERRED"
    FALLBACK = "FALLBACK"
    SENT = "SENT"
    DEAD = "DEAD"


class Event(StrEnum):
    """BUSY: refused for today. REFUSED: refused for good. MORNING: the next day has come."""

    TAKEN = "TAKEN"
    BUSY = "BUSY"
    REFUSED = "REFUSED"
    MORNING = "MORNING"


NOTIFICATION: dict[tuple[str, str], Status] = {
    (Status.SENDING, Event.TAKEN): Status.SENT,
    (Status.SENDING, Event.BUSY): Status.DEFERRED,
    (Status.SENDING, Event.REFUSED): Status.FALLBACK,
    (Status.DEFERRED, Event.MORNING): Status.SENDING,
    (Status.FALLBACK, Event.TAKEN): Status.SENT,
    (Status.FALLBACK, Event.BUSY): Status.DEAD,
    (Status.FALLBACK, Event.REFUSED): Status.DEAD,
}

SMS, EMAIL = "SMS", "EMAIL"
MORNING = time(8)  # quiet hours end. Source: reliability G7, 22-08
MOST_ATTEMPTS = 3  # mornings on which a full provider is tried; then the mail goes


class SendAgain(Struct, frozen=True, kw_only=True):
    """Timer: the morning after the provider took no more for this phone."""

    notification_id: str
    person_id: str


class Tells(Struct, frozen=True):
    """A new notification, on its way by SMS."""

    notification: Notification
    request: SendSms


class Nobody(Struct, frozen=True):
    """The fact is about nobody that we know of."""


class Awaited(Struct, frozen=True):
    """We can't reach this person yet: the person's contact has not arrived."""


class Unchanged(Struct, frozen=True):
    """It came late or twice."""


class Ended(Struct, frozen=True):
    """Told, or given up; either is said."""

    notification: Notification
    fact: NotificationSent | NotificationFailed


class Resends(Struct, frozen=True):
    """Another attempt, by the road in the request's class."""

    notification: Notification
    request: SendSms | SendMail


class Defers(Struct, frozen=True):
    """Not today. at: instant of the next morning."""

    notification: Notification
    at: datetime
    timer: SendAgain


def tell(
    fact: Told, *, fact_id: str, addressee: Addressee | None, hotline: str, now: datetime
) -> Tells | Awaited | Nobody:
    """One notification for a fact: by SMS first, since every account has a phone (domain N1, E1).

    For a person whom payment has awaited in vain nobody waits a second time: the channel heard it.
    """
    if not fact.person_id:
        return Nobody()
    if addressee is None:
        in_vain = isinstance(fact, FundsUnmatched) and fact.reason == Reason.PERSON_NOT_FOUND.name
        return Nobody() if in_vain else Awaited()
    template, params = words(fact)
    params |= {"name": addressee.name_masked, "hotline": hotline}
    notification = Notification(
        notification_id=fact_id,
        person_id=fact.person_id,
        journey=fact.journey,
        region_code=addressee.region_code,
        template=template,
        params=params,
        to_masked=addressee.name_masked,
        road=SMS,
        status=Status.SENDING,
        attempts=1,
        provider_ref="",
        reason="",
        born_at=now,
        ended_at=None,
    )
    return Tells(notification, _sms(notification, addressee))


def taken(outcome: SmsTaken | MailTaken, known: Notification, *, now: datetime) -> Ended | Unchanged:
    """A provider has it, perhaps twice if the outcome is doubtful."""
    status = NOTIFICATION.get((known.status, Event.TAKEN))
    if status is None:
        return Unchanged()
    sent = replace(known, status=status, provider_ref=outcome.provider_ref, ended_at=now)
    said = NotificationSent(
        **_told(sent, now),
        provider_ref=sent.provider_ref,
        attempts=sent.attempts,
        doubtful=outcome.doubtful,
    )
    return Ended(sent, said)


def refused(
    outcome: SendRefused, known: Notification, addressee: Addressee, *, now: datetime
) -> Resends | Defers | Ended | Unchanged:
    """A provider did not send it. For today: once more in the morning. For good: by mail; then there is no
    road."""
    final = outcome.final or known.attempts >= MOST_ATTEMPTS
    status = NOTIFICATION.get((known.status, Event.REFUSED if final else Event.BUSY))
    if status is None:
        return Unchanged()
    after = replace(known, status=status, reason=outcome.code)
    match status:
        case Status.DEFERRED:
            morning = datetime.combine(now.astimezone(CHINA).date() + timedelta(days=1), MORNING, CHINA)
            timer = SendAgain(notification_id=known.notification_id, person_id=known.person_id)
            return Defers(after, morning, timer)
        case Status.FALLBACK:
            after = replace(after, road=EMAIL, attempts=known.attempts + 1)
            return Resends(after, _mail(after, addressee))
        case _:
            dead = replace(after, ended_at=now)
            return Ended(dead, NotificationFailed(**_told(dead, now), reason=dead.reason))


def again(known: Notification, addressee: Addressee) -> Resends | Unchanged:
    """The morning has come: the SMS goes out once more."""
    status = NOTIFICATION.get((known.status, Event.MORNING))
    if status is None:
        return Unchanged()
    after = replace(known, status=status, attempts=known.attempts + 1)
    return Resends(after, _sms(after, addressee))


def number(request: SendSms | SendMail) -> str:
    """Our business number for one road of a notification."""
    return f"{request.notification_id}.mail" if isinstance(request, SendMail) else request.notification_id


def _sms(it: Notification, addressee: Addressee) -> SendSms:
    return SendSms(
        notification_id=it.notification_id,
        person_id=it.person_id,
        contact=addressee.contact,
        template=it.template,
        params=it.params,
    )


def _mail(it: Notification, addressee: Addressee) -> SendMail:
    subject, text = TEMPLATES[it.template]
    return SendMail(
        notification_id=it.notification_id,
        person_id=it.person_id,
        contact=addressee.contact,
        subject=subject,
        text=text.format_map(it.params),
    )


def _told(it: Notification, now: datetime) -> dict[str, Any]:
    return {
        "journey": it.journey,
        "region_code": it.region_code,
        "person_id": it.person_id,
        "notification_id": it.notification_id,
        "template": it.template,
        "about": it.notification_id,
        "road": it.road,
        "to_masked": it.to_masked,
        "at": now,
    }
