"""What is the rule for telling people: who hears what, by which road, in which words?"""

from msgspec import Struct

from contracts.enrollment import Contact
from contracts.message import Sealed

# ---- What notify and the providers say to each other (the gateways send the first, the second come back as messages)


class _Notice(Struct, frozen=True, kw_only=True):
    """Names a notification in everything said about it: notification_id is the providers' out_id and Message-ID."""

    notification_id: str
    person_id: str


class SendSms(_Notice, frozen=True, kw_only=True):
    """Tell it by SMS. contact: sealed for notify, its place is the person id; the gateway opens it, nobody else.

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
    """The SMS provider has it. provider_ref: its number. asked: we learned it by asking after an unknown outcome."""

    provider_ref: str
    asked: bool = False


class MailTaken(_Notice, frozen=True, kw_only=True):
    """The mail server has it. provider_ref: its last reply, which names its queue number."""

    provider_ref: str


class SendRefused(_Notice, frozen=True, kw_only=True):
    """The provider did not send it and says why. road: SMS or EMAIL. code: its own, or ours in capitals.

    final: this address will never take it; otherwise not today (a daily limit).
    """

    road: str
    code: str
    detail: str
    final: bool


class AskReceipt(_Notice, frozen=True, kw_only=True):
    """Did the SMS reach the phone?"""


class SmsReceipt(_Notice, frozen=True, kw_only=True):
    """What the network said. state: TAKEN (no word yet), DELIVERED, FAILED, or ABSENT: the provider never had it.

    code: the network's own, when FAILED. sent: how many messages went out under this notification_id.
    """

    state: str
    code: str = ""
    sent: int = 0
