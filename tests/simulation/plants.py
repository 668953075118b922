"""Which protections can be taken out of the engine, so that the simulation must miss them? In one test."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import pytest
from aiokafka import TopicPartition

from contracts.operations import Republish
from services.chassis import attempt, relay
from services.chassis.arrival import Arrival
from services.chassis.attempt import Attempt
from services.chassis.batch import Engine
from services.chassis.door import Door
from services.chassis.lag import Runs
from services.chassis.lane import Lane
from services.chassis.operators import Operators
from services.chassis.outbox import Said
from services.chassis.relay import AT_MOST, Relay

Patch = pytest.MonkeyPatch


def inbox_unasked(patch: Patch) -> None:
    """Facts enter the inbox, and what was there already is handled all the same."""
    async def enter(tx: Any, arrivals: list[Arrival], *, ask_which: bool) -> list[Arrival]:
        assert not ask_which
        ids = sorted({a.event_id for a in arrivals if a.event_id is not None and not a.seen})
        await tx.execute("insert into inbox(ce_id) select unnest($1::uuid[]) on conflict do nothing", ids)
        return arrivals

    patch.setattr(attempt, "drop_seen", enter)


def no_locks(patch: Patch) -> None:
    """Nothing is locked before it is looked at."""
    lock = Attempt.lock

    async def nothing(run: Attempt, tx: Any, _: object) -> None:
        await lock(run, tx, ())

    patch.setattr(Attempt, "lock", nothing)


def relay_by_highest(patch: Patch) -> None:
    """The relay remembers how far it was, instead of what is unsent."""
    async def turn(relay: Any, db: Any) -> int:
        high = getattr(relay, "high", 0)
        later = "select batch_id, at from unsent where batch_id > $1 order by batch_id limit $2"
        rows = await db.fetch(later, high, AT_MOST)
        said: list[Said] = []
        for batch_id, at in rows:
            said += relay.memory.take(batch_id) or await relay._read(db, batch_id, at)
            relay.high = batch_id
        await relay._send(said)
        await db.execute("delete from unsent where batch_id <= $1", getattr(relay, "high", 0))
        return len(said)

    patch.setattr(Relay, "turn", turn)


def relay_forgets_first(patch: Patch) -> None:
    """What is to be sent is taken off before it is sent."""
    async def turn(relay: Any, db: Any) -> int:
        said: list[Said] = []
        for batch_id, at in await db.fetch("delete from unsent returning batch_id, at"):
            said += await relay._read(db, batch_id, at)
        await relay._send(said)
        return len(said)

    patch.setattr(Relay, "turn", turn)


def offsets_first(patch: Patch) -> None:
    """Offsets go out before the work is done, nothing is sought back, and nobody compares."""
    work = Lane._work

    async def early(lane: Lane, runs: Runs) -> int | None:
        lane.pending |= {partition: run[-1].offset + 1 for partition, run in runs.items()}
        await lane.flush()
        return await work(lane, runs)

    async def unwatched(_lane: Lane, _assigned: set[TopicPartition]) -> None:
        return None

    patch.setattr(Lane, "_work", early)
    patch.setattr(Lane, "_compare", unwatched)


def stops_untold(patch: Patch) -> None:
    """A lane that is told to stop takes nothing more, and keeps the offsets of what it has done to itself."""
    async def stop(lane: Lane) -> None:
        lane.stopping = True

    patch.setattr(Lane, "last_flush", stop)


def clings(patch: Patch) -> None:
    """A lane keeps its connection for ever, also one that is gone."""
    def keep(_lane: Lane, _why: str) -> None:
        return None

    patch.setattr(Lane, "lost", keep)


def relay_waits_little(patch: Patch) -> None:
    """Whose answer takes longer than three seconds counts as sent."""
    async def send(_db: Any, sending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(sending)
        await asyncio.wait({task}, timeout=3.0)
        task.cancel()

    patch.setattr(relay, "while_beating", send)


def door_keeps(patch: Patch) -> None:
    """Who knocks waits until somebody has time."""
    async def enter(it: Door, what: Any) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        it._waiting.append((what, done))
        it._work.set()
        await done

    patch.setattr(Door, "enter", enter)


def parking_gives_up(patch: Patch) -> None:
    """What cannot be parked is let go."""
    park = Engine._park

    async def drop(it: Engine, db: Any, arrival: Arrival, error: BaseException) -> None:
        try:
            await park(it, db, arrival, error)
        except asyncpg.DiskFullError:
            pass

    patch.setattr(Engine, "_park", drop)


def republish_says_yes(patch: Patch) -> None:
    """An operator's order to say all again is answered, and nothing is said."""
    do = Operators._do

    async def answer(lane: Operators, db: Any, order: Any) -> Any:
        return {"batches": 0} if isinstance(order, Republish) else await do(lane, db, order)

    patch.setattr(Operators, "_do", answer)


PLANTS: tuple[Callable[[Patch], None], ...] = (
    inbox_unasked, no_locks, relay_by_highest, relay_forgets_first, offsets_first, stops_untold, clings,
    relay_waits_little, door_keeps, parking_gives_up,
)  # fmt: skip
