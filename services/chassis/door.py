"""How does one caller get in? Concurrent requests are handled as one batch (group commit), each with its own
answer.
"""

import asyncio
import time
from typing import Any

import asyncpg
from msgspec import Struct
from msgspec.json import encode

from services.chassis.arrival import Arrival, Raw, Unreadable
from services.chassis.batch import Engine
from services.chassis.database import ATTEMPT_SECONDS, is_broken
from services.chassis.halt import Halted
from services.chassis.subscriptions import Subscriptions
from services.chassis.telemetry import batch_span
from services.chassis.wire import internal

AT_MOST = 1000
TRIES_REMEMBERED = 10_000
PATIENCE_SECONDS = 3.0
Waiting = tuple[Arrival | Unreadable, asyncio.Future[None]]


class Busy(Exception):
    """The database is not there; the caller tries again later, nothing was kept."""


def _identity(arrival: Arrival) -> object:
    """By what a message is known when it comes again; a callback by its words."""
    return arrival.request or arrival.call_id or (arrival.type, arrival.raw.value)


class Door:
    """The engine's entrance for single messages: HTTP commands, providers' callbacks, outcomes of calls.

    Whoever knocks comes again by himself when he is told Busy. What was in a batch that did not end is tried
    apart from then on, so that it takes nobody along, and after five times it is parked.
    """

    deadline_seconds = ATTEMPT_SECONDS

    def __init__(self, engine: Engine, subscriptions: Subscriptions) -> None:
        self.engine, self.subscriptions = engine, subscriptions
        self._waiting: list[Waiting] = []
        self._apart: list[Waiting] = []         # those that were in a batch that did not end, one at a time
        self._tries: dict[object, int] = {}     # in how many of such batches a message was
        self._statements: list[tuple[str, tuple[Any, ...]]] = []
        self._work = asyncio.Event()

    async def run(self, db: asyncpg.Connection) -> None:
        """Handle whatever waits, all of it at once, until cancelled or an error."""
        self._work.set()
        while True:
            await self._work.wait()
            self._work.clear()
            while self._statements:
                sql, args = self._statements[0]
                await db.execute(sql, *args)
                del self._statements[0]  # only now: a broken connection leaves it for the next one
            while self._waiting or self._apart:
                batch, self._waiting = self._waiting[:AT_MOST], self._waiting[AT_MOST:]
                if batch:
                    await self._handle(db, batch)
                if self._apart:
                    await self._handle(db, [self._apart.pop(0)])

    async def _handle(self, db: asyncpg.Connection, batch: list[Waiting]) -> None:
        arrivals = [what for what, _ in batch if isinstance(what, Arrival)]
        unreadable = [what for what, _ in batch if isinstance(what, Unreadable)]
        known = [_identity(arrival) for arrival in arrivals]
        failures = max((self._tries.get(each, 0) for each in known), default=0)
        trouble: BaseException | None = None
        try:
            with batch_span(self.engine.service, "door", len(arrivals)):
                await self.engine.run_within(
                    db, arrivals, unreadable, seconds=self.deadline_seconds, failures=failures
                )
            for each in known if self._tries else ():
                self._tries.pop(each, None)
        except BaseException as error:
            trouble = Busy(f"{type(error).__name__}: {error}")
            if not isinstance(error, Halted) and not is_broken(error) and not db.is_closed():
                self._remember(known)
            raise
        finally:
            for done in (done for _, done in batch if not done.done()):
                done.set_exception(trouble) if trouble else done.set_result(None)

    def _remember(self, known: list[object]) -> None:
        for each in known:
            self._tries[each] = self._tries.pop(each, 0) + 1
        while len(self._tries) > TRIES_REMEMBERED:
            del self._tries[next(iter(self._tries))]

    async def enter(self, what: Arrival | Unreadable) -> None:
        """Through the engine with the next batch. Returns when it is committed: done, or parked. Raises Busy:
        also when nobody has taken it up within the patience.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        suspect = isinstance(what, Arrival) and _identity(what) in self._tries
        queue = self._apart if suspect else self._waiting
        queue.append((what, done))
        self._work.set()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.shield(done)
        except TimeoutError:
            queue = self._apart if suspect else self._waiting
            if (what, done) in queue:
                queue.remove((what, done))
                raise Busy("the database does not answer") from None
            await done  # it is being handled, and that has its own deadline

    async def later(self, sql: str, *args: Any) -> None:
        """One small statement of the engine's own on the door's connection."""
        self._statements.append((sql, args))
        self._work.set()

    async def tell(self, message: Struct) -> None:
        """An internal message (a provider's verified word) through the engine: when this returns it is kept.
        Raises Busy.
        """
        subscription = self.subscriptions.by_type[type(message).__name__]
        raw = Raw("door", None, None, None, (), encode(message), int(time.time() * 1000))
        await self.enter(internal(subscription, raw))

