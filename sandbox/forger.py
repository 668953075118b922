"""How is a signature forged? Each way makes of what a partner could say a record that it never said."""

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable

from sandbox.partner import Letter, Partner
from services.chassis.ids import uuid7

Head = dict[str, bytes | None]


def forge(kind: str, partner: Partner, thief: Partner, *, type_name: str, key: str, body: bytes) -> Letter:
    """A record on `partner`'s topic that `partner` did not sign so. thief: another partner, with its own
    keys.

    KeyError: no such way to forge.
    """
    if kind == "another partner's key":
        return partner.signed(type_name, key, body, keys=thief.keys)
    if kind == "cheap signature on money":
        return partner.signed(type_name, key, body, money=False)
    if kind == "changed body":
        return partner.signed(type_name, key, body + b" ")._replace(value=body)
    if kind == "changed key":
        return partner.signed(type_name, key[::-1], body)._replace(key=key.encode())
    if kind == "signature of an older message":
        older = dict(partner.signed(type_name, key, b"{}").headers)
        return _changed(
            partner.signed(type_name, key, body),
            lambda head: {n: older[n] for n in ("sig_key", "sig_at", "sig")},
        )
    return _changed(partner.signed(type_name, key, body), _CHANGES[kind])


def _flipped(head: Head) -> Head:
    signature = bytearray(a2b_base64(head["sig"] or b""))
    signature[0] ^= 1
    return {"sig": b2a_base64(bytes(signature), newline=False)}


_CHANGES: dict[str, Callable[[Head], Head]] = {
    "flipped signature": _flipped,
    "made-up key": lambda head: {"sig_key": (head["sig_key"] or b"").replace(b".1", b".99")},
    "changed type": lambda head: {
        "ce_type": b"enrollment.register_account.v1"
        if head["ce_type"] != b"enrollment.register_account.v1"
        else b"enrollment.submit_enrollment.v1"
    },
    "changed id": lambda head: {"ce_id": uuid7().encode()},
    "unsigned": lambda head: {"sig": None, "sig_key": None, "sig_at": None},
}


def _changed(letter: Letter, change: Callable[[Head], Head]) -> Letter:
    """The letter with some headers replaced; one that becomes None is left out."""
    head: Head = dict(letter.headers)
    head |= change(head)
    return letter._replace(headers=[(name, value) for name, value in head.items() if value is not None])
