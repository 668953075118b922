"""How is the outside asked? Call rows are claimed, sent with no transaction open, and their outcomes arrive
as messages.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

import asyncpg
from msgspec import MsgspecError, Struct
from msgspec.json import Decoder, encode

from contracts.reasons import Reason
from services.chassis import metrics
from services.chassis.arrival import Raw, Unreadable
from services.chassis.batch import Engine
from services.chassis.database import IDLE_SECONDS, holds
from services.chassis.door import Busy, Door
from services.chassis.polling import news
from services.chassis.telemetry import call_span, log
from services.chassis.wire import internal

AT_ONCE = 64           # requests towards providers
LOOK_AHEAD = 512       # rows claimed, in hand
LONGEST_PAUSE = 300.0
LONGEST_PATIENCE = 86_400.0        # that a provider may ask for
# It goes on while this process is frozen, and where there is such a clock while its machine is.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Unknown(Exception):
    """The request may have reached the provider and we can't tell what it did: ask before sending again."""

    outcome = "unknown"


class NotSent(Exception):
    """The provider surely did nothing, so the same request may be sent again. after_seconds: not before, 0 =
    at once.
    """

    outcome = "not sent"

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


class Claim(NamedTuple):
    """A call's row in hand. attempts: how often it was claimed; it tells this claim from later ones."""

    call_id: str
    number: str
    type: str
    payload: bytes
    journey: str
    attempts: int


_CLAIM = """
update call set state = 'CLAIMED', attempts = attempts + 1, claimed_at = now() where id = any(array
  (select id from call where state = 'NEW' and next_at <= now() order by next_at limit $1))
returning id::text, number, type, payload, coalesce(replace(journey::text, '-', ''), ''), attempts"""
_GIVE_BACK = """
update call set state = 'NEW', next_at = now() + make_interval(secs => $3)
where id = $1::uuid and state = 'CLAIMED' and attempts = $2"""


class Calls:
    """The gateway worker of a service: one leader, 64 requests at once.

    A row is CLAIMED and committed before its request goes out. One that is found CLAIMED without us having
    it in hand was in flight when a worker died: its outcome is unknown, and the provider is asked first.

    A frozen leader loses its session after IDLE_SECONDS, and another one takes over its rows. So nothing is
    sent later than that after the leader last spoke with the database: it is looked at before each send, and
    what is under way then is cut off. What is left is a freeze between two steps of one coroutine, from the
    last look to the socket, with nothing waited for in between; then the provider's number must catch it.
    """

    def __init__(self, engine: Engine, gateways: Mapping[type[Struct], Gateway], door: Door) -> None:
        self.engine, self.door = engine, door
        self._gateways = {kind.__name__: (Decoder(kind), gateway) for kind, gateway in gateways.items()}
        self._under_way: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._limits: set[asyncio.Timeout] = set()     # of what is at the provider
        self._db: asyncpg.Connection | None = None
        self._spoke = 0.0

    async def run(self, db: asyncpg.Connection) -> None:
        """Until cancelled or an error; the caller opens a new connection and starts again."""
        while not await self.leads(db):  # noqa: ASYNC110 -- a lock in the database raises no event
            await asyncio.sleep(0.25)
        # Rows live for a second, so that the planner never knows this table. A bitmap visits what is gone
        # again and again; the index, read in its order, forgets them at the first visit.
        await db.execute("set enable_bitmapscan = off; set enable_seqscan = off")
        try:
            await self.take_over(db)
            while True:
                self.engine.calls_changed.clear()
                if not await self._claim():
                    await news(self.engine.calls_changed, 0.5)
        finally:
            for task in self._under_way:
                task.cancel()

    async def leads(self, db: asyncpg.Connection) -> bool:
        """Whether the lock is ours now, on this session."""
        return await holds(db, f"{self.engine.service}-calls")

    async def take_over(self, db: asyncpg.Connection) -> None:
        """What the leader before us had in hand is due again; attempts > 0 says that it may be out."""
        self._db = db
        await self._speak("update call set state = 'NEW' where state = 'CLAIMED'")

    async def _speak(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """A statement on the leader's session: from its begin on the session lives IDLE_SECONDS at least."""
        assert self._db is not None
        began = time.clock_gettime(_CLOCK)
        rows: list[asyncpg.Record] = await self._db.fetch(sql, *args)
        self._spoke = began
        end = asyncio.get_running_loop().time() + self._left()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(end)
        return rows

    def _left(self) -> float:
        """For how many seconds nobody else can have taken over; a fifth is kept for the way to the provider.
        """
        if self._db is None or self._db.is_closed():
            return 0.0
        return self._spoke + 0.8 * IDLE_SECONDS - time.clock_gettime(_CLOCK)

    async def _claim(self) -> int:
        """Take what is due, in large bites: a claim is a commit. Returns how many; 0: nothing is due."""
        room = LOOK_AHEAD - len(self._under_way)
        if room < LOOK_AHEAD // 2:
            await asyncio.wait(self._under_way, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            if self._left() < 0.6 * IDLE_SECONDS:
                await self._speak("select 1")     # hands full, and still there
            return 1
        claims = [Claim(*row) for row in await self._speak(_CLAIM, room)]
        for claim in sorted(claims):     # their ids begin with their time
            task = asyncio.create_task(self._one(claim))
            self._under_way.add(task)
            task.add_done_callback(self._done)
        return len(claims)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("call_lost", error=repr(task.exception())[:300])

    async def _one(self, claim: Claim) -> None:
        """What becomes of a claim: its outcome enters the engine, or it is given back, or parked for good."""
        head = (("journey", claim.journey.encode()),)
        raw = Raw("call", None, None, claim.number.encode(), head, claim.payload, int(time.time() * 1000))
        try:
            outcome = await self._outcome(claim, raw)
            if isinstance(outcome, Unreadable):
                await self.door.enter(outcome)
                return
            arrival = internal(self.door.subscriptions.by_type[type_of(outcome)],
                               raw._replace(value=encode(outcome)))
            arrival.call_id = claim.call_id
            await self.door.enter(arrival)
        except (Unknown, NotSent, Busy) as why:
            await self._again(claim, why, getattr(why, "after_seconds", 0.0))
        except Exception as bug:  # noqa: BLE001 -- a gateway's bug costs this call a pause, never the worker
            log.error("call_failed", type=claim.type, error=repr(bug)[:300])
            await self._again(claim, bug, LONGEST_PAUSE)

    async def _outcome(self, claim: Claim, raw: Raw) -> Struct | Unreadable:
        """What the provider says; Unreadable: nobody knows what to send. Raises Unknown, NotSent."""
        if claim.type not in self._gateways:
            return Unreadable(raw, Reason.TYPE_UNKNOWN, claim.type, claim.type, call_id=claim.call_id)
        decoder, gateway = self._gateways[claim.type]
        try:
            request = decoder.decode(claim.payload)
        except MsgspecError as error:
            detail = str(error)[:300]
            return Unreadable(raw, Reason.BODY_INVALID, detail, claim.type, call_id=claim.call_id)
        async with self._at_once, self._while_ours():
            with call_span(claim.journey, claim.type, claim.number, claim.attempts):
                outcome = await gateway.ask(request) if claim.attempts > 1 else None
                if outcome is not None:
                    return outcome
                if self._left() <= 0:
                    raise NotSent("another worker may have it by now")
                sent: Struct = await gateway.send(request)
                return sent

    @asynccontextmanager
    async def _while_ours(self) -> AsyncIterator[None]:
        """Cut off when the session may be gone: a thaw runs time-outs before it goes on with what waited.
        Raises Unknown.
        """
        limit = asyncio.timeout(self._left())
        try:
            async with limit:
                self._limits.add(limit)
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Unknown("another worker may have it by now") from error
        finally:
            self._limits.discard(limit)

    async def _again(self, claim: Claim, why: Exception, at_least: float) -> None:
        """The row is free again after a pause that grows; the next attempt asks before it sends."""
        growing = min(LONGEST_PAUSE, 0.5 * 2 ** min(claim.attempts, 10))
        pause = max(growing, min(LONGEST_PATIENCE, at_least))     # an instant that Postgres knows
        metrics.call_failed(self.engine.service, claim.type, unknown=isinstance(why, Unknown))
        log.warning("call_again", type=claim.type, attempts=claim.attempts, why=str(why)[:200])
        await self.door.later(_GIVE_BACK, claim.call_id, claim.attempts, pause)


def type_of(message: Struct) -> str:
    """How an internal message is named: by its class."""
    return type(message).__name__
