"""What happens to a batch? One attempt at all of it; on an exception halves, until the culprit is parked."""

import asyncio
import traceback
from collections.abc import Sequence

import asyncpg

from contracts.answers import Answer
from contracts.operations import ServiceHalted
from contracts.reasons import Reason
from services.chassis import parking
from services.chassis.arrival import Arrival, RequestKey, Unreadable
from services.chassis.attempt import Attempt, Grown, Wake, committing
from services.chassis.database import AGAIN, ATTEMPT_SECONDS, is_broken, is_passing
from services.chassis.halt import Halt, Halted
from services.chassis.inbox import SomeSeen, known_requests, refuse
from services.chassis.keys import Keyring
from services.chassis.partitions import inbox_floor
from services.chassis.progress import Moved, Positions
from services.chassis.relay import Memory
from services.chassis.telemetry import current_batch, log, masked
from services.chassis.transaction import Transaction
from services.chassis.wire import Reader

RERUNS = 5
# of one batch, for reasons that should pass by themselves, while the database answers
FAILURES_BEFORE_HALVES = 5
REDRIVE_SECONDS = 240.0      # no row is begun later; its order ends 60 s after that
NOT_TRIED = "not tried, the time was up: order it again"


class Engine:
    """Runs batches for one service. Every road (Kafka, door, timers, calls, redrive) ends in `run`.

    A connection is used by one caller at a time; callers that share refs meet at the locks, not here.
    """

    def __init__(self, service: str, keys: Keyring, reader: Reader, memory: Memory, halt: Halt) -> None:
        self.service, self.keys, self.reader, self.memory, self.halt = service, keys, reader, memory, halt
        # who waits at the door for a later answer
        self.answered: dict[RequestKey, asyncio.Future[Answer]] = {}
        self._floor = ""        # where the inbox begins; read when something has no place in it
        self.timers_changed, self.calls_changed = asyncio.Event(), asyncio.Event()

    async def run(
        self, db: asyncpg.Connection, arrivals: Sequence[Arrival], unreadable: Sequence[Unreadable] = (),
        positions: Positions | None = None, lane: str = "",
    ) -> None:
        """Handle a batch: afterwards each message is done, parked or waiting, and that is committed.

        positions: what this batch completes. Raises what passes by itself (database or network away,
        deadline), Moved, and Halted; then nothing more of the batch is committed and it comes again.
        """
        self.halt.check()
        progress = (lane, positions) if positions else None
        try:
            await self._attempt(db, list(arrivals), unreadable=unreadable, progress=progress)
            return
        except Exception as error:
            _raise_unless_fault(error, db)
            if not arrivals:
                raise
            log.warning("batch_failed", messages=len(arrivals), error=_text(error))
        await self._halves(db, list(arrivals))
        await self._attempt(db, [], unreadable=unreadable, progress=progress)

    async def run_within(
        self, db: asyncpg.Connection, arrivals: Sequence[Arrival], unreadable: Sequence[Unreadable],
        positions: Positions | None = None, lane: str = "", *, seconds: float, failures: int,
    ) -> None:
        """`run` within so many seconds, for a road that brings the same batch again when it fails.

        failures: of this batch up to now, for reasons that should pass, though the database answers. After
        five its halves are tried, each within so many seconds, until what never ends is parked; raises only
        when the connection itself is gone.
        """
        if failures < FAILURES_BEFORE_HALVES:
            async with asyncio.timeout(seconds):
                await self.run(db, arrivals, unreadable, positions, lane)
            return
        self.halt.check()
        if arrivals:
            await self._halves(db, list(arrivals), seconds)
        progress = (lane, positions) if positions else None
        await self._attempt(db, [], unreadable=unreadable, progress=progress)

    async def _halves(
        self, db: asyncpg.Connection, arrivals: list[Arrival], seconds: float | None = None
    ) -> None:
        """A failed batch again, left half before right, each committed on its own; one that fails alone is
        parked. seconds: for each message alone, when time-outs are its fault too; its parts on the way there
        have a quarter of it, so that a thousand messages are searched through in half a minute.
        """
        if len(arrivals) == 1:
            await self._alone(db, arrivals[0], seconds)
            return
        middle = len(arrivals) // 2
        for half in (arrivals[:middle], arrivals[middle:]):
            try:
                async with asyncio.timeout(seconds and seconds / 4):
                    await self._attempt(db, half)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- sorted by _raise_unless_fault
                _raise_unless_fault(error, db, apart=seconds is not None)
                await self._halves(db, half, seconds)

    async def _alone(self, db: asyncpg.Connection, arrival: Arrival, seconds: float | None) -> None:
        """One message, without those that await its refs: they must not be taken for its fault, nor it for
        theirs.
        """
        try:
            async with asyncio.timeout(seconds):
                woken = await self._attempt(db, [arrival], wake=False)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- sorted by _raise_unless_fault
            _raise_unless_fault(error, db, apart=seconds is not None)
            await self._park(db, arrival, error)
            return
        await self.wake(db, sorted(woken), seconds, apart=seconds is not None)

    async def wake(
        self, db: asyncpg.Connection, seqs: Sequence[int], seconds: float | None = None, *,
        apart: bool = False,
    ) -> None:
        """Try messages again that await their ground, each alone and within so many seconds; one that fails
        is parked like any other. apart: time-outs are its fault too.
        """
        for seq in seqs:
            try:
                async with asyncio.timeout(seconds):
                    await self._attempt(db, [], wake=False, parked=frozenset({seq}))
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- sorted by _raise_unless_fault
                _raise_unless_fault(error, db, apart=apart)
                tx = Transaction(self.service, db, self.keys)
                for arrival in await parking.read_rows(tx, [seq], self.reader):
                    await self._park(db, arrival, error)

    async def _attempt(
        self, db: asyncpg.Connection, arrivals: list[Arrival], *, unreadable: Sequence[Unreadable] = (),
        progress: tuple[str, Positions] | None = None, wake: bool = True,
        parked: frozenset[int] = frozenset(), closed: bool = False,
    ) -> set[int]:
        """One transaction, run again while a deadlock, a repeated fact or an awaiting message asks for it.

        Returns the parked rows that await a ref of this batch and were not woken.
        """
        again, ask_which, seqs = 0, False, set(parked)
        while True:
            run = Attempt(self.service, db, self.keys, self.reader, arrivals, seqs,
                          wake=wake, closed=closed, ask_which=ask_which, floor=self._floor)
            try:
                await run.transact(unreadable, progress)
            except SomeSeen:
                ask_which = True
            except Wake as waiting:
                seqs |= waiting.seqs
            except asyncpg.CheckViolationError as error:
                await self._raise_unless_too_old(db, error)
            except AGAIN:
                again += 1
                if again == RERUNS:
                    raise
            else:
                self.halt.succeeded(len(run.handled))
                self._committed(run)
                return run.asleep

    async def _raise_unless_too_old(self, db: asyncpg.Connection, error: Exception) -> None:
        """What has no place in the inbox may be older than it, if the inbox begins later than was known."""
        before, self._floor = self._floor, await inbox_floor(db, self.service)
        if self._floor == before:
            raise error

    async def _park(self, db: asyncpg.Connection, arrival: Arrival, error: BaseException) -> None:
        """The culprit goes aside with its refs; what comes for these refs later waits behind it."""
        run = Attempt(self.service, db, self.keys, self.reader, ())
        tx = run.tx
        async with committing(tx):
            await run.lock(tx, arrival.refs)
            if not await run.remove_origins(tx, [arrival]):
                return  # another member has handled or parked its row meanwhile
            before = (await known_requests(tx, [arrival])).values()
            if any(known.answer and not known.over for known in before):
                return  # it was done: only the word of its commit got lost, and the batch comes again
            await parking.park(tx, arrival, parking.PARKED, Reason.HANDLER_FAILED, _text(error), arrival.refs)
            refuse(tx, arrival, Reason.UNDER_REPAIR)
            run.batch_id = await tx.outbox.write(tx)
        self._committed(run)
        span = current_batch()
        if span is not None:
            span.handled(arrival.journey, arrival.type, arrival.event_id or "", type(error).__name__,
                         arrival.traceparent)
        raw = arrival.raw
        place = f"{raw.topic}/{raw.partition}/{raw.offset}"
        log.error("parked", type=arrival.type, place=place, ce_id=arrival.event_id or "", error=_text(error),
                  journey=arrival.journey, where=_where(error))
        if self.halt.failed(_text(error)):
            await self._halt(db)

    async def _halt(self, db: asyncpg.Connection) -> None:
        """Stop every member of the service, by a row that outlives restarts, and say so. Raises Halted."""
        failures, handled = self.halt.counts()
        run = Attempt(self.service, db, self.keys, self.reader, ())
        tx = run.tx
        try:
            async with committing(tx):
                await run.lock(tx, ())
                await tx.execute(
                    "insert into halt(lane, failures, handled, last_error) values ('*', $1, $2, $3)"
                    " on conflict do nothing", failures, handled, self.halt.last_error,
                )
                fact = ServiceHalted(service=self.service, failures=failures, handled=handled,
                                     last_error=self.halt.last_error, at=tx.now)
                tx.publish(fact, sequence=1)
                run.batch_id = await tx.outbox.write(tx)
        except BaseException:
            self.halt.declared = self.halt.unwritten = False  # not said: the next failure says it
            raise
        self._committed(run)
        self.halt.unwritten = False
        log.error("halted", failures=failures, handled=handled, error=self.halt.last_error)
        raise Halted(self.halt.last_error)

    async def redrive(self, db: asyncpg.Connection, seqs: Sequence[int]) -> dict[int, str]:
        """Run parked rows again, each with all that waits behind it, in order. Returns why, for each of them
        that stayed.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + REDRIVE_SECONDS
        whys = {}
        for seq in sorted(set(seqs)):
            whys[seq] = await self._redrive_one(db, seq) if clock() < end else NOT_TRIED
        return {seq: why for seq, why in whys.items() if why}

    async def _redrive_one(self, db: asyncpg.Connection, seq: int) -> str:
        """Why it stayed, with all that waits behind it; empty: it is gone."""
        if await parking.call_again(Transaction(self.service, db, self.keys), seq):
            self.calls_changed.set()
            return ""
        before: list[int] = []
        while True:
            rows = await parking.together(Transaction(self.service, db, self.keys), seq)
            if rows == before:
                # what blocks it shares no row with it; none: it went with one before it
                return "a row that it shares no ref with is before it: redrive that one first" if rows else ""
            before = rows
            try:
                async with asyncio.timeout(ATTEMPT_SECONDS):
                    woken = await self._attempt(db, [], wake=False, parked=frozenset(rows), closed=True)
            except Grown:
                continue
            except parking.StaysUnread as unread:
                return str(masked(str(unread)))
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- sorted by _raise_unless_fault
                _raise_unless_fault(error, db, apart=True)
                log.warning("redrive_failed", seq=seq, rows=len(rows), error=_text(error))
                return f"failed again: {_text(error)}"
            await self.wake(db, sorted(woken), ATTEMPT_SECONDS)
            return ""

    def _committed(self, run: Attempt) -> None:
        """What the process learns from a commit: messages to relay, answers that were waited for, work that
        is due.
        """
        tx = run.tx
        _trace(run)
        for count, what in tx.counts:
            count(self.service, what)
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


def _trace(run: Attempt) -> None:
    """Tell the batch's span what was handled and said."""
    span = current_batch()
    if span is None:
        return
    for arrival in run.handled:
        span.handled(arrival.journey, arrival.type, arrival.event_id or "", link=arrival.traceparent)
    for said in run.tx.outbox.said:
        span.said(said.journey or "", said.type, said.ce_id)


def is_ours_to_stop(error: BaseException) -> bool:
    """Whether this task itself is cancelled; a stray CancelledError would end its loop in silence."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _raise_unless_fault(error: BaseException, db: asyncpg.Connection, *, apart: bool = False) -> None:
    """A stop, a halt, a moved partition and a lost connection end the batch, and so does what passes by
    itself, until it has failed so often that its parts are tried apart; only what is a message's own fault is
    halved and parked.
    """
    if isinstance(error, Halted | Moved) or is_ours_to_stop(error) or is_broken(error) or db.is_closed():
        raise error
    if not apart and (is_passing(error) or isinstance(error, asyncio.CancelledError)):
        raise error


def _where(error: BaseException) -> list[str]:
    """The innermost places of our code that it came through, and no values."""
    frames = [(f.filename.rpartition("/services/")[2], f) for f in traceback.extract_tb(error.__traceback__)]
    return [f"{file}:{frame.lineno} {frame.name}" for file, frame in frames if file != frame.filename][-4:]


def _text(error: BaseException) -> str:
    """What it was, without what may be personal in it: it goes on a topic and into the parked row."""
    return str(masked(f"{type(error).__name__}: {error}"[:300]))
