"""Where can a process be killed? Named steps of the engine, each with what comes before or after it.

A process of `haunted` looks at each of them for an order to die there. The engine itself knows nothing of it.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from services.chassis import attempt
from services.chassis.attempt import Attempt
from services.chassis.calls import Calls
from services.chassis.door import Door
from services.chassis.lane import Lane
from services.chassis.outbox import Outbox
from services.chassis.relay import Relay
from services.chassis.transaction import Transaction

EVERYBODY = ("enrollment", "billing", "payment", "notify", "console")
SPEAKERS = ("enrollment", "billing", "payment", "notify")


class Point(Struct, frozen=True, kw_only=True):
    """owner.attribute is an async function; the point lies before or after it. services: who comes by."""

    name: str
    owner: Any
    attribute: str
    after: bool = False
    services: tuple[str, ...] = EVERYBODY


POINTS = (
    Point(name="lane: records fetched, nothing begun", owner=Lane, attribute="_work"),
    Point(name="attempt: begun, no locks yet", owner=Attempt, attribute="lock"),
    Point(name="attempt: refs locked", owner=Attempt, attribute="lock", after=True),
    Point(name="attempt: in the inbox, not handled", owner=attempt, attribute="drop_seen", after=True),
    Point(name="attempt: a wave is written", owner=Transaction, attribute="flush", after=True),
    Point(name="attempt: handled, nothing said yet", owner=Attempt, attribute="_handle", after=True),
    Point(name="attempt: answers remembered", owner=attempt, attribute="remember_requests", after=True),
    Point(name="attempt: in the outbox", owner=Outbox, attribute="write", after=True, services=SPEAKERS),
    Point(
        name="attempt: progress written, not committed", owner=attempt, attribute="save_progress", after=True
    ),
    Point(name="attempt: committed, nobody knows", owner=Attempt, attribute="transact", after=True),
    Point(name="lane: done, offsets not sent", owner=Lane, attribute="_work", after=True),
    Point(name="lane: before the offsets", owner=Lane, attribute="flush"),
    Point(name="lane: after the offsets", owner=Lane, attribute="flush", after=True),
    Point(name="relay: read, not sent", owner=Relay, attribute="_send", services=SPEAKERS),
    Point(
        name="relay: acknowledged, still unsent",
        owner=Relay,
        attribute="_send",
        after=True,
        services=SPEAKERS,
    ),
    Point(name="relay: taken off", owner=Relay, attribute="turn", after=True, services=SPEAKERS),
    Point(name="door: taken, not handled", owner=Door, attribute="_handle", services=("payment", "notify")),
    Point(
        name="door: committed, not answered",
        owner=Door,
        attribute="_handle",
        after=True,
        services=("payment", "notify"),
    ),
    Point(name="calls: claimed, not sent", owner=Calls, attribute="_outcome", services=("payment", "notify")),
    Point(
        name="calls: sent, its outcome not entered",
        owner=Calls,
        attribute="_outcome",
        after=True,
        services=("payment", "notify"),
    ),
    Point(
        name="calls: rows claimed",
        owner=Calls,
        attribute="_claim",
        after=True,
        services=("payment", "notify"),
    ),
)


class Reaper:
    """Kills this process at the point that is named in a file: `arm`; each death leaves a line in `hits`."""

    def __init__(self, folder: Path, service: str) -> None:
        self._arm, self._hits = folder / f"arm-{service}", folder / f"hits-{service}"

    def passes(self, name: str) -> None:
        """Here is the point of that name."""
        try:
            asked = self._arm.read_text(encoding="utf-8")
            if asked != name:
                return
            self._arm.unlink()
        except FileNotFoundError:
            return
        with self._hits.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
        os.kill(os.getpid(), signal.SIGKILL)


def haunt(reaper: Reaper) -> None:
    """Put all points into this process."""
    for point in POINTS:
        _wrap(point, reaper)


def _wrap(point: Point, reaper: Reaper) -> None:
    inner: Callable[..., Any] = getattr(point.owner, point.attribute)

    async def around(*args: Any, **how: Any) -> Any:
        if not point.after:
            reaper.passes(point.name)
        result = await inner(*args, **how)
        if point.after:
            reaper.passes(point.name)
        return result

    setattr(point.owner, point.attribute, around)
