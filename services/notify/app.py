"""How does notify start? `python -m services.notify.app`"""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from services.chassis.calls import Gateway
from services.chassis.keys import Keyring
from services.chassis.service import Service
from services.chassis.settings import Settings
from services.notify.gateway import Mail, Sms, read_sms_account
from services.notify.handlers import on
from services.notify.rules import SendMail, SendSms

SENDER = "no-reply@canbao.example"


def gateways(settings: Settings, keys: Keyring) -> Mapping[type[Struct], Gateway]:
    """By which road each request goes."""
    account = read_sms_account(Path(settings.keys).with_name("sms.json"))
    sms = Sms(account, url=settings.outside.sms, keys=keys)
    return {SendSms: sms, SendMail: Mail(server=settings.outside.smtp, sender=SENDER, keys=keys)}


if __name__ == "__main__":
    Service("notify", on, gateways=gateways).run()
