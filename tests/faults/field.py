"""Where do the faults happen? Servers of their own, with fsync, and toy members that live as processes."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec

from sandbox.keys import make_keys
from sandbox.lifeline import Child
from sandbox.ports import write_private
from sandbox.processes import ROOT
from sandbox.stack import Servers, Stack
from services.chassis.settings import Settings
from tests.chassis.running import free_port
from tests.faults.toy import EFFECTS, Toy
from tests.ground import empty_tables, empty_topics

Row = tuple[Any, ...]


async def until(what: Callable[[], Awaitable[object]], name: str, seconds: float = 30.0) -> None:
    """Wait for a condition, with a deadline; AssertionError names it."""
    end, holds = time.monotonic() + seconds, await what()
    while not holds:
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {name}"
        await asyncio.sleep(0.05)
        holds = await what()


class Field:
    """Servers and what stands on them. folder: for one test's settings and logs."""

    def __init__(self, servers: Servers, stack: Stack, folder: Path) -> None:
        self.servers, self.stack, self.folder = servers, stack, folder
        self.keys = folder / "keys"
        self.cured, self.held, self.freeze = folder / "cured", folder / "held", folder / "freeze"
        self.members: list[Member] = []
        self.emptied = False        # records are gone, and the broker may not have noted it

    async def query(self, sql: str, *args: object) -> list[Row]:
        """Rows, as the administrator, with billing's tables unqualified."""
        conn = await asyncpg.connect(self.stack.pg_admin_dsn, database=self.stack.database, ssl="disable")
        try:
            await conn.execute("set search_path = billing")
            return [tuple(row) for row in await conn.fetch(sql, *args)]
        finally:
            await conn.close()

    async def count(self, table: str) -> int:
        """Rows of a table, or of `table where …`."""
        return int((await self.query(f"select count(*) from {table}"))[0][0])

    async def effects(self, kind: str, count: int, seconds: float = 30.0) -> None:
        """Wait for so many effects of a kind."""

        async def enough() -> bool:
            return await self.count(f"effect where kind = '{kind}'") >= count

        await until(enough, f"{count} effects of {kind}", seconds)

    async def unsent(self, count: int = 0, seconds: float = 30.0) -> None:
        """Wait until so many transactions' messages are left to send."""

        async def left() -> bool:
            return await self.count("unsent") == count

        await until(left, f"{count} rows in unsent", seconds)

    async def restart_postgres(self) -> None:
        """As by a crash: no transaction ends well."""
        await self.stop_postgres()
        await self.start_postgres()

    async def stop_postgres(self) -> None:
        assert self.servers.postgres is not None
        await asyncio.to_thread(self.servers.postgres.stop, "QUIT")

    async def start_postgres(self) -> None:
        assert self.servers.postgres is not None
        await asyncio.to_thread(self.servers.postgres.start)

    async def stop_kafka(self) -> None:
        """kill -9."""
        assert self.servers.kafka is not None
        if self.emptied:
            await _remembered(self.servers)
            self.emptied = False
        await asyncio.to_thread(self.servers.kafka.stop, "KILL")

    async def start_kafka(self) -> None:
        assert self.servers.kafka is not None
        await asyncio.to_thread(self.servers.kafka.start)

    def member(self, toy: Toy, number: int = 0, *, name: str = "", database: str = "") -> "Member":
        """A member of the toy service, not started yet. database: another way to it than the straight one."""
        made = Member(self, toy, number, name or f"billing-{number}", database)
        self.members.append(made)
        return made

    def toy(self, provider: str = "127.0.0.1:1", **how: Any) -> Toy:
        """A toy whose files lie in this field."""
        cured, held, freeze = str(self.cured), str(self.held), str(self.freeze)
        return Toy(provider=provider, cured=cured, held=held, freeze=freeze, **how)


class Member:
    """One process of the toy service: started, hurt, and started again as a supervisor would.

    codes: how its processes ended. kept: whether it is started again whenever it ends.
    """

    def __init__(self, field: Field, toy: Toy, number: int, name: str, database: str) -> None:
        self.field, self.toy, self.number, self.name = field, toy, number, name
        self.log = field.folder / f"{name}.log"
        self.codes: Counter[int] = Counter()
        self.kept = False
        self._keeper: asyncio.Task[None] | None = None
        self._child: Child | None = None
        self.door = f"127.0.0.1:{free_port()}"
        self._settings = field.folder / f"{name}.toml"
        self._toy = field.folder / f"{name}.json"
        settings = Settings(
            service="billing",
            member=number,
            database=database or field.stack.database_url("billing"),
            keys=str(field.keys / "billing.json"),
            door=self.door,
            sandbox=True,
            kafka=field.stack.kafka("billing"),
        )
        write_private(self._settings, msgspec.toml.encode(settings))
        self._toy.write_bytes(msgspec.json.encode(toy))

    def start(self, *, keep: bool = False) -> "Member":
        """Begin; returns at once. keep: start it again whenever it ends."""
        self._launch()
        if keep:
            self.kept = True
            self._keeper = asyncio.create_task(self._keep())
        return self

    async def ready(self, seconds: float = 30.0) -> "Member":
        """Wait until it has started: its lanes have their names and joined their groups."""

        async def started() -> bool:
            assert self.poll() is None or self.kept, self.tail()
            return '"event":"started"' in self.tail(100_000).replace(": ", ":")

        await until(started, f"{self.name} to start", seconds)
        return self

    @property
    def pid(self) -> int:
        """Its process id. AssertionError: it does not run."""
        assert self._child is not None
        pid = self._child.pid
        assert pid is not None, self.tail()
        return pid

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._child.poll() if self._child else 0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself; nothing happens when it has just ended."""
        try:
            os.kill(self.pid, number)
        except (ProcessLookupError, AssertionError):
            pass

    async def ended(self, seconds: float = 30.0) -> int:
        """Wait until it ends; its exit code."""

        async def gone() -> bool:
            return self.poll() is not None

        await until(gone, f"{self.name} to end", seconds)
        code = self.poll()
        assert code is not None
        return code

    async def stop(self) -> None:
        """End it for good, frozen or not."""
        self.kept = False
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._child is not None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            await asyncio.to_thread(self._child.stop)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of its HTTP side."""
        url, limit = f"http://{self.door}{path}", aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=limit) as http, http.get(url) as response:
            return response.status, await response.text()

    def tail(self, size: int = 3000) -> str:
        """The end of its log."""
        return self.log.read_bytes()[-size:].decode(errors="replace") if self.log.exists() else ""

    def said(self, event: str) -> int:
        """How often its log has that event."""
        return self.log.read_text(errors="replace").count(f'"{event}"') if self.log.exists() else 0

    def _launch(self) -> None:
        if self._child is not None:
            self._child.stop()      # it has ended; this closes the pipe to it
        env = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
        env |= {"PYTHONPATH": str(ROOT), "TZ": "UTC", "PYTHONUNBUFFERED": "1"}
        env |= {"CANBAO_SETTINGS": str(self._settings), "CANBAO_TOY": str(self._toy)}
        module = "tests.faults.haunted" if self.toy.bug else "tests.faults.toy"
        self._child = Child([sys.executable, "-m", module], log=self.log, env=env, cwd=ROOT)

    async def _keep(self) -> None:
        while self.kept:
            code = self.poll()
            if code is not None:
                self.codes[code] += 1
                self._launch()
            await asyncio.sleep(0.05)


async def _remembered(servers: Servers) -> None:
    """Wait until the broker has noted that records are gone: killed before, it would find them again."""
    assert servers.kafka is not None
    begins = servers.kafka.data / "log-start-offset-checkpoint"
    written = {begins.stat().st_mtime_ns}

    async def begun_and_ended() -> bool:
        written.add(begins.stat().st_mtime_ns)
        return len(written) > 2

    await until(begun_and_ended, "the broker's note of where topics begin")


@asynccontextmanager
async def prepared(servers: Servers, stack: Stack, folder: Path) -> AsyncIterator[Field]:
    """Empty tables and topics; at the end every member is ended and both servers run again."""
    field = Field(servers, stack, folder)
    make_keys(field.keys)
    await empty_tables(stack)
    field.emptied = await asyncio.to_thread(empty_topics, stack.kafka_admin)
    for statement in (*EFFECTS, "truncate effect"):
        await field.query(statement)
    try:
        yield field
    finally:
        await asyncio.gather(*(member.stop() for member in field.members))
        for server in (servers.kafka, servers.postgres):
            assert server is not None
            if server.poll() is not None or server.pid is None:
                await asyncio.to_thread(server.start)
