"""Which payloads come, and in which order? A seed draws contract, mutation and body; of commands here."""

from collections.abc import Iterator
from random import Random
from typing import Any

from msgspec.json import encode

from contracts.message import CONTRACTS, contract_of
from contracts.operations import OPERATORS
from contracts.partners import PARTNERS
from contracts.payment import ReportPayment
from contracts.topics import MAX_MESSAGE_BYTES, PARTITIONS, TOPICS
from sandbox.fuzz import bodies, valid
from sandbox.fuzz.bodies import Body
from sandbox.fuzz.citizen import Way
from sandbox.fuzz.due import Due, Payload
from sandbox.fuzz.envelopes import CHEAP, ENVELOPES, Said
from sandbox.partner import Letter, Partner
from services.chassis.ids import partition_of

_LARGE = 0.002  # of all: each is a quarter of a megabyte
_TYPES = (*CONTRACTS, "answer.accepted.v1", "answer.rejected.v1")
_REPORT = contract_of(ReportPayment).type
_UNSEALED = ("enrollment.submit_enrollment.v1", "billing.query_bill.v1", "payment.start_payment.v1",
             "enrollment.review_decision.v1")


class Commands:
    """Payloads from partners: a right command, and one thing about it changed. run: begins each request id;
    every run needs another.
    """

    def __init__(
        self, partners: dict[str, Partner], random: Random, run: str, paid: Way | None = None
    ) -> None:
        """paid: somebody who has paid, so that more money from her is kept at once."""
        self._paid = paid
        self._partners, self._random, self._run = partners, random, run
        self._pairs = valid.commands()

    def one(self, number: int) -> Payload:
        """The next one. Half have a broken body, a third a broken envelope, the others stand in a wrong
        place or are bytes.
        """
        code, type_name = self._random.choice(self._pairs)
        partner, request_id = self._partners[code], f"{self._run}-{number}"
        body = self._right(type_name, partner, request_id)
        drawn = self._random.random()
        if drawn < 0.5:
            return self._body(number, partner, type_name, body, self._a_body(type_name, body))
        if drawn < 0.85:
            return self._envelope(number, partner, type_name, body)
        if drawn < 0.95:
            return self._misplaced(number, partner)
        return self._bytes(number, partner, type_name, body)

    def at_a_door(self, number: int) -> tuple[str, Payload]:
        """One with a broken body, and the service at whose door it is said."""
        code, type_name = self._random.choice([pair for pair in self._pairs if pair[0] != OPERATORS])
        partner = self._partners[code]
        body = self._right(type_name, partner, f"{self._run}-door-{number}")
        payload = self._body(number, partner, type_name, body, self._a_body(type_name, body))
        return CONTRACTS[type_name].owner, payload

    def _right(self, type_name: str, partner: Partner, request_id: str) -> dict[str, Any]:
        body = valid.right_body(type_name, partner, request_id, self._random)
        if self._paid and type_name == _REPORT:
            body |= {"person_id": self._paid.person_id, "obligation_id": self._paid.obligation_id}
        return body

    def _a_body(self, type_name: str, body: dict[str, Any]) -> Body:
        if self._random.random() < _LARGE:
            return bodies.too_large(body, MAX_MESSAGE_BYTES)
        if self._random.random() < 0.1 and (seals := bodies.wrong_seals(body)):
            return self._random.choice(seals)
        if self._random.random() < 0.6:
            return self._random.choice(bodies.wrong_fields(CONTRACTS[type_name].message, body))
        return self._random.choice(bodies.whole_bodies(body))

    def _body(
        self, number: int, partner: Partner, type_name: str, right: dict[str, Any], body: Body
    ) -> Payload:
        contract, topic = CONTRACTS[type_name], partner.who.topic
        due, judge = body.due, _judge(topic, type_name, right)
        letter = partner.signed(type_name, str(right[contract.key]), body.value)
        if due.outcome == "refused" and due.path == "request_id":
            due = due._replace(outcome="parked", reasons=(bodies.SCHEMA, bodies.BODY))
        if due.outcome == "parked":
            due = due._replace(by=(judge if contract.owner != "any" else TOPICS[topic].owner,))
        if due.outcome == "handled":
            due = due._replace(reasons=valid.HEARS[type_name])
        return self._payload(number, f"{type_name}: {body.what}", partner, letter, due, right)

    def _envelope(self, number: int, partner: Partner, type_name: str, right: dict[str, Any]) -> Payload:
        contract, topic = CONTRACTS[type_name], partner.who.topic
        kinds = (*ENVELOPES, CHEAP) if contract.money else ENVELOPES
        kind = self._random.choice(kinds)
        thief = self._partners[self._random.choice([c for c in PARTNERS if c != partner.who.code])]
        said = Said(
            partner, thief, type_name, str(right[contract.key]), encode(right), contract.money
        )
        due = kind.due
        if due.outcome == "handled":
            due = due._replace(reasons=valid.HEARS[type_name])
        if due.outcome == "parked":
            judge = _judge(topic, type_name, right)
            by_owner = kind.by_owner or (contract.owner == "any" and not kind.late)
            due = due._replace(by=(TOPICS[topic].owner if by_owner else judge,))
        return self._payload(number, f"{type_name}: {kind.what}", partner, kind.seal(said), due, right)

    def _misplaced(self, number: int, partner: Partner) -> Payload:
        """A known type that this partner may not say."""
        request_id, topic = f"{self._run}-{number}", partner.who.topic
        type_name = self._random.choice([name for name in _TYPES if name not in partner.who.may])
        contract = CONTRACTS.get(type_name)
        body: dict[str, Any] = {"request_id": request_id}
        if type_name in _UNSEALED or (contract and contract.owner == "any" and contract.kind == "command"):
            body = valid.right_body(type_name, partner, request_id, self._random)
        key = str(body.get(contract.key if contract else "", request_id))
        heard = (
            contract is not None and contract.kind == "command" and topic != OPERATORS
            and contract.owner in TOPICS[topic].readers
        )
        due = Due("parked", ("NOT_PERMITTED",), "", (TOPICS[topic].owner,))
        if contract is not None and heard and type_name in _UNSEALED:
            due = Due("refused", ("NOT_PERMITTED",), "ce_type")
        elif contract is not None and heard:
            due = Due("refused", ("SCHEMA_INVALID",))
        letter = partner.signed(type_name, key, encode(body), money=bool(contract and contract.money)
                                and "RSA-SHA256" in partner.keys.signers)
        if contract is not None and heard and contract.money and "RSA-SHA256" not in partner.keys.signers:
            due = Due("parked", ("SIGNATURE_INVALID",), "", (contract.owner,))
        return self._payload(number, f"{type_name} of {partner.who.code}", partner, letter, due, body)

    def _bytes(self, number: int, partner: Partner, type_name: str, right: dict[str, Any]) -> Payload:
        """Bytes by chance, with all headers, with some, or with none; signed or not."""
        noise, topic = self._random.randbytes(self._random.choice((1, 8, 64, 1000))), partner.who.topic
        value = noise if noise[:1] not in b"{[0123456789\"tfn -" else b"\xff" + noise
        letter = partner.signed(type_name, str(right[CONTRACTS[type_name].key]), value)
        owner, judge = TOPICS[topic].owner, _judge(topic, type_name, right)
        if self._random.random() < 0.5:
            judge = owner if CONTRACTS[type_name].owner == "any" else judge
            reasons = (bodies.SCHEMA, bodies.BODY, bodies.SECRET)
            return self._payload(
                number, f"{type_name}: bytes", partner, letter, Due("parked", reasons, "", (judge,)), {}
            )
        headers: list[tuple[str, bytes | None]] = [
            (self._random.choice(("ce_id", "x", "content-type", "")), self._random.randbytes(8))
            for _ in range(3)
        ]
        letter = Letter(topic, self._random.randbytes(4), value, headers)
        due = Due("parked", (bodies.BODY, bodies.SECRET), "", (owner,))
        return self._payload(number, "bytes and no type", partner, letter, due, {})

    def _payload(
        self, number: int, what: str, partner: Partner, letter: Letter, due: Due, body: dict[str, Any]
    ) -> Payload:
        key = letter.key.decode("utf-8", "replace") if letter.key else str(number)
        part = partition_of(key) if letter.key else number % PARTITIONS
        answered = due.outcome in ("refused", "handled")
        request_id = str(body.get("request_id", "")) if answered else ""
        return Payload(number, what, partner.who.code, letter, part, due, partner.who.code, request_id)


def _judge(topic: str, type_name: str, body: dict[str, Any]) -> str:
    """Which service keeps what is wrong with a command of this type here."""
    owner = CONTRACTS[type_name].owner
    return (
        str(body["service"])
        if owner == "any"
        else owner
        if owner in TOPICS[topic].readers
        else TOPICS[topic].owner
    )


def stream(commands: Commands, count: int) -> Iterator[Payload]:
    """So many, numbered from 0."""
    return (commands.one(number) for number in range(count))
