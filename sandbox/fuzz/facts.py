"""Which payloads come on the topics of the services? What a bug upstream would say, in the place of its
owner.
"""

import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from msgspec import DecodeError, Struct
from msgspec.json import decode, encode

from contracts.answers import ANSWER_TYPES, Rejected
from contracts.message import CONTRACTS
from contracts.topics import OPERATED, PARTITIONS, TOPICS
from sandbox.fuzz import bodies
from sandbox.fuzz.bodies import BODY, SCHEMA, SECRET, Body
from sandbox.fuzz.due import Due, Payload
from sandbox.partner import Letter
from services.billing.handlers import on as billing
from services.chassis.ids import millis, partition_of, uuid7
from services.chassis.wire import LONGEST_KEY
from services.console.handlers import on as console
from services.enrollment.handlers import on as enrollment
from services.notify.handlers import on as notify
from services.payment.handlers import on as payment

_SERVICES = (enrollment, billing, payment, notify, console)
_SAMPLES = Path(__file__).resolve().parents[2] / "contracts" / "samples"
_MESSAGES: dict[str, type[Struct]] = {
    **{name: contract.message for name, contract in CONTRACTS.items() if contract.kind == "fact"},
    **{name: message for message, name in ANSWER_TYPES.items()},
}
_REFUSAL = ANSWER_TYPES[Rejected]  # it holds a `code`, and what looks like a secret is not kept
_KEPT = 20  # of each type
MADE_UP = ("ce_source", b"/fuzz")  # in the headers of what nobody has said
_MOST = 10**6
_HOUR_MS = 3_600_000
_SILENT = Due("silent")


class Said(NamedTuple):
    """A fact that stands on its topic. made_up: nobody has said it, it only looks like one."""

    type_name: str
    topic: str
    key: bytes
    headers: dict[str, bytes | None]
    body: dict[str, Any]
    made_up: bool = False


class Facts:
    """Payloads from services: something that was said, and one thing about it changed. All of them carry an
    id of a fact that its owner has said, so that who knows it already does nothing about what is harmless.
    """

    def __init__(
        self, records: Iterable[Any], random: Random, *, spared: frozenset[str] = frozenset()
    ) -> None:
        """records: of the services' topics, as Kafka gives them. spared: topics that are left alone."""
        self._random = random
        self._by_type: dict[str, list[Said]] = defaultdict(list)
        ids, heard = dict[str, bytes](), set[bytes]()
        for record in records:
            said = _read(record)
            ce_id = (said and said.headers["ce_id"]) or b""
            if said is not None and ce_id not in heard and len(self._by_type[said.type_name]) < _KEPT:
                self._by_type[said.type_name].append(said)
                ids.setdefault(TOPICS[said.topic].owner, ce_id)
            heard.add(ce_id)  # what comes later under the same id is an earlier fuzz's
        for type_name in _MESSAGES:
            for topic in _topics(type_name):
                owner = TOPICS[topic].owner
                if topic not in spared and not any(s.topic == topic for s in self._by_type[type_name]):
                    self._by_type[type_name].append(
                        _made_up(type_name, topic, ids.get(owner) or uuid7().encode())
                    )
            self._by_type[type_name] = [s for s in self._by_type[type_name] if s.topic not in spared]
        self._types = [name for name, said in self._by_type.items() if said]

    def one(self, number: int) -> Payload:
        """The next one: two thirds with a broken body, the others with broken headers."""
        said = self._random.choice(self._by_type[self._random.choice(self._types)])
        if self._random.random() < 0.66:
            body = self._random.choice(_bodies(said))
            letter, due = _letter(said, body.value), body.due
            what = body.what
        else:
            what, letter, due = self._random.choice(_envelopes(said))
        if due.outcome == "parked" and not due.by:
            by = tuple(on.service for on in _SERVICES if said.type_name in on.by_type)
            due = due._replace(by=by) if by else _SILENT
        if due.outcome == "parked" and said.type_name == _REFUSAL:
            due = due._replace(reasons=(*due.reasons, SECRET), path="")
        part = partition_of(said.key.decode("utf-8", "replace")) if said.key else number % PARTITIONS
        return Payload(number, f"{said.type_name}: {what}", TOPICS[said.topic].writers[0], letter, part, due)


def _topics(type_name: str) -> list[str]:
    contract = CONTRACTS.get(type_name)
    if contract is None:
        return [name for name in TOPICS if name.endswith(".replies")]
    return sorted({contract.topic.format(service=service) for service in OPERATED})


def _read(record: Any) -> Said | None:
    """None: it is none that could be changed."""
    head = dict(record.headers)
    type_name = (head.get("ce_type") or b"").decode("ascii", "replace")
    message = _MESSAGES.get(type_name)
    if message is None or len(head) != len(record.headers) or record.topic not in _topics(type_name):
        return None
    try:
        decode(record.value or b"", type=message)
        ahead_ms = millis((head["ce_id"] or b"").decode()) - int(time.time() * 1000)
        key = (record.key or b"").decode()
        (head["ce_time"] or b"").decode()
        number = int(head["ce_sequence"] or (b"" if TOPICS[record.topic].compacted else b"0"))
    except (DecodeError, UnicodeDecodeError, RecursionError, KeyError, ValueError):
        return None
    if ahead_ms > 0 or number > _MOST or "\0" in key or len(key) > LONGEST_KEY:
        return None
    return Said(type_name, record.topic, key.encode(), head, decode(record.value))


def _made_up(type_name: str, topic: str, ce_id: bytes) -> Said:
    """From the contracts' sample."""
    body = decode((_SAMPLES / f"{type_name}.json").read_bytes())
    contract = CONTRACTS.get(type_name)
    key = str(body[contract.key]).encode() if contract else b"k"
    head = {
        "ce_specversion": b"1.0", "ce_id": ce_id, MADE_UP[0]: MADE_UP[1], "ce_type": type_name.encode(),
        "ce_time": b"2024-12-20T09:00:00+08:00", "ce_subject": b"s", "ce_sequence": b"1",
        "content-type": b"application/json",
    }
    return Said(type_name, topic, key, dict(head), body, made_up=True)


def _letter(said: Said, value: bytes | None, *, key: bytes | None = None) -> Letter:
    return Letter(said.topic, said.key if key is None else key, value, list(said.headers.items()))


def _bodies(said: Said) -> list[Body]:
    """Broken ones; of what was really said also such as change nothing."""
    made = [
        each._replace(due=each.due._replace(outcome="parked"))
        for each in bodies.wrong_fields(_MESSAGES[said.type_name], said.body, facts=True)
    ]
    compacted = TOPICS[said.topic].compacted
    for each in bodies.whole_bodies(said.body):
        if each.due.outcome == "parked" and each.due.reasons == (SECRET,):
            continue  # what services say is not searched for secrets
        if each.due.outcome == "handled" and said.made_up:
            continue
        harmless = each.due.outcome == "handled" or (compacted and each.value is None)
        made.append(each._replace(due=_SILENT if harmless else Due("parked", (SCHEMA, BODY, SECRET))))
    return made


def _envelopes(said: Said) -> list[tuple[str, Letter, Due]]:
    value = encode(said.body)
    broken, unfit, strange = Due("parked", (BODY,)), Due("parked", (SCHEMA,)), _SILENT
    if TOPICS[said.topic].owner in TOPICS[said.topic].readers:  # who owns it hears it too, and keeps it
        strange = Due(
            "parked", (BODY, "TYPE_UNKNOWN", "VERSION_UNSUPPORTED"), "", (TOPICS[said.topic].owner,)
        )

    def but(**head: bytes | None) -> Letter:
        return _letter(said._replace(headers=said.headers | head), value)

    def without(name: str) -> Letter:
        return _letter(said._replace(headers={n: v for n, v in said.headers.items() if n != name}), value)

    made = [
        ("no ce_id", without("ce_id"), broken),
        ("a ce_id without a value", but(ce_id=None), broken),
        ("a ce_id that is none", but(ce_id=b"order 66"), broken),
        ("a ce_id in binary", but(ce_id=b"\xff" * 36), broken),
        ("a ce_id of tomorrow", but(ce_id=_tomorrow()), Due("parked", ("ID_FROM_FUTURE",))),
        ("a ce_time in binary", but(ce_time=b"\xff"), broken),
        ("a long record key", _letter(said, value, key=b"k" * 129), unfit),
        ("a NUL in the record key", _letter(said, value, key=b"a\0b"), unfit),
        ("a record key in binary", _letter(said, value, key=b"\xff\x80"), broken),
        ("no ce_type", without("ce_type"), strange),
        ("a ce_type without a value", but(ce_type=None), strange),
        ("a ce_type in binary", but(ce_type=b"\xff"), strange),
        ("a ce_type of tomorrow", but(ce_type=said.type_name.encode()[:-1] + b"9"), strange),
        ("a ce_type of nobody", but(ce_type=b"lottery.drawn.v1"), strange),
    ]
    if not said.made_up:
        letter = _letter(said, value)
        twice = letter._replace(headers=[*letter.headers, *letter.headers])
        made += [("every header twice", twice, _SILENT), ("a strange header", but(x=b"\xff"), _SILENT)]
    if TOPICS[said.topic].compacted:
        made += [
            ("no ce_sequence", without("ce_sequence"), broken),
            ("a ce_sequence without a value", but(ce_sequence=None), broken),
            ("a ce_sequence that is none", but(ce_sequence=b"first"), broken),
            ("a ce_sequence of 400 digits", but(ce_sequence=b"9" * 400), broken),
        ]
    return made


def _tomorrow() -> bytes:
    ms = int(time.time() * 1000) + _HOUR_MS
    text = f"{ms:012x}"
    return f"{text[:8]}-{text[8:]}-7000-8000-000000000000".encode()
