"""When is it time? Jobs whose business instant has come enter the engine; the sandbox may move the clock
forward.
"""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg

from services.chassis import metrics
from services.chassis.arrival import Arrival, Raw, Unreadable
from services.chassis.batch import FAILURES_BEFORE_HALVES, Engine
from services.chassis.database import ATTEMPT_SECONDS, is_broken
from services.chassis.halt import Halted
from services.chassis.polling import news
from services.chassis.telemetry import batch_span

AT_MOST = 1000
# how often messages that await their ground are tried again without anybody touching it
SWEEP_SECONDS = 5.0
AWAITS_SECONDS = 30
SWEPT_AT_MOST = 100
# `id` alone would be the text, by which no index is sorted: a new year's first instant has a million timers.
_DUE = """
select id::text, run_at, type, payload, coalesce(replace(journey::text, '-', ''), '') from job
where run_at <= $1 order by run_at, job.id limit $2"""
_AWAITS = """
select seq from parked where state = 'AWAITS' and at < now() - make_interval(secs => $1) and seq > $2
order by seq limit $3"""


class Timers:
    """One loop a service process: a batch holds what is due, in the order of its instants, each timer with
    its own instant as its now. One that is set meanwhile for an instant gone by comes with the next batch.

    Two members may read the same job; the delete under its refs' locks lets one of them have it.
    """

    deadline_seconds = ATTEMPT_SECONDS

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._failures = self._sweeps_failed = 0
        self._swept_to = 0      # what nobody can read stays in its place, and must not hide the rest

    async def run(self, db: asyncpg.Connection) -> None:
        """Until cancelled or an error; the caller opens a new connection and starts again."""
        swept = 0.0
        loop = asyncio.get_running_loop()
        # As for calls: of a table that is often empty the planner would rather collect all that is due.
        await db.execute("set enable_bitmapscan = off")
        while True:
            self.engine.timers_changed.clear()
            now = await self._now(db)
            if await self.fire(db, now):
                continue
            if loop.time() - swept > SWEEP_SECONDS:
                swept = loop.time()
                await self.sweep(db)
            next_at = await db.fetchval("select min(run_at) from job")
            pause = 1.0 if next_at is None else min(1.0, max(0.0, (next_at - now).total_seconds()))
            await news(self.engine.timers_changed, pause)

    async def fire(self, db: asyncpg.Connection, until: datetime) -> int:
        """Run the jobs that are due by an instant, the earliest first. Returns how many; 0: none is left."""
        rows = await db.fetch(_DUE, until, AT_MOST)
        if not rows:
            return 0
        metrics.timer_ran(self.engine.service, (until - rows[0][1]).total_seconds())
        come = [self._come(*row) for row in rows]
        arrivals = [what for what in come if isinstance(what, Arrival)]
        unreadable = [what for what in come if isinstance(what, Unreadable)]
        try:
            with batch_span(self.engine.service, "timers", len(arrivals)):
                await self.engine.run_within(
                    db, arrivals, unreadable, seconds=self.deadline_seconds, failures=self._failures
                )
        except (Exception, asyncio.CancelledError) as error:
            self._failures = _counted(self._failures, error, db)
            raise
        self._failures = 0
        return len(rows)

    async def advance(self, db: asyncpg.Connection, to: datetime) -> datetime:
        """Move the business clock forward to an instant, from due time to due time. It never goes back.
        Returns what it says then.
        """
        while (due := await db.fetchval("select min(run_at) from job where run_at <= $1", to)) is not None:
            await self._set(db, due)
            await self.fire(db, due)     # or somebody else did meanwhile
        await self._set(db, to)
        return await self._now(db)

    async def sweep(self, db: asyncpg.Connection) -> None:
        """Try again what awaits its ground for long: its handler may decide that the ground will not come.
        After five sweeps that did not come through, what never ends is parked.
        """
        if self.engine.halt.declared:
            return  # the ground may stand unread in a topic
        rows = await db.fetch(_AWAITS, AWAITS_SECONDS, self._swept_to, SWEPT_AT_MOST)
        seqs = [row[0] for row in rows]
        apart = self._sweeps_failed >= FAILURES_BEFORE_HALVES
        try:
            await self.engine.wake(db, seqs, self.deadline_seconds, apart=apart)
        except (Exception, asyncio.CancelledError) as error:
            self._sweeps_failed = _counted(self._sweeps_failed, error, db)
            raise
        self._sweeps_failed = 0
        self._swept_to = seqs[-1] if len(seqs) == SWEPT_AT_MOST else 0

    async def _now(self, db: asyncpg.Connection) -> datetime:
        skew: timedelta = await db.fetchval("select skew from clock")
        return datetime.now(UTC) + skew

    async def _set(self, db: asyncpg.Connection, to: datetime) -> None:
        await db.execute("update clock set skew = $1 where skew < $1", to - datetime.now(UTC))

    def _come(
        self, job_id: str, run_at: datetime, type: str, payload: bytes, journey: str
    ) -> Arrival | Unreadable:
        head = (("run_at", run_at.isoformat().encode()), ("journey", journey.encode()))
        raw = Raw("timer", None, None, None, head, payload, int(datetime.now(UTC).timestamp() * 1000))
        come = self.engine.reader.own(raw, type)
        if isinstance(come, Unreadable):
            return come._replace(job_id=job_id)
        come.job_id = job_id
        return come


def _counted(failures: int, error: BaseException, db: asyncpg.Connection) -> int:
    """How many failures it makes though the database answers: a lost connection is no batch's fault."""
    return 0 if isinstance(error, Halted) else failures + (not is_broken(error) and not db.is_closed())
