"""What is one attempt at a batch? One transaction: locks, what is parked, who was seen, handlers, outbox,
commit.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import groupby
from typing import TypeVar

import asyncpg

from contracts.reasons import Reason
from services.chassis import parking
from services.chassis.arrival import Arrival, RequestKey, Unreadable
from services.chassis.inbox import (
    Known,
    drop_repeated,
    drop_seen,
    drop_too_old,
    known_requests,
    refuse,
    remember_requests,
    without_seen,
)
from services.chassis.keys import Keyring
from services.chassis.progress import Positions, save_progress
from services.chassis.refs import Ref, waves
from services.chassis.subscriptions import Subscription
from services.chassis.transaction import FEW, Transaction
from services.chassis.wire import Reader

WOKEN_AT_ONCE = 20      # of those that await one ref
Come = TypeVar("Come", Arrival, Unreadable)
_JOB = ("id", "run_at", "type", "payload", "journey")
_JOBS = """insert into job(id, run_at, type, payload, journey)
select * from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::bytea[], $5::uuid[])"""
_CALL = ("id", "number", "type", "payload", "journey")
_CALLS = """insert into call(id, number, type, payload, journey)
select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::uuid[]) it(i, number, t, p, j)
where not exists (select from call where call.number = it.number)"""
# Where a message's own row lies, by the slot that names it, and how it is taken away.
_ORIGINS = {
    "job_id": "delete from job where id = any($1::uuid[]) returning id",
    "call_id": "delete from call where id = any($1::uuid[]) returning id",
    "parked_seq": "delete from parked where seq = any($1::bigint[]) returning seq",
}


class Wake(Exception):
    """Messages await a ref of this batch: run again together with them."""

    def __init__(self, seqs: set[int]) -> None:
        self.seqs = seqs


class Grown(Exception):
    """Something else was parked behind these rows meanwhile: read them again."""


class Attempt:
    """One attempt at one batch: the order of its statements is the engine's promise."""

    def __init__(
        self, service: str, db: asyncpg.Connection, keys: Keyring, reader: Reader,
        arrivals: Sequence[Arrival], seqs: Iterable[int] = (), *,
        wake: bool = False, closed: bool = False, ask_which: bool = False, floor: str = "",
    ) -> None:
        self.reader, self.arrivals, self.seqs = reader, arrivals, set(seqs)
        self.wake, self.closed, self.ask_which, self.floor = wake, closed, ask_which, floor
        self.tx = Transaction(service, db, keys)
        self.handled: list[Arrival] = []
        self.known: dict[RequestKey, Known] = {}
        self.asleep: set[int] = set()
        self.batch_id: int | None = None

    async def transact(
        self, unreadable: Sequence[Unreadable], progress: tuple[str, Positions] | None
    ) -> None:
        """Locks → parked → inbox and requests → handlers, wave by wave → outbox → commit."""
        tx = self.tx
        async with committing(tx):
            woken = await parking.read_rows(tx, self.seqs, self.reader, whole=self.closed)
            everything = [*self.arrivals, *woken]
            await self.lock(tx, {ref for arrival in everything for ref in arrival.refs})
            everything = await self.remove_origins(tx, everything)
            unreadable = await self.remove_origins(tx, unreadable)
            if self.floor:
                everything = drop_too_old(everything, self.floor)
            self.known = await known_requests(tx, everything)
            go, behind = await self._blocked(tx, everything)
            go = await drop_seen(tx, go, ask_which=self.ask_which)
            tx.take(go)
            await self._handle(tx, go)
            await self._keep(tx, behind, unreadable)
            await remember_requests(tx, self.handled, self.known)
            await _save_later(tx)
            self.batch_id = await tx.outbox.write(tx)
            if progress:
                await save_progress(tx, *progress)

    async def lock(self, tx: Transaction, refs: Sequence[Ref] | set[Ref]) -> None:
        """All refs of the batch in one sorted statement; the business clock comes along with it."""
        rows = await tx.fetch(
            "select count(pg_advisory_xact_lock(k)), (select skew from clock) from unnest($1::bigint[]) k",
            sorted(refs),
        )
        tx.set_now(datetime.now(UTC) + rows[0][1])

    async def remove_origins(self, tx: Transaction, come: Sequence[Come]) -> list[Come]:
        """Take the rows that these messages came from; a row that is gone was handled by somebody else. A row
        counts once: a call whose worker was lost may have two outcomes in one batch.
        """
        if not any(each.job_id or each.call_id or getattr(each, "parked_seq", None) for each in come):
            return list(come)
        gone: set[int] = set()
        for slot, delete in _ORIGINS.items():
            wanted: dict[object, Come] = {}
            for each in come:
                key = getattr(each, slot, None)
                if key is not None and wanted.setdefault(key, each) is not each:
                    gone.add(id(each))
            if wanted:
                found = {str(row[0]) for row in await tx.fetch(delete, list(wanted))}
                gone |= {id(each) for key, each in wanted.items() if str(key) not in found}
        return [each for each in come if id(each) not in gone]

    async def _blocked(self, tx: Transaction, arrivals: list[Arrival]) -> tuple[list[Arrival], list[Arrival]]:
        """Who goes, and who waits behind a parked message; one that waits blocks its other refs for those
        after it.
        """
        refs = sorted({ref for arrival in arrivals for ref in arrival.refs})
        found = await parking.look(tx, refs, self.seqs)
        if not found.blocked and not found.awaiting:
            return arrivals, []
        blocked, go, behind = found.blocked, [], []
        if blocked and self.closed:
            raise Grown
        for arrival in await without_seen(tx, arrivals) if blocked else arrivals:
            if self._is_repeated(arrival) or blocked.isdisjoint(arrival.refs):
                go.append(arrival)  # what came before is answered from memory, whatever is parked
            elif arrival.request is not None and not arrival.seen:
                refuse(tx, arrival, Reason.UNDER_REPAIR)
            else:
                blocked |= set(arrival.refs)
                behind.append(arrival)
        self.asleep = _first_of_each(found.awaiting, go)
        if self.asleep and self.wake:
            raise Wake(self.asleep)
        return go, behind

    def _is_repeated(self, arrival: Arrival) -> bool:
        """Whether it is answered from memory, without a handler."""
        before = self.known.get(arrival.request) if arrival.request else None
        return before is not None and not before.over and arrival.parked_seq is None

    async def _handle(self, tx: Transaction, go: list[Arrival]) -> None:
        for arrival in go:
            if arrival.refusal is not None:
                refuse(tx, arrival, Reason.SCHEMA_INVALID)
        now = tx.now
        able = [arrival for arrival in go if arrival.refusal is None]
        for run_at, some in groupby(able, key=lambda arrival: arrival.run_at):
            tx.set_now(run_at or now)       # a timer's now is the instant it was set for
            for wave in waves(list(some)):
                await self._run_wave(tx, wave)
        tx.set_now(now)

    async def _run_wave(self, tx: Transaction, wave: list[Arrival]) -> None:
        calls: dict[Subscription, list[Arrival]] = {}
        for arrival in drop_repeated(tx, wave, self.known):
            calls.setdefault(arrival.subscription, []).append(arrival)  # type: ignore[arg-type]
        for subscription, arrivals in calls.items():
            await subscription.handler([arrival.message for arrival in arrivals], tx)
            self.handled += arrivals
        await tx.flush()

    async def _keep(self, tx: Transaction, behind: list[Arrival], unreadable: Sequence[Unreadable]) -> None:
        """Those behind a parked message, those whose ground is missing, and those nobody can read."""
        for arrival in behind:
            await parking.park(tx, arrival, parking.BEHIND, Reason.BEHIND_PARKED, "", arrival.refs)
        for arrival in self.handled:
            ref = tx.waiting.get(id(arrival.message))
            if ref is not None:
                await parking.park(tx, arrival, parking.AWAITS, Reason.AWAITS_GROUND, "", [ref])
        for message in unreadable:
            await parking.set_aside(tx, message)


def _first_of_each(awaiting: list[tuple[Ref, int]], go: list[Arrival]) -> set[int]:
    """Of the rows that await a ref of this batch those to run with it: the first few of each ref, less those
    that do already. A herd that waits for one ground in vain must not come along with whoever passes by; what
    is left is tried by the sweep.
    """
    touched = {ref for arrival in go for ref in arrival.refs}
    have = Counter(ref for arrival in go if arrival.parked_seq is not None for ref in arrival.refs)
    asleep = set()
    for ref, seq in sorted(awaiting):
        if ref in touched and have[ref] < WOKEN_AT_ONCE:
            have[ref] += 1
            asleep.add(seq)
    return asleep


@asynccontextmanager
async def committing(tx: Transaction) -> AsyncIterator[None]:
    """begin … commit, and rollback on whatever ends it otherwise; through the choke point like every
    statement.
    """
    if tx.is_left_open():
        await tx.execute("rollback")  # an earlier rollback was cut short: its writes must not go with ours
    await tx.execute("begin")
    try:
        yield
    except BaseException:
        if not tx.is_closed():
            await tx.execute("rollback")
        raise
    await tx.execute("commit")


async def _save_later(tx: Transaction) -> None:
    """Timers and calls that the handlers asked for; a call whose number waits already is the same call."""
    if tx.jobs:
        await tx.insert("job", _JOB, tx.jobs, _JOBS)
    calls = list(tx.calls.values())
    if len(calls) >= FEW:       # no `on conflict`: it writes a sixth more log
        rows = await tx.fetch("select number from call where number = any($1::text[])", list(tx.calls))
        there = {row[0] for row in rows}
        calls = [call for number, call in tx.calls.items() if number not in there]
    if calls:
        await tx.insert("call", _CALL, calls, _CALLS)


async def end_left_open(db: asyncpg.Connection) -> None:
    """A batch whose time was up may have left its transaction open; nothing else belongs in there."""
    if db.is_in_transaction():
        await db.execute("rollback")
