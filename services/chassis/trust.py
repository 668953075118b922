"""Who says so? The signature of a partner's message: who signs, what is signed, and what makes it void."""

import time
from binascii import Error as NotBase64
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from hashlib import sha256

from contracts.partners import PARTNERS
from contracts.reasons import Reason
from services.chassis.keys import HMAC, RSA, Keyring

FRESH_MS = 300_000
_FIELDS = 9
_LONGEST_SIGNATURE = 1024
# Identity is the topic: only the partner itself may write there. ce_source must agree with it.
_WHO = {
    partner.topic: (partner.code, b"/" + partner.topic.replace(".", "/").encode())
    for partner in PARTNERS.values()
}


def source_of(topic: str) -> str:
    """What ce_source must say in a message on a partner's topic. KeyError: no partner's topic."""
    return _WHO[topic][1].decode()


def sign(keyring: Keyring, *, topic: str, key: bytes, headers: Mapping[str, bytes], value: bytes, money: bool,
         now_ms: int | None = None) -> list[tuple[str, bytes]]:
    """The headers sig_key, sig_at, sig for a partner's message whose CloudEvents headers are given.

    money: it claims that money moved, so it is signed with RSA instead of a shared secret. now_ms: the
    system clock. KeyError: a CloudEvents header is missing, or there is no key of this kind.
    """
    key_id, signer = keyring.signers[RSA if money else HMAC]
    at = b"%d" % (time.time_ns() // 1_000_000 if now_ms is None else now_ms)
    signed = _signed(key_id.encode(), at, topic.encode(), key, headers["ce_id"], headers["ce_type"],
                     headers["ce_time"], headers["ce_source"], value)
    return [("sig_key", key_id.encode()), ("sig_at", at), ("sig", b2a_base64(signer(signed), newline=False))]


def verify(keyring: Keyring, *, topic: str, key: bytes, headers: Mapping[str, bytes | None], value: bytes,
           broker_ms: int, money: bool) -> Reason | None:
    """None: the partner of this topic signed exactly this, within 5 minutes of its arrival. Else why not;
    never raises.

    broker_ms: when the broker (or the door) took it, so an outage's backlog is not stale. money: it claims
    that money moved, so a shared secret is not enough: whoever checks one could also have made it.
    """
    get = headers.get
    key_id, at, signature, source = get("sig_key"), get("sig_at"), get("sig"), get("ce_source")
    ce_id, ce_type, ce_time = get("ce_id"), get("ce_type"), get("ce_time")
    if not (key_id and at and signature and source and ce_id and ce_type and ce_time):
        return Reason.SIGNATURE_INVALID
    known = keyring.verifiers.get(key_id)
    if known is None or _WHO.get(topic) != (known.partner, source) or (money and not known.asymmetric):
        return Reason.SIGNATURE_INVALID
    if len(signature) > _LONGEST_SIGNATURE or len(at) > 15 or not at.isdigit():
        return Reason.SIGNATURE_INVALID
    signed = _signed(key_id, at, topic.encode(), key, ce_id, ce_type, ce_time, source, value)
    # a line break inside a field would let two messages share a signature
    if signed.count(b"\n") != _FIELDS - 1:
        return Reason.SIGNATURE_INVALID
    try:
        sound = known.matches(a2b_base64(signature, strict_mode=True), signed)
    except NotBase64:
        return Reason.SIGNATURE_INVALID
    if not sound:
        return Reason.SIGNATURE_INVALID
    return None if -FRESH_MS <= int(at) - broker_ms <= FRESH_MS else Reason.CLOCK_SKEW


def _signed(key_id: bytes, at: bytes, topic: bytes, key: bytes, ce_id: bytes, ce_type: bytes, ce_time: bytes,
            source: bytes, value: bytes) -> bytes:
    """The bytes that are signed; the order is the partners' documentation."""
    return b"\n".join(
        (key_id, at, topic, key, ce_id, ce_type, ce_time, source, sha256(value).hexdigest().encode())
    )
