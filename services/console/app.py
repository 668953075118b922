"""How does the console start? `python -m services.console.app`"""

from starlette.routing import Route

from services.chassis.door import Door
from services.chassis.keys import Keyring
from services.chassis.service import Service
from services.chassis.settings import Settings
from services.console import api
from services.console.handlers import on


def routes(_door: Door, settings: Settings, _keys: Keyring) -> list[Route]:
    """The page, and what it shows."""
    return api.routes(settings.database)


if __name__ == "__main__":
    Service("console", on, routes=routes).run()
