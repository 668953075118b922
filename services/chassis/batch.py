"""What happens to a batch? One transaction from locks to outbox; on an exception halves, until the culprit is parked."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg

from contracts.answers import Answer
from contracts.operations import ServiceHalted
from contracts.reasons import Reason
from services.chassis import parking
from services.chassis.arrival import Arrival, RequestKey, Unreadable
from services.chassis.database import AGAIN, is_passing
from services.chassis.halt import Halt, Halted
from services.chassis.inbox import (
    Known, SomeSeen, drop_repeated, drop_seen, known_requests, refuse, remember_requests,
)
from services.chassis.keys import Keyring
from services.chassis.outbox import Memory
from services.chassis.refs import Ref, waves
from services.chassis.subscriptions import Subscription
from services.chassis.telemetry import current_batch, log
from services.chassis.transaction import Transaction
from services.chassis.wire import Reader

Positions = dict[tuple[str, int], int]
RERUNS = 5


class _Wake(Exception):
    """Messages await a ref of this batch: run again together with them."""

    def __init__(self, seqs: set[int]) -> None:
        self.seqs = seqs


class _Grown(Exception):
    """Something else was parked behind these rows meanwhile: read them again."""


class Engine:
    """Runs batches for one service. Every road (Kafka, door, timers, calls, redrive) ends in `run`.

    A connection is used by one caller at a time; callers that share refs meet at the locks, not here.
    """

    def __init__(self, service: str, keys: Keyring, reader: Reader, memory: Memory, halt: Halt) -> None:
        self.service, self.keys, self.reader, self.memory, self.halt = service, keys, reader, memory, halt
        self.answered: dict[RequestKey, asyncio.Future[Answer]] = {}   # who waits at the door for a later answer
        self.timers_changed, self.calls_changed = asyncio.Event(), asyncio.Event()
        self.last_commit = time.monotonic()

    async def run(
        self, db: asyncpg.Connection, arrivals: Sequence[Arrival], unreadable: Sequence[Unreadable] = (),
        positions: Positions | None = None, lane: str = "",
    ) -> None:
        """Handle a batch: afterwards each message is done, parked or waiting, and that is committed.

        positions: the last offset per (topic, partition) that this batch completes. Raises what passes by itself
        (database or network away, deadline), and Halted; then nothing more of the batch is committed and it comes again.
        """
        self.halt.check()
        progress = (lane, positions) if positions else None
        try:
            await self._attempt(db, list(arrivals), unreadable=unreadable, progress=progress)
            return
        except Exception as error:
            _raise_unless_bug(error)
            if not arrivals:
                raise
            log.warning("batch_failed", messages=len(arrivals), error=_text(error))
        await self._halves(db, list(arrivals))
        await self._attempt(db, [], unreadable=unreadable, progress=progress)

    async def _halves(self, db: asyncpg.Connection, arrivals: list[Arrival]) -> None:
        """A failed batch again, left half before right, each committed on its own; one that fails alone is parked."""
        if len(arrivals) == 1:
            await self._alone(db, arrivals[0])
            return
        middle = len(arrivals) // 2
        for half in (arrivals[:middle], arrivals[middle:]):
            try:
                await self._attempt(db, half)
            except Exception as error:
                _raise_unless_bug(error)
                await self._halves(db, half)

    async def _alone(self, db: asyncpg.Connection, arrival: Arrival) -> None:
        """One message, without those that await its refs: they must not be taken for its fault, nor it for theirs."""
        try:
            woken = await self._attempt(db, [arrival], wake=False)
        except Exception as error:
            _raise_unless_bug(error)
            await self._park(db, arrival, error)
            return
        await self.wake(db, sorted(woken))

    async def wake(self, db: asyncpg.Connection, seqs: Sequence[int]) -> None:
        """Try messages again that await their ground, each alone; one that fails is parked like any other."""
        for seq in seqs:
            try:
                await self._attempt(db, [], wake=False, parked=frozenset({seq}))
            except Exception as error:
                _raise_unless_bug(error)
                arrivals, _ = await parking.read_rows(Transaction(self.service, db, self.keys), [seq], self.reader)
                for arrival in arrivals:
                    await self._park(db, arrival, error)

    async def _attempt(
        self, db: asyncpg.Connection, arrivals: list[Arrival], *, unreadable: Sequence[Unreadable] = (),
        progress: tuple[str, Positions] | None = None, wake: bool = True, parked: frozenset[int] = frozenset(),
        closed: bool = False,
    ) -> set[int]:
        """One transaction, run again while a deadlock, a repeated fact or an awaiting message asks for it.

        Returns the parked rows that await a ref of this batch and were not woken.
        """
        again, ask_which, seqs = 0, False, set(parked)
        while True:
            run = _Run(self, db, arrivals, seqs, wake=wake, closed=closed, ask_which=ask_which)
            try:
                await run.transact(unreadable, progress)
            except SomeSeen:
                ask_which = True
            except _Wake as waiting:
                seqs |= waiting.seqs
            except AGAIN:
                again += 1
                if again == RERUNS:
                    raise
            else:
                self.halt.succeeded(len(run.handled))
                self._committed(run)
                return run.asleep

    async def _park(self, db: asyncpg.Connection, arrival: Arrival, error: Exception) -> None:
        """The culprit goes aside with its refs; what comes for these refs later waits behind it."""
        tx = Transaction(self.service, db, self.keys)
        run = _Run(self, db, [arrival], set())
        async with _committing(tx):
            await run.lock(tx, arrival.refs)
            await run.remove_origins(tx, [arrival])
            await parking.park(tx, arrival, parking.PARKED, Reason.HANDLER_FAILED, _text(error), arrival.refs)
            refuse(tx, arrival, Reason.UNDER_REPAIR)
            run.batch_id = await tx.outbox.write(tx)
        run.tx = tx
        self._committed(run)
        span = current_batch()
        if span is not None:
            span.handled(getattr(arrival.message, "journey", ""), arrival.type, arrival.event_id or "", type(error).__name__)
        log.error("parked", type=arrival.type, error=_text(error))
        if self.halt.failed(_text(error)):
            await self._halt(db)

    async def _halt(self, db: asyncpg.Connection) -> None:
        """Stop every member of the service, by a row that outlives restarts, and say so. Raises Halted."""
        failures, handled = self.halt.counts()
        tx = Transaction(self.service, db, self.keys)
        run = _Run(self, db, [], set())
        async with _committing(tx):
            await run.lock(tx, ())
            await tx.execute(
                "insert into halt(lane, failures, handled, last_error) values ('*', $1, $2, $3) on conflict do nothing",
                failures, handled, self.halt.last_error)
            tx.publish(ServiceHalted(service=self.service, failures=failures, handled=handled, last_error=self.halt.last_error,
                                     at=tx.now), sequence=1)
            run.batch_id = await tx.outbox.write(tx)
        run.tx = tx
        self._committed(run)
        raise Halted(self.halt.last_error)

    async def redrive(self, db: asyncpg.Connection, seqs: Sequence[int]) -> int:
        """Run parked rows again, each with all that waits behind it, in order. Returns how many are gone."""
        before = await db.fetchval("select count(*) from parked")
        for seq in sorted(seqs):
            await self._redrive_one(db, seq)
        return int(before - await db.fetchval("select count(*) from parked"))

    async def _redrive_one(self, db: asyncpg.Connection, seq: int) -> None:
        while True:
            tx = Transaction(self.service, db, self.keys)
            rows = await parking.together(tx, seq)
            try:
                await self._attempt(db, [], wake=False, parked=frozenset(rows), closed=True)
                return
            except _Grown:
                continue
            except Exception as error:
                _raise_unless_bug(error)
                log.warning("redrive_failed", seq=seq, rows=len(rows), error=_text(error))
                return

    def _committed(self, run: "_Run") -> None:
        """What the process learns from a commit: messages to relay, answers that were waited for, work that is due."""
        tx = run.tx
        self.last_commit = time.monotonic()
        span = current_batch()
        if span is not None:
            for arrival in run.handled:
                span.handled(getattr(arrival.message, "journey", ""), arrival.type, arrival.event_id or "")
            for said in tx.outbox.said:
                span.said(said.journey, said.type, said.ce_id)
        if run.batch_id is not None:
            self.memory.put(run.batch_id, tx.outbox.said)
        for request, answer in tx.answers.items():
            waiting = self.answered.pop(request, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        if tx.jobs:
            self.timers_changed.set()
        if tx.calls:
            self.calls_changed.set()


class _Run:
    """One attempt at one batch: the order of its statements is the engine's promise."""

    def __init__(self, engine: Engine, db: asyncpg.Connection, arrivals: list[Arrival], seqs: set[int], *,
                 wake: bool = False, closed: bool = False, ask_which: bool = False) -> None:
        self.engine, self.db, self.arrivals, self.seqs = engine, db, arrivals, seqs
        self.wake, self.closed, self.ask_which = wake, closed, ask_which
        self.tx = Transaction(engine.service, db, engine.keys)
        self.handled: list[Arrival] = []
        self.known: dict[RequestKey, Known] = {}
        self.asleep: set[int] = set()
        self.batch_id: int | None = None

    async def transact(self, unreadable: Sequence[Unreadable], progress: tuple[str, Positions] | None) -> None:
        """Locks → parked → inbox and requests → handlers, wave by wave → outbox → commit."""
        tx = self.tx
        async with _committing(tx):
            woken, still_bad = await parking.read_rows(tx, self.seqs, self.engine.reader) if self.seqs else ([], [])
            everything = [*self.arrivals, *woken]
            await self.lock(tx, {ref for arrival in everything for ref in arrival.refs})
            everything = await self.remove_origins(tx, everything)
            go, behind = await self._blocked(tx, everything)
            go = await drop_seen(tx, go, ask_which=self.ask_which)
            tx.take(go)
            await self._handle(tx, go)
            await self._keep(tx, behind, [*unreadable, *still_bad])
            await remember_requests(tx, self.handled, self.known)
            await _save_later(tx)
            self.batch_id = await tx.outbox.write(tx)
            if progress:
                await save_progress(tx, *progress)

    async def lock(self, tx: Transaction, refs: Sequence[Ref] | set[Ref]) -> None:
        """All refs of the batch in one sorted statement; the business clock comes along with it."""
        rows = await tx.fetch(
            "select count(pg_advisory_xact_lock(k)), (select skew from clock) from unnest($1::bigint[]) k", sorted(refs))
        tx.set_now(datetime.now(UTC) + rows[0][1])

    async def remove_origins(self, tx: Transaction, arrivals: list[Arrival]) -> list[Arrival]:
        """Take the rows that these messages came from; a row that is gone was handled by somebody else."""
        gone: set[int] = set()
        for table, column, kind, slot in (("job", "id", "uuid", "job_id"), ("call", "id", "uuid", "call_id"), ("parked", "seq", "bigint", "parked_seq")):
            wanted = {getattr(a, slot): a for a in arrivals if getattr(a, slot) is not None}
            if wanted:
                rows = await tx.fetch(f"delete from {table} where {column} = any($1::{kind}[]) returning {column}", list(wanted))  # noqa: S608
                found = {str(row[0]) for row in rows}
                gone |= {id(a) for key, a in wanted.items() if str(key) not in found}
        times = [a.time for a in arrivals if a.job_id is not None]
        if times:
            tx.set_now(datetime.fromisoformat(times[0]))  # a timer's now is the instant it was set for
        return [a for a in arrivals if id(a) not in gone]

    async def _blocked(self, tx: Transaction, arrivals: list[Arrival]) -> tuple[list[Arrival], list[Arrival]]:
        """Who goes, and who waits behind a parked message; one that waits blocks its other refs for those after it."""
        refs = sorted({ref for arrival in arrivals for ref in arrival.refs})
        found = await parking.look(tx, refs, self.seqs)
        blocked, go, behind = found.blocked, [], []
        if blocked and self.closed:
            raise _Grown
        for arrival in arrivals:
            if blocked.isdisjoint(arrival.refs):
                go.append(arrival)
            elif arrival.request is not None and not arrival.seen:
                refuse(tx, arrival, Reason.UNDER_REPAIR)
            else:
                blocked |= set(arrival.refs)
                behind.append(arrival)
        touched = {ref for arrival in go for ref in arrival.refs}
        self.asleep = {seq for ref, seq in found.awaiting if ref in touched}
        if self.asleep and self.wake:
            raise _Wake(self.asleep)
        return go, behind

    async def _handle(self, tx: Transaction, go: list[Arrival]) -> None:
        self.known = await known_requests(tx, go)
        for arrival in go:
            if arrival.refusal is not None:
                refuse(tx, arrival, Reason.SCHEMA_INVALID)
        for wave in waves([arrival for arrival in go if arrival.refusal is None]):
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
            await parking.park(tx, arrival, parking.WAITING, Reason.BEHIND_PARKED, "", arrival.refs)
        for arrival in self.handled:
            ref = tx.waiting.get(id(arrival.message))
            if ref is not None:
                await parking.park(tx, arrival, parking.AWAITS, Reason.AWAITS_GROUND, "", [ref])
        for message in unreadable:
            await parking.set_aside(tx, message)


class _committing:
    """begin … commit, and rollback on whatever ends it otherwise; by the one choke point like every other statement."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx

    async def __aenter__(self) -> None:
        await self.tx.execute("begin")

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            await self.tx.execute("commit")
        elif not self.tx.is_closed():
            await self.tx.execute("rollback")


async def _save_later(tx: Transaction) -> None:
    """Timers and calls that the handlers asked for."""
    if tx.jobs:
        await tx.execute(
            "insert into job(id, run_at, type, payload) select * from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::bytea[])",
            *map(list, zip(*tx.jobs, strict=True)))
    if tx.calls:
        await tx.execute(
            "insert into call(id, number, type, payload) select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[])"
            " on conflict (number) do nothing",
            *map(list, zip(*tx.calls, strict=True)))


async def save_progress(tx: Transaction | asyncpg.Connection, lane: str, positions: Positions) -> None:
    """The last offset that is done, in the transaction that did it: the truth that the broker's offsets follow."""
    await tx.execute(
        'insert into progress as p(lane, topic, partition, "offset") select $1::text, * from unnest($2::text[], $3::int[], $4::bigint[])'
        ' on conflict (lane, topic, partition) do update set "offset" = excluded."offset"',
        lane, [t for t, _ in positions], [p for _, p in positions], list(positions.values()))


def _raise_unless_bug(error: Exception) -> None:
    """What passes by itself, and a halt, end the batch; only what our code did wrong is halved and parked."""
    if isinstance(error, Halted) or is_passing(error):
        raise error


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
