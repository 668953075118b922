"""What do broken clients and forgers send? Records that nobody can handle, and signatures that don't hold."""

from collections.abc import Callable, Sequence
from random import Random

from msgspec import Struct

from sandbox.people import REGION

GARBAGE_RECORDS = 50
FORGED_RECORDS = 20


class Garbage(Struct, frozen=True, kw_only=True):
    """One record that can be parked at best. kind: how it is broken. partner: on whose topic. noise: random
    bytes for it.
    """

    number: int
    kind: str
    partner: str
    noise: bytes


class Forgery(Struct, frozen=True, kw_only=True):
    """One record whose signature does not hold. kind: why. victim: the citizen in whose name; step: when it
    is sent.
    """

    number: int
    kind: str
    victim: int
    step: str


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
    return _BODIES.get(piece.kind, _innocent)(piece.noise)


def _innocent(noise: bytes) -> bytes:
    return b'{"hello": "' + noise.hex().encode() + b'"}'


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
