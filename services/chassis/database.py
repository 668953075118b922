"""How does a process reach its database, and which errors pass by themselves?"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncpg
from asyncpg.protocol import protocol

Result = TypeVar("Result")
# The order of the limits is a promise: an attempt ends itself, is put back, and at last parked. Were the
# server first, the connection would be gone and with it the process, again and again, and nobody would ever
# park the culprit. The server's limit is for a process that is frozen and holds its locks.
ATTEMPT_SECONDS = 10.0
_GUARD = f"{int(ATTEMPT_SECONDS * 1.5)}s"
# One statement of the engine touches few rows by index; plans are cached while tables are empty and must not
# become scans.
_SESSION = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "idle_in_transaction_session_timeout": _GUARD,
    "transaction_timeout": _GUARD,
    "client_connection_check_interval": "1s",
    "timezone": "UTC",
}
IDLE_SECONDS = 10.0
LEAST_LOCKS = 256           # every lane locks up to 1,000 refs at once

# Ended by the server or the network; the work was not lost, it is done again with its ids inside.
_PASSING_STATES = (
    "57P01",
    "57P02",
    "57P03",
    "57P05",
    "25P03",
    "25P04",
    "55P03",
    "53300",
    "53100",
    "53200",
    "25006",
    "57014",
)
AGAIN = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.UniqueViolationError,
    asyncpg.InvalidCachedStatementError,
)


def flat_lists() -> None:
    """From now on asyncpg takes lists only, and flat ones: it asks each element of an array, by an abstract
    class, whether it is an array too, which costs more than to write it.
    """
    vars(protocol)["IterableABC"] = list


async def connect(dsn: str, name: str, *, guarded: bool = False) -> asyncpg.Connection:
    """A connection with the engine's session settings. guarded: the server ends it when it stays silent for
    10 s.
    """
    settings = _SESSION | {"application_name": name}
    if guarded:
        settings["idle_session_timeout"] = f"{int(IDLE_SECONDS)}s"
    return await asyncpg.connect(
        dsn,
        ssl="disable",
        timeout=5,
        command_timeout=ATTEMPT_SECONDS,
        max_cached_statement_lifetime=0,
        server_settings=settings,
    )


async def check(db: asyncpg.Connection) -> None:
    """Whether this server can carry the engine. SystemExit with one clear line: it cannot."""
    locks = int(await db.fetchval("show max_locks_per_transaction"))
    if locks < LEAST_LOCKS:
        raise SystemExit(
            f"Postgres: max_locks_per_transaction is {locks}, a batch needs at least {LEAST_LOCKS}"
        )


async def holds(db: asyncpg.Connection, name: str) -> bool:
    """Whether this session has the name now: one session at a time, until it ends."""
    return bool(await db.fetchval("select pg_try_advisory_lock(hashtextextended($1, 0))", name))


async def while_beating(db: asyncpg.Connection, work: Coroutine[Any, Any, Result]) -> Result:
    """Do what may take long outside, and keep this session with its locks alive meanwhile."""
    task = asyncio.create_task(work)
    try:
        while not (await asyncio.wait({task}, timeout=IDLE_SECONDS / 3))[0]:
            await db.fetchval("select 1")
        return task.result()
    finally:
        task.cancel()


def is_broken(error: BaseException) -> bool:
    """Whether the connection itself is gone."""
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return "closed" in str(error) or "cannot switch to state" in str(error) or "__aexit__" in str(error)
    return isinstance(error, asyncpg.PostgresConnectionError | ConnectionError)


def is_passing(error: BaseException) -> bool:
    """Whether it is nobody's fault and goes away: the same comes again later. Only where the database answers
    and it has failed so five times is it taken for a message's own fault (`Engine.run_within`).
    """
    if is_broken(error) or isinstance(error, OSError | TimeoutError):
        return True
    state = getattr(error, "sqlstate", None) or ""
    no_partition = state == "23514" and "no partition of relation" in str(error)
    return state.startswith("08") or state in _PASSING_STATES or no_partition
