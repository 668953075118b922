"""In which ways can what is around a body be wrong: headers, key, type, signature?"""

import time
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from typing import NamedTuple

from msgspec.json import encode

from sandbox.fuzz.due import Due
from sandbox.partner import Letter, Partner
from services.chassis import trust
from services.chassis.ids import uuid7

Headers = list[tuple[str, bytes | None]]
FORGED, SKEWED = Due("parked", ("SIGNATURE_INVALID",)), Due("parked", ("CLOCK_SKEW",))
TWICE = Due("parked", ("BODY_INVALID",), "a header stands twice")
_HANDLED = Due("handled")
_OTHER_KEY = Due("refused", ("SCHEMA_INVALID",), "record key")
_NO_KEY = Due("parked", ("SCHEMA_INVALID",))
_BINARY = b"\xff\x00\x80"
_SKEW_MS = 360_000
_SIGNED = ("sig_key", "sig_at", "sig", "ce_id", "ce_time", "ce_source")


class Envelope(NamedTuple):
    """A way to spoil a letter. seal: the letter from what is said in it. by_owner: nobody can say whose type
    it is, so it is the owner of the topic who keeps it. late: seen only by the service that an order names.
    """

    what: str
    seal: Callable[["Said"], Letter]
    due: Due
    by_owner: bool = False
    late: bool = False


class Said(NamedTuple):
    """What somebody says, before it is signed. thief: another partner, whose keys are not this one's."""

    partner: Partner
    thief: Partner
    type_name: str
    key: str
    value: bytes
    money: bool

    def signed(self) -> Letter:
        """As it should be."""
        return self.partner.signed(self.type_name, self.key, self.value)

    def resigned(
        self, head: dict[str, bytes] | None = None, *, key: bytes | None = None, now_ms: int | None = None
    ) -> Letter:
        """Rightly signed, whatever stands in it. head: other headers."""
        letter = self.signed()
        headers = {n: v or b"" for n, v in letter.headers if not n.startswith("sig")} | (head or {})
        key = self.key.encode() if key is None else key
        signature = trust.sign(
            self.partner.keys, topic=letter.topic, key=key, headers=headers, value=self.value,
            money=self.money, now_ms=now_ms,
        )
        return letter._replace(key=key, headers=[*headers.items(), *signature])


def _changed(**head: bytes | None) -> Callable[[Said], Letter]:
    """After the signature."""

    def seal(said: Said) -> Letter:
        letter = said.signed()
        return letter._replace(headers=[(n, head.get(n, v)) for n, v in letter.headers])

    return seal


def _dropped(*names: str) -> Callable[[Said], Letter]:
    def seal(said: Said) -> Letter:
        letter = said.signed()
        return letter._replace(headers=[(n, v) for n, v in letter.headers if n not in names])

    return seal


def _added(*more: tuple[str, bytes | None], before: bool = False) -> Callable[[Said], Letter]:
    def seal(said: Said) -> Letter:
        letter = said.signed()
        return letter._replace(headers=[*more, *letter.headers] if before else [*letter.headers, *more])

    return seal


def _doubled(name: str) -> Callable[[Said], Letter]:
    def seal(said: Said) -> Letter:
        letter = said.signed()
        return letter._replace(headers=[*letter.headers, (name, dict(letter.headers)[name])])

    return seal


def _flipped(said: Said) -> Letter:
    letter = said.signed()
    signature = bytearray(a2b_base64(dict(letter.headers)["sig"] or b""))
    signature[-1] ^= 128
    return _changed(sig=b2a_base64(bytes(signature), newline=False))(said)


def _borrowed(said: Said) -> Letter:
    older = dict(said.partner.signed(said.type_name, said.key, b"{}").headers)
    letter = said.signed()
    return letter._replace(headers=[(n, older[n] if n.startswith("sig") else v) for n, v in letter.headers])


def _structured(said: Said) -> Letter:
    """The same as a CloudEvent in structured mode: its attributes stand in the value, which is signed."""
    head = {n: (v or b"").decode() for n, v in said.signed().headers if n.startswith("ce_")}
    event = {n.removeprefix("ce_"): v for n, v in head.items()}
    value = b'%s,"data":%s}' % (encode(event)[:-1], said.value)
    letter = said._replace(value=value).resigned({n: v.encode() for n, v in head.items()})
    kept = [(n, v) for n, v in letter.headers if n.startswith("sig")]
    return letter._replace(headers=[("content-type", b"application/cloudevents+json"), *kept])


def _structured_twice(said: Said) -> Letter:
    letter = _structured(said)
    return letter._replace(headers=[*letter.headers, ("ce_id", b"another")])


def _at(offset_ms: int) -> Callable[[Said], Letter]:
    return lambda said: said.resigned(now_ms=int(time.time() * 1000) + offset_ms)


def _forgeries() -> list[Envelope]:
    made = [
        Envelope("a flipped signature", _flipped, FORGED),
        Envelope("an older signature", _borrowed, FORGED),
        Envelope(
            "another partner's key",
            lambda said: said.partner.signed(said.type_name, said.key, said.value, keys=said.thief.keys),
            FORGED,
        ),
        Envelope("unsigned", _dropped("sig", "sig_key", "sig_at"), FORGED),
        Envelope("a key nobody has", _changed(sig_key=b"bank.99"), FORGED),
        Envelope("a signature that is no base64", _changed(sig=b"*not*base64*"), FORGED),
        Envelope("a long signature", _changed(sig=b"A" * 2000), FORGED),
        Envelope("a negative instant", _changed(sig_at=b"-1"), FORGED),
        Envelope("an instant of 400 digits", _changed(sig_at=b"9" * 400), FORGED),
        Envelope("an instant in other digits", _changed(sig_at="１２３".encode()), FORGED),
        Envelope("another id", _changed(ce_id=uuid7().encode()), FORGED),
        Envelope("another source", _changed(ce_source=b"/channels/pigeon"), FORGED),
        Envelope("a body that grew", lambda said: said.signed()._replace(value=said.value + b" "), FORGED),
        Envelope("another key behind", lambda said: said.signed()._replace(key=b"nobody"), FORGED),
        Envelope("a line break in the id", lambda said: said.resigned({"ce_id": b"a\nb"}), FORGED),
        Envelope("signed long ago", _at(-_SKEW_MS), SKEWED),
        Envelope("signed too early", _at(_SKEW_MS), SKEWED),
    ]
    for name in _SIGNED:
        made += [
            Envelope(f"no {name}", _dropped(name), FORGED),
            Envelope(f"{name} without a value", _changed(**{name: None}), FORGED),
            Envelope(f"{name} in binary", _changed(**{name: _BINARY}), FORGED),
            Envelope(f"{name} empty", _changed(**{name: b""}), FORGED),
            Envelope(f"{name} twice", _doubled(name), TWICE),
        ]
    return made


def _harmless() -> list[Envelope]:
    return [
        Envelope("as it should be", Said.signed, _HANDLED),
        Envelope("in structured mode", _structured, _HANDLED),
        Envelope("no content type", _dropped("content-type"), _HANDLED),
        Envelope("another content type", _changed(**{"content-type": b"text/plain"}), _HANDLED),
        Envelope("no ce_specversion", _dropped("ce_specversion"), _HANDLED),
        Envelope("a strange header", _added(("x-strange", _BINARY)), _HANDLED),
        Envelope("a header without a value", _added(("x-strange", None)), _HANDLED),
        Envelope("a header without a name", _added(("", b"x")), _HANDLED),
        Envelope("a broken traceparent", _added(("traceparent", _BINARY)), _HANDLED),
        Envelope("a traceparent of zeros", _added(("traceparent", b"00-" + b"0" * 32 + b"-0-0")), _HANDLED),
        Envelope("a ce_subject in binary", _added(("ce_subject", _BINARY)), _HANDLED),
        Envelope("a ce_sequence", _added(("ce_sequence", b"-" + b"9" * 400)), _HANDLED),
        Envelope("an id that is none of ours", lambda said: said.resigned({"ce_id": b"order 66"}), _HANDLED),
        Envelope("a time that is none", lambda said: said.resigned({"ce_time": b"yesterday"}), _HANDLED),
        Envelope("a signature in front", _added(("SIG", b"x"), before=True), _HANDLED),
    ]


def _misplaced() -> list[Envelope]:
    owner = Due("parked", ("BODY_INVALID",))
    unknown = Due("parked", ("TYPE_UNKNOWN",))
    return [
        Envelope("a strange header twice", _added(("x-a", b"1"), ("x-a", b"1")), TWICE),
        Envelope("a type twice", _doubled("ce_type"), TWICE),
        Envelope("structured and binary", _structured_twice, TWICE),
        Envelope("no type", _dropped("ce_type"), owner, by_owner=True),
        Envelope("no headers", lambda said: said.signed()._replace(headers=[]), owner, by_owner=True),
        Envelope("a type without a value", _changed(ce_type=None), owner, by_owner=True),
        Envelope("a type in binary", _changed(ce_type=_BINARY), unknown, by_owner=True),
        Envelope("a type of 4,000", _changed(ce_type=b"a" * 4000), unknown, by_owner=True),
        Envelope(
            "a type in capitals", lambda said: _named(said, said.type_name.upper()), unknown, by_owner=True
        ),
        Envelope("a type of nobody", lambda said: _named(said, "payment.bribe.v1"), unknown, by_owner=True),
        Envelope(
            "a type of tomorrow",
            lambda said: _named(said, said.type_name.rpartition(".v")[0] + ".v9"),
            Due("parked", ("VERSION_UNSUPPORTED",)),
            by_owner=True,
        ),
        Envelope("another record key", lambda said: said.resigned(key=b"somebody-else"), _OTHER_KEY),
        Envelope("an empty record key", lambda said: said.resigned(key=b""), _OTHER_KEY),
        Envelope("no record key", lambda said: said.resigned(key=b"")._replace(key=None), _OTHER_KEY),
        Envelope("a long record key", lambda said: said.resigned(key=b"k" * 129), _NO_KEY),
        Envelope("a NUL in the record key", lambda said: said.resigned(key=b"a\0b"), _NO_KEY),
        Envelope(
            "a record key in binary",
            lambda said: said.resigned(key=b"\xff\x80"),
            Due("parked", ("BODY_INVALID",)),
            late=True,
        ),
        Envelope(
            "a time in binary",
            lambda said: said.resigned({"ce_time": b"\xff"}),
            Due("parked", ("BODY_INVALID",)),
            late=True,
        ),
    ]


def _named(said: Said, type_name: str) -> Letter:
    return said.partner.signed(type_name, said.key, said.value)


ENVELOPES = (*_forgeries(), *_harmless(), *_misplaced())
# Only what claims that money moved needs more than a shared secret.
CHEAP = Envelope(
    "a cheap signature",
    lambda said: said.partner.signed(said.type_name, said.key, said.value, money=False),
    FORGED,
)
