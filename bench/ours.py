"""How are the four services brought up for a benchmark? As the demo does it, without what is not measured."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from bench.pipeline import Broken
from contracts.topics import SERVICES
from sandbox.processes import make_processes
from sandbox.stack import Servers, Stack
from sandbox.supervisor import Sandbox

BEGINS = datetime.fromisoformat(
    "2025-02-10T09:00+08:00"
)  # in the window and in the year: who pays is covered at once


class Ours:
    """Four processes under the sandbox's supervisor, traced at 1 % with an exporter, with metrics and
    parking.
    """

    name, prefix = "ours", ""

    def __init__(self, folder: Path, stack: Stack, servers: Servers, otlp: str) -> None:
        changes = {service: {"telemetry": {"sample": 0.01, "otlp": otlp}} for service in SERVICES}
        processes = [p for p in make_processes(folder, stack, changes) if p.name in SERVICES]
        self.sandbox = Sandbox(folder, stack, servers, processes)

    async def up(self) -> None:
        """Start the four; Broken: one does not answer."""
        self.sandbox.start()
        if missing := await self.sandbox.ready():
            raise Broken(f"no answer from {', '.join(missing)}; see {self.sandbox.folder / 'logs'}")

    async def down(self) -> None:
        """End them; what they wrote stays."""
        await self.sandbox.stop()

    def roots(self) -> list[int]:
        """Their processes."""
        return [keeper.pid for keeper in self.sandbox.keepers.values() if keeper.pid]


async def set_clock(db: asyncpg.Connection) -> timedelta:
    """Put every service's business clock to where the benchmark begins; how far it is from the system's."""
    skew = BEGINS - datetime.now(UTC)
    for service in SERVICES:
        await db.execute(f"update {service}.clock set skew = $1", skew)  # noqa: S608 - names of ours
    return skew


async def silence_gateway(db: asyncpg.Connection) -> None:
    """Take the place of notify's gateway worker, for as long as the connection lives: intents stay rows."""
    await db.execute("select pg_advisory_lock(hashtextextended('notify-calls', 0))")


async def until_known(db: asyncpg.Connection, people: int, seconds: float = 60.0) -> None:
    """Until billing, payment and notify have heard of everybody. Raises Broken."""
    end = time.monotonic() + seconds
    while True:
        known = await db.fetchrow(
            "select (select count(*) from billing.identification), (select count(*) from payment.person),"
            " (select count(*) from payment.identification), (select count(*) from notify.addressee)"
        )
        if min(known) >= people:
            return
        if time.monotonic() > end:
            raise Broken(f"of {people} people billing, payment (twice) and notify know {tuple(known)}")
        await asyncio.sleep(0.1)
