"""Which protections can be taken out of the engine, and where can it be killed? In this process only.

A protection that is gone must be missed, or the harness is blind.
"""

import os
import signal
from collections.abc import Callable

import asyncpg
from aiokafka import TopicPartition

from services.chassis import attempt, calls, database, outbox
from services.chassis import lane as lane_module
from services.chassis.arrival import Arrival
from services.chassis.lag import Runs
from services.chassis.lane import Lane
from services.chassis.outbox import Said
from services.chassis.refs import waves
from services.chassis.relay import Relay


def _no_seek_back() -> None:
    """A failed batch is left behind; the next one's offsets pass over it."""

    def stay(_lane: Lane, _runs: Runs) -> None:
        return None

    Lane._seek_back = stay  # type: ignore[method-assign,assignment]


def _offsets_first() -> None:
    """Offsets go out before the database has the batch."""
    work = Lane._work

    async def early(lane: Lane, runs: Runs) -> int | None:
        lane.pending |= {partition: run[-1].offset + 1 for partition, run in runs.items()}
        await lane.flush()
        return await work(lane, runs)

    Lane._work = early  # type: ignore[method-assign,assignment]


def _no_refill() -> None:
    """Nobody compares the offsets with what the database has done."""

    async def unwatched(_lane: Lane, _assigned: set[TopicPartition]) -> None:
        return None

    Lane._compare = unwatched  # type: ignore[method-assign,assignment]


def _no_inbox() -> None:
    """Nobody asks whether a fact was handled before."""

    async def all_new(_tx: object, arrivals: list[Arrival], *, ask_which: bool) -> list[Arrival]:
        return arrivals

    attempt.drop_seen = all_new  # type: ignore[attr-defined,assignment]


def _relay_forgets_first() -> None:
    """Batches are taken off `unsent` before they are sent."""

    async def turn(_relay: Relay, connection: asyncpg.Connection) -> int:
        if await connection.fetch("delete from unsent returning batch_id"):
            _die()                      # before they are sent
        return 0

    Relay.turn = turn  # type: ignore[method-assign,assignment]


def _no_order() -> None:
    """Messages that share a ref run in one call, last first."""

    def one_wave(items: list[Arrival]) -> list[list[Arrival]]:
        return [[item for wave in reversed(waves(items)) for item in wave]] if items else []

    attempt.waves = one_wave  # type: ignore[attr-defined,assignment]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _mute_offsets() -> None:
    """Offsets never go out, as when a process is killed before they do."""

    async def nothing(_lane: Lane) -> None:
        return None

    Lane.flush = nothing  # type: ignore[method-assign,assignment]


def _die_after_send() -> None:
    """The relay is killed between the broker's word and its own note of it."""
    send = Relay._send

    async def last(relay: Relay, said: list[Said]) -> None:
        await send(relay, said)
        _die()

    Relay._send = last  # type: ignore[method-assign,assignment]


def _only(*reasons: str) -> Callable[[], None]:
    """All tripwires are cut but those that give such a reason."""

    def cut() -> None:
        lost = Lane.lost

        def sometimes(lane: Lane, why: str) -> None:
            if why.startswith(reasons):
                lost(lane, why)

        Lane.lost = sometimes  # type: ignore[method-assign,assignment]

    return cut


def _short_idle() -> None:
    """A silent session ends after 3 s instead of 10."""
    for module in (calls, database, lane_module, outbox):
        module.IDLE_SECONDS = 3.0  # type: ignore[attr-defined]


def _late_calls() -> None:
    """A worker never doubts that its calls are its own."""

    def for_ever(_calls: calls.Calls) -> float:
        return 1e6

    calls.Calls._left = for_ever  # type: ignore[method-assign,assignment]


PLANTS: dict[str, Callable[[], None]] = {
    "no_seek_back": _no_seek_back,
    "offsets_first": _offsets_first,
    "no_refill": _no_refill,
    "no_inbox": _no_inbox,
    "relay_forgets_first": _relay_forgets_first,
    "no_order": _no_order,
    "mute_offsets": _mute_offsets,
    "die_after_send": _die_after_send,
    "short_idle": _short_idle,
    "late_calls": _late_calls,
    "only_listener": _only("the connection ended"),
    "only_beat": _only("frozen or closed", "the beat failed"),
    "only_batch": _only("ConnectionDoesNotExist", "InterfaceError", "InternalClientError", "Connection"),
}


def plant(names: str) -> None:
    """Do that to this process: names apart by blanks; "" does nothing."""
    for name in names.split():
        PLANTS[name]()
