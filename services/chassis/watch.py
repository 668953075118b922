"""What does a running service look at by itself, each second, and when does it raise an alarm?"""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg

from services.chassis import metrics
from services.chassis.halt import Halt
from services.chassis.lane import Lane
from services.chassis.partitions import months_ahead
from services.chassis.telemetry import log

LOOK_SECONDS = 1.0
MONTHS_SECONDS = 3600.0     # how often the partitions are counted
ALARM_SECONDS = 600.0       # an alarm that goes on is said again so often
LONGEST_WAIT_SECONDS = 600.0
_UNSENT = "select count(*), coalesce(extract(epoch from now() - min(at)), 0)::float from unsent"
_OPEN = """
select count(*) filter (where state = 'PARKED'), count(*) filter (where state = 'BEHIND'),
       count(*) filter (where state = 'AWAITS'),
       coalesce(extract(epoch from now() - min(first_at) filter (where state = 'AWAITS')), 0)::float
from parked where state <> 'QUARANTINED'"""


class Watch:
    """Two loops. beat: does the event loop come round? look: what stands in the database and in the lanes?"""

    def __init__(self, service: str, halt: Halt, lanes: Sequence[Lane]) -> None:
        self.service, self.halt, self.lanes = service, halt, lanes
        self.beat_at = time.monotonic()
        self._said: dict[str, float] = {}

    async def beat(self) -> None:
        """Needs nothing but the loop: an outage of the database is none of the process."""
        while True:
            self.beat_at = time.monotonic()
            for lane in self.lanes:
                waiting = lane.waiting()
                metrics.lag(self.service, lane.name, waiting.records, waiting.seconds)
            metrics.broker(self.service, any(lane.broker_up() for lane in self.lanes))
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, db: asyncpg.Connection) -> None:
        """Until cancelled or an error; the caller opens a new connection and starts again."""
        counted_at = 0.0
        while True:
            await self.halt.read(db)
            metrics.halted(self.service, self.halt.declared)
            metrics.outbox(self.service, *await db.fetchrow(_UNSENT))
            await self._look_at_parked(db)
            if time.monotonic() - counted_at > MONTHS_SECONDS or not counted_at:
                counted_at = time.monotonic()
                await self._look_at_months(db, datetime.now(UTC))
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_at_parked(self, db: asyncpg.Connection) -> None:
        parked, behind, awaits, oldest_seconds = await db.fetchrow(_OPEN)
        metrics.stands_aside(self.service, parked=parked, behind=behind, awaits=awaits)
        metrics.awaits(self.service, oldest_seconds)
        if oldest_seconds > LONGEST_WAIT_SECONDS:
            self._alarm("awaits_too_long", messages=awaits, oldest_seconds=round(oldest_seconds))

    async def _look_at_months(self, db: asyncpg.Connection, now: datetime) -> None:
        ahead = await months_ahead(db, self.service, now=now)
        metrics.months_ahead(self.service, ahead)
        if ahead < 1:
            self._alarm("next_month_missing", month=f"{now:%Y-%m}")

    def _alarm(self, event: str, **fields: object) -> None:
        """One line, and not again before ten minutes have passed."""
        if time.monotonic() - self._said.get(event, -ALARM_SECONDS) >= ALARM_SECONDS:
            self._said[event] = time.monotonic()
            log.error(event, **fields)
