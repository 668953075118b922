"""What is there to do, and does what must hold? Asked of the database itself, by its administrator."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import asyncpg

from cli.invariants import INVARIANTS, Invariant
from services.chassis.provision import SCHEMAS
from tests.simulation.lines import SimConnection

AWAITS_SECONDS = 30


def _work(service: str) -> str:
    s = service
    return f"""
select '{s}', (select count(*) from {s}.unsent), (select min(run_at) from {s}.job),
       (select min(next_at) from {s}.call where state = 'NEW'), (select count(*) from {s}.call),
       (select min(at) from {s}.parked where state = 'AWAITS'),
       (select count(*) from {s}.parked
        where state in ('PARKED', 'BEHIND') or reason = 'ID_FROM_FUTURE' and key <> 'nobody'),
       (select count(*) from {s}.halt), (select skew from {s}.clock)"""


_WORK = " union all ".join(map(_work, SCHEMAS))


class Work(NamedTuple):
    """What stands in the tables of one service."""

    unsent: int = 0
    next_job: datetime | None = None
    next_call: datetime | None = None
    calls: int = 0
    awaits_since: datetime | None = None
    parked: int = 0
    halted: int = 0
    skew: timedelta = timedelta()


class Truth:
    """What the tables say after the last step. leaders: who holds the lock on which session."""

    def __init__(self, monitor: asyncpg.Connection) -> None:
        self._monitor = monitor
        self.work: dict[str, Work] = dict.fromkeys(SCHEMAS, Work())
        self.leaders: dict[str, SimConnection] = {}
        self.now = datetime.min.replace(tzinfo=UTC)

    async def look(self, now: datetime) -> None:
        """Again. now: by the system clock, which the database is told."""
        if now != self.now:
            self.now = now
            await self._monitor.execute("update sim.clock set at = $1", now)
        for service, *what in await self._monitor.fetch(_WORK):
            self.work[service] = Work(*what)

    def unsent(self, service: str) -> int:
        """Batches that the relay has to send."""
        return self.work[service].unsent

    def halted(self, service: str) -> bool:
        """Whether the row stands."""
        return self.work[service].halted > 0

    def is_due(self, service: str) -> bool:
        """Whether a timer's instant has come."""
        work = self.work[service]
        return work.next_job is not None and work.next_job <= self.now + work.skew and not work.halted

    def awaits(self, service: str) -> bool:
        """Whether something has awaited its ground for so long that the sweep tries it."""
        since = self.work[service].awaits_since
        return since is not None and since < self.now - timedelta(seconds=AWAITS_SECONDS)

    def has_calls(self, service: str) -> bool:
        """Whether one is due."""
        at = self.work[service].next_call
        return at is not None and at <= self.now

    def is_free(self, name: str) -> bool:
        """Whether nobody holds this session lock."""
        return name not in self.leaders or self.leaders[name].leads != name

    def next_instant(self, until: datetime) -> datetime | None:
        """When something becomes due that is not yet, before `until`; by the system clock."""
        instants = []
        for work in self.work.values():
            if work.next_job is not None:
                instants.append(work.next_job - work.skew)
            if work.next_call is not None:
                instants.append(work.next_call)
            if work.awaits_since is not None:
                instants.append(max(work.awaits_since + timedelta(seconds=AWAITS_SECONDS + 1),
                                    self.now + timedelta(seconds=60)))
        return min((at for at in instants if self.now < at < until), default=None)

    async def wrong(self, services: set[str], *, quiet: bool = False) -> list[str]:
        """Which invariants do not hold. services: whose tables were touched. quiet: those too that hold only
        when all is done.
        """
        found = []
        for invariant in INVARIANTS:
            if (quiet or not invariant.quiet) and _touches(invariant, services):
                rows = await self._monitor.fetch(f"select * from ({invariant.sql}) broken limit 3")
                found += [f"{invariant.id} {invariant.says}: {row[0]}" for row in rows]
        return found


def _touches(invariant: Invariant, services: set[str]) -> bool:
    return any(f"{service}." in invariant.sql for service in services)
