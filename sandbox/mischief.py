"""What do broken clients and forgers send? Records that nobody can handle, signatures that don't hold, refused commands."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec
from msgspec import Struct

from sandbox.people import REGION, check_digit

GARBAGE_RECORDS = 50
FORGED_RECORDS = 20


class Garbage(Struct, frozen=True, kw_only=True):
    """One record that can be parked at best. kind: how it is broken. partner: on whose topic. noise: random bytes for it."""

    number: int
    kind: str
    partner: str
    noise: bytes


class Forgery(Struct, frozen=True, kw_only=True):
    """One record whose signature does not hold. kind: why. victim: the citizen in whose name; step: when it is sent."""

    number: int
    kind: str
    victim: int
    step: str


class Blunder(Struct, frozen=True, kw_only=True):
    """An authentic command that must be refused by an answer, for this reason.

    channel: who sends it; empty: the channel of the citizen it is about. reuses_id: under a request id of that citizen.
    """

    label: str
    channel: str
    reason: str
    reuses_id: bool = False


class Victims(Struct, frozen=True):
    """Citizen numbers by what a forger can do to them."""

    applicants: list[int]
    billed: list[int]


# How a record's value is broken (its headers and signature are right), or what else is wrong with it.
_BODIES: dict[str, Callable[[bytes], bytes | None]] = {
    "noise": lambda noise: b"\xff\xfe" + noise,
    "broken JSON": lambda noise: b'{"request_id": "' + noise.hex().encode() + b'", "region_',
    "broken UTF-8": lambda noise: b'{"request_id": "\xc3\x28' + noise.hex().encode() + b'"}',
    "not an object": lambda noise: b"[1, 2, 3]",
    "a bare string": lambda noise: b'"RegisterAccount"',
    "null value": lambda noise: None,
    "empty value": lambda noise: b"",
    "deep nesting": lambda noise: b"[" * 5_000 + b"]" * 5_000,
    "request id is a number": lambda noise: b'{"request_id": 7, "region_code": "990100"}',
    "float money and no request id": lambda noise: b'{"amount_fen": 400.0}',
    "password inside": lambda noise: (
        b'{"request_id": "' + noise.hex().encode() + b'", "password": "hunter2"}'
    ),
    "XML": lambda noise: "<缴费><金额>400.00</金额></缴费>".encode(),
}
_HEADERS = ("no headers", "binary type", "null headers", "unknown type", "unknown service")
KINDS = (*_BODIES, *_HEADERS)


def garbage(random: Random) -> tuple[Garbage, ...]:
    """Fifty records, every kind at least twice, on the topics of channels and the agency."""
    partners = ("wechat", "alipay", "bank", "counter", REGION)
    return tuple(
        Garbage(
            number=number,
            kind=KINDS[number % len(KINDS)],
            partner=random.choice(partners),
            noise=random.randbytes(24),
        )
        for number in range(GARBAGE_RECORDS)
    )


def body_of(piece: Garbage) -> bytes | None:
    """The value of a garbage record; one with broken headers has an innocent value."""
    return _BODIES.get(piece.kind, lambda noise: b'{"hello": "' + noise.hex().encode() + b'"}')(piece.noise)


def type_of(piece: Garbage) -> str:
    """The ce_type a garbage record claims."""
    return {
        "unknown type": "enrollment.win_lottery.v1",
        "unknown service": "lottery.submit_enrollment.v1",
    }.get(
        piece.kind,
        "enrollment.review_decision.v1" if piece.partner == REGION else "enrollment.register_account.v1",
    )


def headers_of(piece: Garbage, signed: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes | None]]:
    """The headers of a garbage record, made from the right ones."""
    match piece.kind:
        case "no headers":
            return []
        case "null headers":
            return [(name, None) for name, _ in signed]
        case "binary type":
            return [(name, piece.noise + b"\xff" if name == "ce_type" else value) for name, value in signed]
        case _:
            return list(signed)


# What a forger does to a well-formed command. "report" is a claim that money was paid, made by nobody.
FORGERY_KINDS = (
    "flipped signature",
    "made-up key",
    "another partner's key",
    "changed body",
    "changed type",
    "changed key",
    "changed id",
    "unsigned",
    "cheap signature on money",
    "signature of an older message",
)


def forgeries(victims: Victims, random: Random) -> tuple[Forgery, ...]:
    """Twenty forged records; claims of money aim at people who owe some, where there are any."""
    made = []
    for number in range(FORGED_RECORDS):
        kind = FORGERY_KINDS[number % len(FORGERY_KINDS)]
        money = kind == "cheap signature on money" or number % 2 == 1
        if money and victims.billed:
            made.append(
                Forgery(number=number, kind=kind, victim=random.choice(victims.billed), step="report")
            )
        else:
            kind = "unsigned" if kind == "cheap signature on money" else kind
            made.append(
                Forgery(number=number, kind=kind, victim=random.choice(victims.applicants), step="submit")
            )
    return tuple(made)


BLUNDERS = (
    Blunder(label="wrong check digit", channel="wechat", reason="ID_CHECKSUM"),
    Blunder(label="born next year", channel="alipay", reason="ID_BIRTH_DATE"),
    Blunder(label="phone with letters", channel="bank", reason="PHONE_INVALID"),
    Blunder(label="no such region", channel="counter", reason="REGION_UNKNOWN"),
    Blunder(label="nobody applies", channel="wechat", reason="PERSON_NOT_FOUND"),
    Blunder(label="unknown scheme", channel="alipay", reason="SCHEME_UNKNOWN"),
    Blunder(label="year not open", channel="counter", reason="YEAR_NOT_OPEN"),
    Blunder(label="unknown category", channel="wechat", reason="CATEGORY_UNKNOWN"),
    Blunder(label="a bank starts an online payment", channel="bank", reason="NOT_PERMITTED"),
    Blunder(label="float money", channel="wechat", reason="SCHEMA_INVALID"),
    Blunder(label="negative money", channel="alipay", reason="SCHEMA_INVALID"),
    Blunder(label="same request id, other body", channel="", reason="IDEMPOTENCY_CONFLICT", reuses_id=True),
    Blunder(label="pays an unknown bill", channel="wechat", reason="BILL_NOT_FOUND"),
)

NOBODY = "01900000-0000-7000-8000-000000000000"


def blunder_body(
    blunder: Blunder, *, request_id: str, person_id: str, seal: Callable[[dict[str, str], str], Any]
) -> tuple[str, bytes]:
    """The command type and body of a blunder. person_id: somebody registered. seal: seals a registration for its place."""
    registration = {
        "id_kind": "RESIDENT_ID",
        "name": "甄无误",
        "id_number": _id_number("19850203"),
        "phone": "19899999999",
        "email": "",
    }
    apply: dict[str, Any] = {
        "request_id": request_id,
        "person_id": person_id,
        "region_code": REGION,
        "scheme": "RESIDENT",
        "insurance_year": 2025,
        "categories": [],
    }
    pay: dict[str, Any] = {
        "request_id": request_id,
        "person_id": person_id,
        "provider": "wechat",
        "items": [{"person_id": person_id, "obligation_id": NOBODY, "version": 1, "amount_fen": 40_000}],
    }
    register = "enrollment.register_account.v1"
    submit = "enrollment.submit_enrollment.v1"
    start = "payment.start_payment.v1"

    def registering(region: str = REGION, **changed: str) -> tuple[str, bytes]:
        sealed = seal({**registration, **changed}, request_id)
        return register, msgspec.json.encode(
            {"request_id": request_id, "region_code": region, "registration": sealed}
        )

    match blunder.label:
        case "wrong check digit":
            right = registration["id_number"]
            return registering(id_number=right[:17] + ("0" if right[17] != "0" else "1"))
        case "born next year":
            return registering(id_number=_id_number("20250820"))
        case "phone with letters":
            return registering(phone="199oooo1234")
        case "no such region":
            return registering(region="999999")
        case "nobody applies":
            return submit, msgspec.json.encode({**apply, "person_id": NOBODY})
        case "unknown scheme":
            return submit, msgspec.json.encode({**apply, "scheme": "lottery"})
        case "year not open":
            return submit, msgspec.json.encode({**apply, "insurance_year": 2019})
        case "unknown category":
            return submit, msgspec.json.encode({**apply, "categories": ["astronaut"]})
        case "float money":
            return start, msgspec.json.encode({**pay, "items": [{**pay["items"][0], "amount_fen": 400.5}]})
        case "negative money":
            return start, msgspec.json.encode({**pay, "items": [{**pay["items"][0], "amount_fen": -40_000}]})
        case "same request id, other body":
            return submit, msgspec.json.encode({**apply, "submitted_by": "somebody-else"})
        case _:
            return start, msgspec.json.encode(pay)


def _id_number(birth: str) -> str:
    first_17 = f"{REGION}{birth}999"
    return first_17 + check_digit(first_17)
