"""What does a handler's test need? Given rows, when messages come, then rows, facts and answers."""

import atexit
import importlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar

import asyncpg
from msgspec import Struct
from msgspec.json import decode, encode

from contracts.answers import Accepted, Answer, Rejected
from contracts.message import CONTRACTS, Sealed, contract_of
from contracts.partners import PARTNERS
from contracts.reasons import Refused
from sandbox.keys import make_keys
from services.chassis.arrival import Arrival, Raw
from services.chassis.batch import Engine
from services.chassis.database import connect
from services.chassis.halt import Halt
from services.chassis.ids import partition_of, uuid7
from services.chassis.keys import Keyring, load_keyring
from services.chassis.relay import Memory
from services.chassis.rows import Rows
from services.chassis.subscriptions import Subscriptions
from services.chassis.timers import Timers
from services.chassis.transaction import Transaction
from services.chassis.wire import Reader, internal
from tests.ground import Database
from tests.people import instant

Value = TypeVar("Value", bound=Struct)
NOON = "2024-12-20T12:00+08:00"     # inside the collection window of demo-2025


class World:
    """One service with its real handlers, engine and schema.

    published, answers: what was said by the last `when` or `later`, in order.
    """

    def __init__(self, service: str, db: asyncpg.Connection) -> None:
        self.service, self.db = service, db
        self.on: Subscriptions = importlib.import_module(f"services.{service}.handlers").on
        self.keys = keyring(service)
        self.reader = Reader(self.on, "money", self.keys, frozenset())
        self.engine = Engine(service, self.keys, self.reader, Memory(), Halt())
        self.published: list[Struct] = []
        self.answers: list[Answer] = []
        self._heard = 0

    async def at(self, when: str) -> None:
        """Set the business clock to an instant."""
        await self.db.execute("update clock set skew = $1", instant(when) - datetime.now(UTC))

    async def given(self, rows: Rows[Value], *values: Value) -> None:
        """These rows stand."""
        await rows.insert.write(Transaction(self.service, self.db, self.keys), list(values))

    async def when(self, *messages: Struct, by: str = "wechat") -> None:
        """These arrive in one batch; commands are sent by the partner."""
        await self.engine.run(self.db, [self.arrived(message, by) for message in messages])
        await self.listen()

    async def tell(self, *messages: Struct, journey: str = "") -> None:
        """These come from inside, in one batch: outcomes of calls in a journey, a provider's verified word.
        """
        head = (("journey", journey.encode()),)
        raws = [Raw("door", None, None, None, head, encode(message), 0) for message in messages]
        kinds = [self.on.by_type[type(message).__name__] for message in messages]
        await self.engine.run(self.db, [internal(kind, raw) for kind, raw in zip(kinds, raws, strict=True)])
        await self.listen()

    async def calls(self) -> list[tuple[str, str]]:
        """Type and number of each call that waits for the gateway."""
        return [(r[0], r[1]) for r in await self.db.fetch("select type, number from call order by id")]

    async def later(self, until: str) -> None:
        """The clock moves on, and every timer that is due on the way fires."""
        await Timers(self.engine).advance(self.db, instant(until))
        await self.listen()

    async def kept(self, rows: Rows[Value], **by: str | bytes) -> list[Value]:
        """The rows with these values."""
        tx = Transaction(self.service, self.db, self.keys)
        return await rows.fetch(tx, **{column: [value] for column, value in by.items()})

    async def parked(self) -> list[tuple[str, str]]:
        """State and reason of each parked message."""
        return [(r[0], r[1]) for r in await self.db.fetch("select state, reason from parked order by seq")]

    def seal(self, value: Struct, *, by: str, place: str) -> Sealed[Any]:
        """A value as that partner or service seals it for this one."""
        sealed: Sealed[Any] = keyring(by).seal(value, reader=self.service, place=place)
        return sealed

    def arrived(self, message: Struct, by: str) -> Arrival:
        """The message as a lane reads it; a command from the partner, believed."""
        contract = contract_of(message)
        key = getattr(message, contract.key)
        headers = (("ce_id", uuid7().encode()), ("ce_type", contract.type.encode()), ("ce_time", b""),
                   ("ce_sequence", b"1"))
        topic = contract.topic or PARTNERS[by].topic
        now = int(datetime.now(UTC).timestamp() * 1000)
        raw = Raw(topic, partition_of(key), None, key.encode(), headers, encode(message), now)
        what = self.reader.again(raw, contract.type, trusted=True)
        assert isinstance(what, Arrival), what
        return what

    async def listen(self) -> None:
        """Take in what was said since the last time."""
        rows = await self.db.fetch(
            "select batch_id, type, payload from outbox where batch_id > $1 order by batch_id, n",
            self._heard)
        self.published = [decode(r[2], type=CONTRACTS[r[1]].message) for r in rows if r[1] in CONTRACTS]
        self.answers = [decode(r[2], type=Accepted | Rejected) for r in rows if r[1] not in CONTRACTS]
        self._heard = max((r[0] for r in rows), default=self._heard)


@asynccontextmanager
async def world_of(service: str, database: Database) -> AsyncIterator[World]:
    """A world whose clock says NOON."""
    db = await connect(database.url(service), "test")
    try:
        world = World(service, db)
        await world.at(NOON)
        yield world
    finally:
        await db.close()


def reason_of(answer: Answer) -> str:
    """The code of a refusal; empty: accepted."""
    return answer.refusal.code if isinstance(answer, Rejected) else ""


def accepted(answer: Answer) -> dict[str, Any]:
    """The result of a command that was accepted."""
    assert isinstance(answer, Accepted), answer
    return answer.result


def refused(answer: Answer) -> Refused:
    """Why a command was refused."""
    assert isinstance(answer, Rejected), answer
    return answer.refusal


@cache
def keyring(principal: str) -> Keyring:
    """The keys of a principal in this run."""
    return load_keyring(_keys() / f"{principal}.json")


@cache
def _keys() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="canbao-keys-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    make_keys(folder / "keys")
    return folder / "keys"


