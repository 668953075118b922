"""What would all services make of one record? Their real readers, lane by lane, and no server beside them."""

import importlib
import time
from pathlib import Path
from typing import NamedTuple

from contracts.operations import OPERATORS
from contracts.topics import OPERATED, TOPICS
from sandbox.fuzz.due import Due, Payload
from services.chassis import misfits
from services.chassis.arrival import Arrival, Raw, Unreadable
from services.chassis.keys import load_keyring
from services.chassis.operators import Orders
from services.chassis.service import _parks_for
from services.chassis.subscriptions import LANES
from services.chassis.wire import Reader


class Heard(NamedTuple):
    """What one service makes of it."""

    service: str
    what: Arrival | Unreadable


class Readers:
    """Every lane of every service. keys: the folder with their key files."""

    def __init__(self, keys: Path) -> None:
        self._lanes: list[tuple[str, frozenset[str], Reader]] = []
        for service in OPERATED:
            on = importlib.import_module(f"services.{service}.handlers").on
            ring = load_keyring(keys / f"{service}.json")
            lanes = {lane: topics for lane in LANES if (topics := on.topics(lane))}
            for lane, topics in lanes.items():
                reader = Reader(on, lane, ring, _parks_for(service, lane, lanes))
                self._lanes.append((service, frozenset(topics), reader))
            owns = frozenset({OPERATORS} if TOPICS[OPERATORS].owner == service else ())
            orders = Reader(Orders(service).on, "money", ring, owns)
            self._lanes.append((service, frozenset({OPERATORS}), orders))

    def hear(self, payload: Payload) -> list[Heard]:
        """What becomes of it, service by service."""
        letter = payload.letter
        now_ms = int(time.time() * 1000)
        raw = Raw(letter.topic, payload.part, payload.number, letter.key, tuple(letter.headers), letter.value,
                  now_ms)
        read = [
            (service, reader.read(raw)) for service, topics, reader in self._lanes if letter.topic in topics
        ]
        return [Heard(service, what) for service, what in read if what is not None]


def wrong(due: Due, heard: list[Heard]) -> str:
    """Why this is not what must become of it; empty: it is."""
    if due.outcome == "silent":
        return f"heard by {heard}" if [each for each in heard if isinstance(each.what, Unreadable)] else ""
    if due.outcome == "parked":
        return _wrongly_parked(due, heard)
    if len(heard) != 1 or isinstance(heard[0].what, Unreadable):
        return f"heard by {_shown(heard)}"
    refusal = heard[0].what.refusal
    if due.outcome == "handled":
        return f"refused {refusal}" if refusal else ""
    if refusal is None:
        return "not refused"
    ok = refusal.code in due.reasons and (not due.path or refusal.field == due.path)
    return "" if ok else f"refused {refusal.code} {refusal.field!r} {refusal.rule}"


def _wrongly_parked(due: Due, heard: list[Heard]) -> str:
    if tuple(sorted(each.service for each in heard)) != tuple(sorted(due.by)):
        return f"heard by {_shown(heard)}"
    for each in heard:
        if not isinstance(each.what, Unreadable):
            return f"{each.service} takes it"
        named = due.path in each.what.detail or due.path == misfits.path(each.what.detail)
        if each.what.reason.name not in due.reasons or not named:
            return f"{each.service}: {each.what.reason.name} {each.what.detail!r}"
    return ""


def _shown(heard: list[Heard]) -> str:
    return ", ".join(
        f"{each.service}: {each.what.reason.name} {each.what.detail!r}" if isinstance(each.what, Unreadable)
        else f"{each.service}: {each.what.refusal or 'handled'}"
        for each in heard
    ) or "nobody"
