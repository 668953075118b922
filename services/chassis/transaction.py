"""What may a handler do? Read, write, publish, answer, wait, set a timer, ask for a call; all or nothing."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from zoneinfo import ZoneInfo

import asyncpg
from msgspec import Struct
from msgspec.json import encode

from contracts.answers import ANSWER_TYPES, Accepted, Answer, Rejected
from contracts.partners import PARTNERS
from contracts.reasons import Reason, Refused, refused
from services.chassis import metrics
from services.chassis.arrival import Arrival, RequestKey
from services.chassis.ids import uuid7
from services.chassis.keys import Keyring
from services.chassis.outbox import Outbox
from services.chassis.refs import Ref

if TYPE_CHECKING:
    from services.chassis.rows import Change, Rows, Upsert

FEW = 50        # rows: from here on COPY is cheaper
CHINA = ZoneInfo("Asia/Shanghai")
Value = TypeVar("Value", bound=Struct)


class Statement(Protocol):
    """A bulk statement and the rows it writes."""

    async def write(self, tx: "Transaction", values: list[Any]) -> None:
        """Write all values at once."""
        ...


class Transaction:
    """One database transaction over one batch. Made by the engine; a handler never begins or ends it.

    now: business instant (UTC). today: civil date in Asia/Shanghai. keys: to open and make seals.
    """

    def __init__(self, service: str, connection: asyncpg.Connection, keys: Keyring) -> None:
        self.service, self.keys = service, keys
        self.now = datetime.min.replace(tzinfo=UTC)
        self.today = date.min
        self.outbox = Outbox(service)
        self.answers: dict[RequestKey, Answer] = {}        # given in this transaction
        self.bodies: dict[RequestKey, bytes] = {}          # the same, as they are sent
        self.deferred: set[RequestKey] = set()             # will be given by a later one
        self.waiting: dict[int, Ref] = {}                  # id(message) → the ref it waits for
        self.jobs: list[tuple[str, datetime, str, bytes, str | None]] = []
        self.calls: dict[str, tuple[str, str, str, bytes, str | None]] = {}     # by number, the first of each
        self.counts: list[tuple[Callable[[str, str], None], str]] = []     # once it is committed
        self._connection = connection
        self._arrivals: dict[int, Arrival] = {}
        self._writes: dict[Statement, list[Any]] = {}

    # Reading and writing. Every statement of a transaction, the engine's own too, passes one of these three.

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """Rows, now."""
        rows: list[asyncpg.Record] = await self._connection.fetch(sql, *args)
        return rows

    async def execute(self, sql: str, *args: Any) -> str:
        """A statement, now; its command tag (`INSERT 0 3`)."""
        tag: str = await self._connection.execute(sql, *args)
        return tag

    async def copy(self, table: str, columns: tuple[str, ...], records: list[tuple[Any, ...]]) -> None:
        """Many new rows, now."""
        await self._connection.copy_records_to_table(table, records=records, columns=columns)

    async def insert(
        self, table: str, columns: tuple[str, ...], records: list[tuple[Any, ...]], sql: str
    ) -> None:
        """New rows, now: COPY for many; for few the statement, which takes a list for each column."""
        if len(records) < FEW:
            await self.execute(sql, *map(list, zip(*records, strict=True)))
        else:
            await self.copy(table, columns, records)

    def is_closed(self) -> bool:
        """Whether the connection is gone, so that there is nothing left to roll back."""
        return bool(self._connection.is_closed())

    def is_left_open(self) -> bool:
        """Whether the connection stands in a transaction already."""
        return bool(self._connection.is_in_transaction())

    def add(self, rows: "Rows[Value]", value: Value) -> None:
        """A new row, written with all others after this wave."""
        self._write(rows.insert, value)

    def change(self, change: "Change[Value]", value: Value) -> None:
        """New values for the columns of the change, by primary key."""
        self._write(change, value)

    def upsert(self, upsert: "Upsert[Value]", value: Value) -> None:
        """A new row, or its newer version."""
        self._write(upsert, value)

    def _write(self, statement: Statement, value: Any) -> None:
        values = self._writes.get(statement)
        if values is None:
            self._writes[statement] = [value]
        else:
            values.append(value)

    async def flush(self) -> None:
        """Write what a wave left; the next wave reads it."""
        writes, self._writes = self._writes, {}
        for statement, values in writes.items():
            await statement.write(self, values)

    # Saying things

    def publish(self, fact: Struct, *, sequence: int) -> None:
        """A fact of ours. sequence: how many facts this aggregate has said on this topic, 1 for the first."""
        self.outbox.add(fact, sequence, self.now)

    def accept(self, command: Struct, **result: Any) -> None:
        """The answer to a command: done."""
        arrival = self._arrivals[id(command)]
        self._answer(_key(arrival), arrival.type, result, arrival.key, arrival.raw.partition)

    def refuse(self, command: Struct, reason: Reason | Refused, *, field: str = "", rule: str = "",
               expected: str = "", got: str = "") -> None:
        """The answer to a command: not done, nothing changed. got must be masked."""
        arrival = self._arrivals[id(command)]
        if isinstance(reason, Reason):
            reason = refused(reason, field=field, rule=rule, expected=expected, got=got)
        self._answer(_key(arrival), arrival.type, reason, arrival.key, arrival.raw.partition)

    def request(self, command: Struct) -> RequestKey:
        """The command's identity for ever."""
        return _key(self._arrivals[id(command)])

    def defer(self, command: Struct) -> RequestKey:
        """Promise the answer: a later message gives it, under this identity."""
        request = self.request(command)
        self.deferred.add(request)
        return request

    def answer(
        self, request: RequestKey, command: str, result: dict[str, Any] | Refused, *, key: str
    ) -> None:
        """The deferred answer. command: its type name; key: the person_id, the record key of the reply."""
        self._answer(request, command, result, key, None)

    def _answer(
        self,
        request: RequestKey,
        command: str,
        result: dict[str, Any] | Refused,
        key: str,
        partition: int | None,
    ) -> None:
        if request in self.answers:
            raise AssertionError(f"{command} {request} is answered twice")
        answer: Answer
        if isinstance(result, Refused):
            self.counts.append((metrics.refused, result.code))
            answer = Rejected(
                request_id=request.request_id, command=command, answered_at=self.now, refusal=result
            )
        else:
            answer = Accepted(
                request_id=request.request_id, command=command, answered_at=self.now, result=result
            )
        self.answers[request], self.bodies[request] = answer, encode(answer)
        self.reply(request, type(answer), self.bodies[request], key, partition)

    def reply(
        self, request: RequestKey, kind: type[Answer], body: bytes, key: str, partition: int | None
    ) -> None:
        """Put an answer's bytes on the partner's reply topic (also for the engine: a stored answer said
        again).
        """
        self.outbox.add_reply(
            PARTNERS[request.partner].replies,
            ANSWER_TYPES[kind],
            request.request_id,
            body,
            key,
            partition,
            self.now,
        )

    # Later

    def wait(self, message: Struct, ref: Ref) -> None:
        """Its ground is not there yet: keep it, and run it again when a batch touches the ref."""
        self.waiting[id(message)] = ref

    def at(self, run_at: datetime, timer: Struct, *, journey: str) -> None:
        """Hand the timer to its handler at a business instant. It is never cancelled: it fires and finds
        nothing to do. journey: whose trace goes on when it fires, months later if need be; "": nobody's.
        """
        self.jobs.append((uuid7(), run_at, type(timer).__name__, encode(timer), journey or None))

    def call(self, request: Struct, *, number: str, journey: str) -> None:
        """Ask the outside, after this transaction. number: our business number, the same for every attempt.
        journey: whose trace the call and its outcome belong to; "": nobody's.
        """
        one = (uuid7(), number, type(request).__name__, encode(request), journey or None)
        self.calls.setdefault(number, one)

    # The engine's side

    def arrival(self, message: Struct) -> Arrival:
        """The envelope of a message of this batch: who sent it, under which id and key, when."""
        return self._arrivals[id(message)]

    def take(self, arrivals: list[Arrival]) -> None:
        """These arrive; the engine calls it once, after the locks."""
        for arrival in arrivals:
            self._arrivals[id(arrival.message)] = arrival
            # a partner's client may have its own idea of where a key belongs; our owners' relays have ours
            if arrival.raw.partition is not None and arrival.key and not arrival.partner:
                self.outbox.partitions[arrival.key] = arrival.raw.partition

    def set_now(self, now: datetime) -> None:
        """The batch's business instant."""
        self.now = now
        self.today = now.astimezone(CHINA).date()


def _key(arrival: Arrival) -> RequestKey:
    if arrival.request is None:
        raise AssertionError(f"{arrival.type} is no command and has no answer")
    return arrival.request
