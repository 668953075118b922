"""Which protections can be taken out of the engine? Each must then be missed, or the harness is blind."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg

from services.chassis import attempt
from services.chassis.arrival import Arrival
from services.chassis.lane import Lane, Runs
from services.chassis.outbox import Relay
from services.chassis.refs import waves


def _no_seek_back() -> None:
    """A failed batch is left behind; the next one's offsets pass over it."""

    def stay(_lane: Lane, _runs: Runs) -> None:
        return None

    Lane._seek_back = stay  # type: ignore[method-assign,assignment]


def _offsets_first() -> None:
    """Offsets go out before the database has the batch, and nobody compares them; a kill loses it."""
    work = Lane._work

    async def early(lane: Lane, runs: Runs) -> int | None:
        lane.pending |= {partition: run[-1].offset + 1 for partition, run in runs.items()}
        await lane.flush()
        return await work(lane, runs)

    async def unwatched(_lane: Lane) -> dict[tuple[str, int], int]:
        return {}

    Lane._work = early  # type: ignore[method-assign,assignment]
    Lane._progress = unwatched  # type: ignore[method-assign,assignment]


def _no_inbox() -> None:
    """Nobody asks whether a fact was handled before."""

    async def all_new(_tx: object, arrivals: list[Arrival], *, ask_which: bool) -> list[Arrival]:
        return arrivals

    attempt.drop_seen = all_new  # type: ignore[attr-defined,assignment]


def _relay_forgets_first() -> None:
    """Batches are taken off `unsent` before they are sent."""
    send = Relay._send

    async def turn(relay: Relay, connection: asyncpg.Connection) -> int:
        rows = await connection.fetch("delete from unsent returning batch_id, at")
        said: list[Any] = []
        for batch_id, at in sorted(rows):
            said += await relay._read(connection, batch_id, at)
        await asyncio.sleep(0.05)       # the window in which a kill loses them, a little wider
        await send(relay, said)
        return len(rows)

    Relay.turn = turn  # type: ignore[method-assign,assignment]


def _no_order() -> None:
    """Messages that share a ref run in one call, last first."""

    def one_wave(items: list[Arrival]) -> list[list[Arrival]]:
        return [[item for wave in reversed(waves(items)) for item in wave]] if items else []

    attempt.waves = one_wave  # type: ignore[attr-defined,assignment]


PLANTS: dict[str, Callable[[], None]] = {
    "no_seek_back": _no_seek_back,
    "offsets_first": _offsets_first,
    "no_inbox": _no_inbox,
    "relay_forgets_first": _relay_forgets_first,
    "no_order": _no_order,
}


def plant(name: str) -> None:
    """Take that protection out of this process; "" takes none."""
    if name:
        PLANTS[name]()
