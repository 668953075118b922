"""How does the engine reach the database here? By real connections whose every round trip stops at a gate."""

import asyncio
import hashlib
import os
import re
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from services.chassis import database
from tests.simulation.schedule import Line, Schedule

_WORDS = re.compile(r"\b(insert into|update|delete from|from|copy)\s+([a-z_]+)")
_SHORT = {"insert into": "insert", "delete from": "delete", "from": "select", "update": "update"}
_LIMITS = ("idle_in_transaction_session_timeout", "transaction_timeout", "client_connection_check_interval")
_UNSEEN = ("idle_session_timeout", "statement_timeout", "lock_timeout")
CUT = "cut"                 # the connection is gone before the statement arrives
LOST = "lost"               # it was done, and the connection is gone before the reply
LOCKED, FULL = "locked", "full"     # not granted in time; no space: the server says no, the connection stays
DEADLOCK = "deadlock"
SLOW, SLOW_STEPS = "slow", 25       # a commit whose fsync takes its time
NO_ROOM = "no room"         # the parking has reached its cap: as FULL, and it stays so
_SAYS: dict[str, type[Exception]] = {
    LOCKED: asyncpg.LockNotAvailableError,
    FULL: asyncpg.DiskFullError,
    DEADLOCK: asyncpg.DeadlockDetectedError,
}


def label_of(sql: str) -> str:
    """What a statement is about, in two words."""
    if "pg_advisory_xact_lock" in sql:
        return "lock"
    found = _WORDS.search(sql)
    return f"{_SHORT.get(found[1], found[1])} {found[2]}" if found else sql.split("(")[0].strip()[:24]


class Pool:
    """Real connections, kept over many seeds: to make one costs as much as twenty statements."""

    def __init__(self, dsn_of: Callable[[str], str]) -> None:
        self._dsn_of = dsn_of
        self._free: dict[str, list[asyncpg.Connection]] = {}

    async def take(self, service: str) -> asyncpg.Connection:
        """One that nobody uses, as that service."""
        free = self._free.setdefault(service, [])
        return free.pop() if free else await self._make(service)

    async def give(self, service: str, real: asyncpg.Connection) -> None:
        """Back, as new: nothing open, no session locks, settings as they were."""
        if real.is_closed():
            return
        if real.is_in_transaction():
            await real.execute("rollback")
        await real.execute("select pg_advisory_unlock_all(); reset enable_bitmapscan; reset enable_seqscan")
        self._free[service].append(real)

    async def close(self) -> None:
        """All that are free."""
        for real in [real for free in self._free.values() for real in free]:
            await real.close()
        self._free.clear()

    async def _make(self, service: str) -> asyncpg.Connection:
        settings = {k: v for k, v in database._SESSION.items() if k not in _LIMITS}
        settings |= dict.fromkeys(_UNSEEN, "0") | {"search_path": f"{service}, sim, pg_catalog"}
        settings["enable_seqscan"] = "off"
        return await asyncpg.connect(
            self._dsn_of(service), ssl="disable", max_cached_statement_lifetime=0, server_settings=settings,
            statement_cache_size=1000,
        )


class SimConnection:
    """What the engine holds for a connection. actor: whose it is; faults: what may meet its statements."""

    def __init__(self, schedule: Schedule, pool: Pool, actor: str, real: asyncpg.Connection,
                 hear: Callable[["SimConnection"], None], stands: Callable[[str], bool],
                 parks: Callable[[str], bool]) -> None:
        self._schedule, self._pool, self.actor, self._real, self._hear = schedule, pool, actor, real, hear
        self._stands = stands       # whether the service reaches its database
        self._parks = parks         # whether its parking holds any more
        self.service = actor.split(".")[0]
        self.closed = False
        self.leads = ""         # of what it holds the session lock
        self.handled: list[tuple[str, str, object]] = []     # in the transaction that is open
        self.refs: set[int] = set()                         # as well
        self._ended = False

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self._pass(sql, lambda: self._real.fetch(sql, *args), args)
        return rows

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        return await self._pass(sql, lambda: self._real.fetchrow(sql, *args), args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        return await self._pass(sql, lambda: self._real.fetchval(sql, *args), args)

    async def execute(self, sql: str, *args: Any) -> str:
        tag: str = await self._pass(sql, lambda: self._real.execute(sql, *args))
        return tag

    async def copy_records_to_table(self, table: str, *, records: Any, columns: Any) -> str:
        tag: str = await self._pass(
            f"copy {table}",
            lambda: self._real.copy_records_to_table(table, records=records, columns=columns),
        )
        return tag

    def is_closed(self) -> bool:
        return self.closed

    def is_in_transaction(self) -> bool:
        return not self.closed and bool(self._real.is_in_transaction())

    async def _pass(self, sql: str, do: Callable[[], Awaitable[Any]], args: Sequence[Any] = ()) -> Any:
        self._must_stand()
        label = label_of(sql)
        if label == "lock" and list(args[0]) != sorted(args[0]):
            self._schedule.wrong.append(f"locks: {self.actor} takes them in no order")
        fault = await self._stop_at(label)
        self._must_stand()
        if fault == CUT or not self._stands(self.service):
            await self.sever()
        if fault in _SAYS:
            raise _SAYS[fault]("simulated")
        line = Line(self.actor, self._real.get_server_pid(), asyncio.current_task())
        self._schedule.flying[self.actor] = line
        try:
            result = await _or_deadlock(do(), line)
        except asyncpg.PostgresError as error:
            self._schedule.note(f"{self.actor} {label}: {type(error).__name__}")
            raise
        except asyncio.CancelledError:
            if self._schedule.is_stopped(line):
                os.kill(line.pid, signal.SIGCONT)       # or it would never hear that it is cancelled
            raise
        finally:
            self._schedule.landed(line)
        self._schedule.note(f"{self.actor} {label} {digest(result)}")
        self._done(label)
        if fault == LOST:
            await self.sever()
        return result

    async def _stop_at(self, label: str) -> str:
        """Until let through; what happens to the statement."""
        faults = (CUT,) if label == "rollback" else (CUT, LOST, SLOW) if label == "commit" else _met_by(label)
        fault = await self._schedule.gate(self.actor, label, faults)
        if fault == SLOW:
            self._schedule.freeze(self.actor, SLOW_STEPS)
            return await self._schedule.gate(self.actor, "fsync", (CUT, LOST))
        if label != "insert parked" or self._parks(self.service):
            return fault
        self._schedule.met[NO_ROOM, label] += 1
        return FULL

    def _done(self, label: str) -> None:
        """What the transaction has in hand begins and ends with it; what was committed is heard of."""
        if label in ("begin", "rollback"):
            self.handled.clear()
        if label in ("commit", "rollback"):
            self.refs.clear()
        if label == "commit" or not self._real.is_in_transaction():
            self._hear(self)

    def _must_stand(self) -> None:
        if self.closed:
            raise asyncpg.InterfaceError("connection is closed")

    async def sever(self) -> None:
        """The line is cut: the server rolls back and forgets the session. Raises what asyncpg raises then."""
        self.closed = True
        await self.end()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    async def end(self) -> None:
        """The backend is free for somebody else. One that waits for a lock is ended in earnest."""
        self.closed = True
        self.refs.clear()
        self.handled.clear()
        if self._ended:
            return
        self._ended, self.leads = True, ""
        pid = self._real.get_server_pid()
        line = self._schedule.waiting.get(self.actor) or self._schedule.granted.get(self.actor)
        if line is not None and line.pid == pid:
            await self._kill(pid)
            self._schedule.landed(line)
            return
        task = Line(self.actor + "~", pid, None)
        self._schedule.flying[task.actor] = task
        try:
            await self._pool.give(self.service, self._real)
        finally:
            self._schedule.landed(task)

    async def _kill(self, pid: int) -> None:
        monitor = self._schedule.monitor
        await monitor.execute("select pg_terminate_backend($1)", pid)
        os.kill(pid, signal.SIGCONT)
        while await monitor.fetchval("select exists (select from pg_stat_activity where pid = $1)", pid):
            pass
        self._real.terminate()

    def terminate(self) -> None:
        """The product's word for: I don't need it any more."""
        self.closed = True


async def _or_deadlock(statement: Awaitable[Any], line: Line) -> Any:
    """As the server says it whose own look finds the circle."""
    try:
        return await statement
    except asyncpg.QueryCanceledError as error:
        if line.in_circle:
            raise asyncpg.DeadlockDetectedError("deadlock detected") from error
        raise


def _met_by(label: str) -> tuple[str, ...]:
    if label == "lock" or label.startswith(("insert", "update", "delete")):
        return (CUT, LOCKED, DEADLOCK, FULL)
    return (CUT,)


def digest(result: Any) -> str:
    """What came back, as far as it is the same in every run: no bytes, no sealed texts."""
    if isinstance(result, list):
        return f"{len(result)}:" + _hash(sorted(str([_plain(v) for v in row]) for row in result))
    return str(_plain(result))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"{len(value)} bytes" if len(value) < 40 else "bytes"
    if isinstance(value, str) and len(value) > 60:
        return "text"
    if isinstance(value, asyncpg.Record):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, datetime | timedelta) else value


def _hash(texts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=4).hexdigest()
