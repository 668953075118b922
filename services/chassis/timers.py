"""When is it time? Jobs whose business instant has come enter the engine; the sandbox may move the clock
forward.
"""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg

from services.chassis import metrics
from services.chassis.arrival import Arrival, Raw
from services.chassis.batch import Engine
from services.chassis.subscriptions import Subscriptions
from services.chassis.wire import internal

AT_MOST = 1000
# how often messages that await their ground are tried again without anybody touching it
SWEEP_SECONDS = 5.0
AWAITS_SECONDS = 30
_DUE = """
select id::text, run_at, type, payload from job
where run_at = (select min(run_at) from job where run_at <= $1) order by id limit $2"""


class Timers:
    """One loop a service process: every batch holds jobs of one instant, and that instant is its now.

    Two members may read the same job; the delete under its refs' locks lets one of them have it.
    """

    def __init__(self, engine: Engine, subscriptions: Subscriptions) -> None:
        self.engine, self.subscriptions = engine, subscriptions

    async def run(self, db: asyncpg.Connection) -> None:
        """Until cancelled or an error; the caller opens a new connection and starts again."""
        swept = 0.0
        loop = asyncio.get_running_loop()
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
            try:
                await asyncio.wait_for(self.engine.timers_changed.wait(), pause)
            except TimeoutError:
                pass

    async def fire(self, db: asyncpg.Connection, until: datetime) -> int:
        """Run the jobs of the earliest due instant. Returns how many; 0: none is due by then."""
        rows = await db.fetch(_DUE, until, AT_MOST)
        if rows:
            metrics.timer_ran(self.engine.service, (until - rows[0][1]).total_seconds())
            await self.engine.run(db, [self._arrival(*row) for row in rows])
        return len(rows)

    async def advance(self, db: asyncpg.Connection, to: datetime) -> None:
        """Move the business clock forward to an instant, from due time to due time. It never goes back."""
        while True:
            due = await db.fetchval("select min(run_at) from job where run_at <= $1", to)
            await self._set(db, due if due is not None else to)
            if due is None or not await self.fire(db, due):
                break
        await self._set(db, to)

    async def sweep(self, db: asyncpg.Connection) -> None:
        """Try again what awaits its ground for long: its handler may decide that the ground will not come."""
        if self.engine.halt.declared:
            return  # the ground may stand unread in a topic
        rows = await db.fetch(
            "select seq from parked where state = 'AWAITS' and at < now() - make_interval(secs => $1)"
            " order by seq limit 100",
            AWAITS_SECONDS,
        )
        await self.engine.wake(db, [row[0] for row in rows])

    async def _now(self, db: asyncpg.Connection) -> datetime:
        skew: timedelta = await db.fetchval("select skew from clock")
        return datetime.now(UTC) + skew

    async def _set(self, db: asyncpg.Connection, to: datetime) -> None:
        await db.execute("update clock set skew = $1 where skew < $1", to - datetime.now(UTC))

    def _arrival(self, job_id: str, run_at: datetime, type: str, payload: bytes) -> Arrival:
        subscription = self.subscriptions.by_type[type]
        raw = Raw("timer", None, None, None, (), payload, int(datetime.now(UTC).timestamp() * 1000))
        arrival = internal(subscription, raw)
        arrival.job_id, arrival.time = job_id, run_at.isoformat()
        return arrival
