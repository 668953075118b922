"""What notify says: what was told to whom and by which road."""

from msgspec import Struct

from contracts.message import Instant, PersonId, fact

NOTIFICATIONS = "notify.notifications"


class _Told(Struct, frozen=True, kw_only=True):
    """template: what it says. about: the ce_id of the fact it tells. road: SMS or EMAIL. to_masked: for
    people's eyes.
    """

    journey: str
    region_code: str
    person_id: PersonId
    notification_id: str
    template: str
    about: str
    road: str
    to_masked: str
    at: Instant


@fact(by="notify", topic=NOTIFICATIONS, subject="notification_id")
class NotificationSent(_Told, frozen=True, kw_only=True):
    """The provider took it. attempts: sends tried; doubtful: an earlier send's outcome stayed unknown."""

    provider_ref: str
    attempts: int
    doubtful: bool


@fact(by="notify", topic=NOTIFICATIONS, subject="notification_id")
class NotificationFailed(_Told, frozen=True, kw_only=True):
    """It can't be told by any road. reason: the provider's code, or ours."""

    reason: str
