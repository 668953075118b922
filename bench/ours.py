"""How are the four services brought up for a benchmark? As the demo does it, without what is not measured."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import msgspec
from msgspec.structs import replace

from bench.pipeline import Broken
from contracts.topics import SERVICES
from sandbox.ports import Ports, write_private
from sandbox.processes import Process, make_processes
from sandbox.stack import Servers, Stack
from sandbox.supervisor import Sandbox

BEGINS = datetime.fromisoformat(
    "2025-02-10T09:00+08:00"
)  # in the window and in the year: who pays is covered at once


class Ours:
    """Four processes under the sandbox's supervisor, traced at 1 % with an exporter, with metrics and
    parking.

    otlp: "" for no traces at all. members: processes of each service.
    """

    name, prefix = "ours", ""

    def __init__(self, folder: Path, stack: Stack, servers: Servers, otlp: str, *, members: int = 1) -> None:
        sample = 0.01 if otlp else 0.0
        changes = {service: {"telemetry": {"sample": sample, "otlp": otlp}} for service in SERVICES}
        processes = [p for p in make_processes(folder, stack, changes) if p.name in SERVICES]
        others = [_member(folder, p, number) for p in processes for number in range(1, members)]
        self.sandbox = Sandbox(folder, stack, servers, processes + others)

    async def up(self) -> None:
        """Start the four; Broken: one does not answer."""
        self.sandbox.start()
        if missing := await self.sandbox.ready():
            raise Broken(f"no answer from {', '.join(missing)}; see {self.sandbox.folder / 'logs'}")

    async def down(self) -> None:
        """End them; what they wrote stays."""
        await self.sandbox.stop()

    def pids(self) -> dict[str, int]:
        """Their processes, by name, that run now."""
        return {name: keeper.pid for name, keeper in self.sandbox.keepers.items() if keeper.pid}

    def roots(self) -> list[int]:
        """Their processes."""
        return list(self.pids().values())


def _member(folder: Path, first: Process, number: int) -> Process:
    """Another process of the same service."""
    name = f"{first.name}-{number}"
    door, file = Ports(folder).door(name), first.settings.with_name(f"{name}.toml")
    settings = msgspec.toml.decode(first.settings.read_bytes()) | {"member": number, "door": door}
    write_private(file, msgspec.toml.encode(settings))
    return replace(first, name=name, settings=file, door=door)


async def admin(stack: Stack) -> asyncpg.Connection:
    """A connection that may do anything."""
    return await asyncpg.connect(stack.pg_admin_dsn, database=stack.database, ssl="disable")


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
