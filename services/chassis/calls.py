"""How is the outside asked? Call rows are claimed, sent with no transaction open, and their outcomes arrive
as messages.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Protocol

import asyncpg
from msgspec import Struct
from msgspec.json import Decoder, encode

from services.chassis import metrics
from services.chassis.arrival import Raw
from services.chassis.batch import Engine
from services.chassis.door import Busy, Door
from services.chassis.subscriptions import Subscriptions
from services.chassis.telemetry import log
from services.chassis.wire import internal

AT_ONCE = 64           # requests towards providers
LOOK_AHEAD = 512       # rows claimed, in hand
LONGEST_PAUSE = 300.0


class Unknown(Exception):
    """The request may have reached the provider and we can't tell what it did: ask before sending again."""


class NotSent(Exception):
    """The provider surely did nothing, so the same request may be sent again. after_seconds: not before, 0 =
    at once.
    """

    def __init__(self, why: str, *, after_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds


class Gateway(Protocol):
    """A provider, as the worker needs it. Both raise Unknown or NotSent; neither decides anything.

    request: of the classes that the service maps to this gateway. One that is an async context manager is
    entered at start.
    """

    async def send(self, request: Any) -> Struct:
        """Do it; the outcome is a message that the service handles."""
        ...

    async def ask(self, request: Any) -> Struct | None:
        """What became of an earlier send? None: the provider does not know it, so it may be sent (again)."""
        ...


class Calls:
    """The gateway worker of a service: one leader, 64 requests at once.

    A row is CLAIMED and committed before its request goes out. One that is found CLAIMED without us having
    it in hand was in flight when a worker died: its outcome is unknown, and the provider is asked first.
    """

    def __init__(
        self,
        engine: Engine,
        subscriptions: Subscriptions,
        gateways: Mapping[type[Struct], Gateway],
        door: Door,
    ) -> None:
        self.engine, self.subscriptions, self.door = engine, subscriptions, door
        self._gateways = {kind.__name__: (Decoder(kind), gateway) for kind, gateway in gateways.items()}
        self._under_way: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def run(self, db: asyncpg.Connection) -> None:
        """Until cancelled or an error; the caller opens a new connection and starts again."""
        service = self.engine.service
        while not await db.fetchval(  # noqa: ASYNC110 -- a lock in the database raises no event
            "select pg_try_advisory_lock(hashtextextended($1, 0))", f"{service}-calls"
        ):
            await asyncio.sleep(0.25)
        try:
            # attempts > 0 says that it may be out
            await db.execute("update call set state = 'NEW' where state = 'CLAIMED'")
            while True:
                self.engine.calls_changed.clear()
                if not await self._claim(db):
                    try:
                        await asyncio.wait_for(self.engine.calls_changed.wait(), 0.5)
                    except TimeoutError:
                        pass
        finally:
            for task in self._under_way:
                task.cancel()

    async def _claim(self, db: asyncpg.Connection) -> int:
        """Take what is due, in large bites: a claim is a commit. Returns how many; 0: nothing is due."""
        room = LOOK_AHEAD - len(self._under_way)
        if room < LOOK_AHEAD // 2:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            return 1
        rows = await db.fetch(
            "update call set state = 'CLAIMED', attempts = attempts + 1, claimed_at = now() where id in"
            " (select id from call where state = 'NEW' and next_at <= now() order by next_at limit $1)"
            " returning id::text, type, payload, attempts",
            room,
        )
        for row in rows:
            task = asyncio.create_task(self._one(*row))
            self._under_way.add(task)
            task.add_done_callback(self._done)
        return len(rows)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("call_lost", error=repr(task.exception())[:300])

    async def _one(self, call_id: str, type: str, payload: bytes, attempts: int) -> None:
        decoder, gateway = self._gateways[type]
        request = decoder.decode(payload)
        try:
            async with self._at_once:
                outcome = await gateway.ask(request) if attempts > 1 else None
                if outcome is None:
                    outcome = await gateway.send(request)
            subscription = self.subscriptions.by_type[type_of(outcome)]
            arrival = internal(
                subscription, Raw("call", None, None, None, (), encode(outcome), int(time.time() * 1000))
            )
            arrival.call_id = call_id
            await self.door.enter(arrival)
        except (Unknown, NotSent, Busy) as why:
            await self._again(call_id, type, attempts, why, getattr(why, "after_seconds", 0.0))
        except Exception as bug:  # noqa: BLE001 -- a gateway's bug costs this call a pause, never the worker
            log.error("call_failed", type=type, error=repr(bug)[:300])
            await self._again(call_id, type, attempts, bug, LONGEST_PAUSE)

    async def _again(self, call_id: str, type: str, attempts: int, why: Exception, at_least: float) -> None:
        """The row is free again after a pause that grows; the next attempt asks before it sends."""
        pause = max(at_least, min(LONGEST_PAUSE, 0.5 * 2 ** min(attempts, 10)))
        metrics.call_failed(self.engine.service, type, unknown=isinstance(why, Unknown))
        log.warning("call_again", type=type, attempts=attempts, why=str(why)[:200])
        await self.door.later(
            "update call set state = 'NEW', next_at = now() + make_interval(secs => $2) where id = $1::uuid",
            call_id,
            pause,
        )


def type_of(message: Struct) -> str:
    """How an internal message is named: by its class."""
    return type(message).__name__
