"""How does payment start? `python -m services.payment.app`"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from msgspec import Struct
from starlette.routing import Route

from services.chassis.calls import Gateway
from services.chassis.door import Door
from services.chassis.keys import Keyring
from services.chassis.service import Service
from services.chassis.settings import Settings
from services.payment import api
from services.payment.gateway import WeChat, read_account
from services.payment.handlers import on
from services.payment.rules import AskOrder, PlaceOrder


@lru_cache
def _provider(settings: Settings) -> WeChat:
    """One instance: its keys read callbacks at the door, its connections carry the calls."""
    account = read_account(Path(settings.keys).with_name("wechatpay.json"))
    return WeChat(account, url=settings.outside.wechat, callback_url=settings.outside.callback)


def gateways(settings: Settings, _keys: Keyring) -> Mapping[type[Struct], Gateway]:
    """Who is asked what."""
    return dict.fromkeys((PlaceOrder, AskOrder), _provider(settings))


def routes(door: Door, settings: Settings, _keys: Keyring) -> list[Route]:
    """The provider's callback."""
    return api.routes(door, _provider(settings))


if __name__ == "__main__":
    Service("payment", on, gateways=gateways, routes=routes).run()
