"""What was said in a transaction? Rows beside the data, in the order in which they are to go out."""

from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct
from msgspec.json import Encoder

from contracts.message import contract_of
from contracts.topics import MAX_MESSAGE_BYTES
from services.chassis.ids import partition_of, uuid7

if TYPE_CHECKING:
    from services.chassis.transaction import Transaction

_encode = Encoder().encode


class Said(NamedTuple):
    """One message as its row says it. journey: 32 hex digits, None for an answer; the headers are rebuilt
    from these by rule.
    """

    part: int
    topic: str
    type: str
    seq: int
    key: str
    ce_id: str
    subject: str
    ce_time: datetime
    journey: str | None
    payload: bytes


_COLUMNS = ("batch_id", "n", *Said._fields)


class _Form(NamedTuple):
    topic: str
    type: str
    subject: Callable[[Any], str]
    key: Callable[[Any], str]
    has_journey: bool


class Outbox:
    """What one transaction says. partitions: of the keys that arrived with it, so that they need not be
    computed.
    """

    _forms: dict[tuple[str, type[Struct]], _Form] = {}

    def __init__(self, service: str) -> None:
        self.service = service
        self.said: list[Said] = []
        self.partitions: dict[str, int] = {}

    def add(self, fact: Struct, sequence: int, now: datetime) -> None:
        """A fact. ValueError: too large for every reader, or not this service's to say."""
        form = self._forms.get((self.service, type(fact))) or self._form(type(fact))
        payload = _encode(fact)
        key = form.key(fact)
        journey = fact.journey if form.has_journey else None  # type: ignore[attr-defined]
        self._add(Said(self._partition(key), form.topic, form.type, sequence, key, uuid7(),
                       form.subject(fact), now, journey, payload))

    def add_reply(
        self, topic: str, kind: str, request_id: str, payload: bytes, key: str, partition: int | None,
        now: datetime,
    ) -> None:
        """An answer to a partner. ValueError: too large for every reader."""
        part = self._partition(key) if partition is None else partition
        self._add(Said(part, topic, kind, 1, key, uuid7(), request_id, now, None, payload))

    def _add(self, said: Said) -> None:
        """What the broker would refuse must not be written: the relay would try it for ever, and all behind
        it. So its handler fails, and the message is parked.
        """
        if len(said.payload) > MAX_MESSAGE_BYTES:
            raise ValueError(f"{said.type} has {len(said.payload)} bytes, more than {MAX_MESSAGE_BYTES}")
        self.said.append(said)

    def _partition(self, key: str) -> int:
        part = self.partitions.get(key)
        if part is None:
            part = self.partitions[key] = partition_of(key)
        return part

    def _form(self, message: type[Struct]) -> _Form:
        contract = contract_of(message)
        if contract.kind != "fact" or contract.owner not in (self.service, "any"):
            raise ValueError(f"{contract.type} is not {self.service}'s to publish")
        form = _Form(contract.topic.format(service=self.service), contract.type, attrgetter(contract.subject),
                     attrgetter(contract.key), "journey" in message.__struct_fields__)
        self._forms[self.service, message] = form
        return form

    async def write(self, tx: "Transaction") -> int | None:
        """Write the rows, under a batch id drawn now, after the locks. None: nothing was said."""
        if not self.said:
            return None
        batch_id: int = (await tx.fetch("insert into unsent default values returning batch_id"))[0][0]
        await tx.copy("outbox", _COLUMNS, [(batch_id, n, *said) for n, said in enumerate(self.said)])
        return batch_id
