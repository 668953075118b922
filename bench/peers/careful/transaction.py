"""What does a handler of the careful peer see? One message's transaction."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple

import asyncpg
import msgspec
from aiokafka import ConsumerRecord
from msgspec import Struct

from bench.raw_loop import Place
from contracts.answers import ANSWER_TYPES, Accepted
from contracts.message import contract_of
from contracts.partners import PARTNERS
from services.chassis.ids import uuid7

encode = msgspec.json.Encoder().encode
_SEE = "insert into inbox(ce_id) values ($1) on conflict do nothing"
_ANSWERED = "select from request where partner = $1 and request_id = $2"
_PARTNER_ON = {partner.topic: code for code, partner in PARTNERS.items()}
_SAY = "insert into unsent(topic, key, type, ce_id, payload) values ($1, $2, $3, $4, $5)"


class Handler(NamedTuple):
    """decode: its message. is_fact: it goes through the inbox; a command is known by its request instead."""

    decode: Callable[[bytes], Any]
    run: Callable[[Any, "Transaction"], Awaitable[None]]
    is_fact: bool


class Handlers(dict[str, Handler]):
    """What a service does, by type."""

    def on(self, message: type[Struct]) -> Callable[[Any], Any]:
        """The function below handles this message."""
        contract = contract_of(message)

        def keep(run: Any) -> Any:
            self[contract.type] = Handler(msgspec.json.Decoder(message).decode, run, contract.kind == "fact")
            return run

        return keep


class Transaction:
    """number: the message's ce_id. now: business instant."""

    def __init__(self, db: asyncpg.Connection, place: Place, kind: str, record: ConsumerRecord) -> None:
        self.db, self.prefix, self.kind, self.record = db, place.prefix, kind, record
        self.now = datetime.now(UTC) + timedelta(seconds=place.skew_seconds)
        self.number = dict(record.headers)["ce_id"].decode()

    async def is_new_fact(self) -> bool:
        """Whether this fact was not handled before; from now on it was."""
        return bool(await self.db.execute(_SEE, self.number) == "INSERT 0 1")

    async def is_new_command(self, command: Any) -> bool:
        """Whether this request has no answer yet."""
        partner = _PARTNER_ON[self.record.topic.removeprefix(self.prefix)]
        return await self.db.fetchrow(_ANSWERED, partner, command.request_id) is None

    async def add(self, table: str, **row: Any) -> None:
        """A new row."""
        holes = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        sql = f"insert into {table}({', '.join(row)}) values ({holes})"  # noqa: S608 - names of ours
        await self.db.execute(sql, *row.values())

    async def one(self, sql: str, *args: Any) -> asyncpg.Record:
        """The row that must be there."""
        row = await self.db.fetchrow(sql, *args)
        if row is None:
            raise SystemExit(f"no row: {sql}")
        return row

    async def say(self, fact: Any) -> None:
        """A fact, through the outbox."""
        contract = contract_of(fact)
        await self._keep(contract.topic, fact.person_id, contract.type, fact)

    async def answer(self, partner: str, command: Any, **result: str) -> None:
        """Remember the request with its answer, and say it through the outbox."""
        said = Accepted(request_id=command.request_id, command=self.kind, answered_at=self.now, result=result)
        await self.add(
            "request",
            partner=partner,
            request_id=command.request_id,
            command=self.kind,
            digest=sha256(self.record.value).digest(),
            answer=encode(said),
            key=command.person_id,
        )
        await self._keep(PARTNERS[partner].replies, command.person_id, ANSWER_TYPES[Accepted], said)

    async def _keep(self, topic: str, key: str, kind: str, what: Struct) -> None:
        await self.db.execute(_SAY, self.prefix + topic, key, kind, uuid7(), encode(what))
