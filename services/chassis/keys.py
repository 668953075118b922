"""Which secrets does a process hold, and what are they for? Seal, open, index, digest, sign, verify."""

import hmac
import os
from binascii import Error as NotBase64
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from msgspec import Struct

from contracts.message import Sealed

RSA = "RSA-SHA256"      # PKCS #1 v1.5 over 2048 bits or more: what may say that money moved
HMAC = "HMAC-SHA256"
Inside = TypeVar("Inside", bound=Struct)
_NONCE = 12


class SealKey(Struct, frozen=True, kw_only=True):
    """One AES-256 key of a pair: what sealer closes, reader opens. secret: base64 of 32 bytes."""

    key_id: str
    sealer: str
    reader: str
    secret: str


class SigningKey(Struct, frozen=True, kw_only=True):
    """A partner's own key. private_pem for RSA-SHA256, secret (base64) for HMAC-SHA256."""

    key_id: str
    partner: str
    algorithm: str
    private_pem: str = ""
    secret: str = ""


class VerifyingKey(Struct, frozen=True, kw_only=True):
    """How a service recognises a partner. public_pem for RSA-SHA256, secret (base64) for HMAC-SHA256."""

    key_id: str
    partner: str
    algorithm: str
    public_pem: str = ""
    secret: str = ""


class KeyFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in <principal>.json. The newest key of a kind stands last; it is what seals and signs."""

    principal: str
    seals: list[SealKey] = []
    blind: dict[str, str] = {}
    digest: str = ""
    signing: list[SigningKey] = []
    verifying: list[VerifyingKey] = []


class SealBroken(Exception):
    """A seal does not open here. The text names the part that is wrong: key_id, reader or box."""


class Verifier:
    """One partner's key as we know it. The algorithm is ours to say, never the message's."""

    __slots__ = ("asymmetric", "matches", "partner")

    def __init__(self, key: VerifyingKey) -> None:
        self.partner = key.partner
        self.asymmetric = key.algorithm == RSA
        self.matches = _rsa_check(key) if self.asymmetric else _hmac_check(key)


class Keyring:
    """The keys of one principal, ready for use by any task or thread."""

    def __init__(self, file: KeyFile) -> None:
        me = self.principal = file.principal
        boxes = {key.key_id: AESGCM(_secret(key.secret, key.key_id)) for key in file.seals}
        self._opens = {key.key_id: (key.reader, boxes[key.key_id]) for key in file.seals}
        self._seals = {key.reader: (key.key_id, boxes[key.key_id]) for key in file.seals if key.sealer == me}
        self._blind = {purpose: _secret(secret, purpose) for purpose, secret in file.blind.items()}
        self._digest = _secret(file.digest, "digest") if file.digest else None
        self._decoders: dict[type[Struct], msgspec.json.Decoder[Struct]] = {}
        self.verifiers = {key.key_id.encode(): Verifier(key) for key in file.verifying}
        self.signers = {key.algorithm: (key.key_id, _signer(key)) for key in file.signing}

    def seal(self, value: Struct, *, reader: str, place: str) -> Sealed[Inside]:
        """Close a C2 value for one reader, bound to its class and to its place (an id the reader knows).

        KeyError: no key for this reader. Nonces are random: change a key before it has sealed 2**32 values.
        """
        key_id, box = self._seals[reader]
        nonce = os.urandom(_NONCE)
        closed = nonce + box.encrypt(nonce, msgspec.json.encode(value), _bound(reader, type(value), place))
        return Sealed(reader=reader, key_id=key_id, box=b2a_base64(closed, newline=False).decode())

    def open(self, sealed: Sealed[Inside], kind: type[Inside], *, place: str) -> Inside:
        """What is inside. SealBroken: not our key, another place or class, or changed on the way."""
        known = self._opens.get(sealed.key_id)
        if known is None:
            raise SealBroken("key_id")
        reader, box = known
        if sealed.reader != reader:
            raise SealBroken("reader")
        try:
            closed = a2b_base64(sealed.box, strict_mode=True)
            inside = box.decrypt(closed[:_NONCE], closed[_NONCE:], _bound(reader, kind, place))
            return self._decoder(kind).decode(inside)
        except (NotBase64, InvalidTag, ValueError):     # msgspec's errors are ValueErrors
            raise SealBroken("box") from None

    def blind(self, purpose: str, text: str) -> bytes:
        """A blind index of 32 bytes: equal texts give equal bytes, and nobody without the key can try texts.

        The caller normalises the text. KeyError: no key for this purpose.
        """
        return hmac.digest(self._blind[purpose], text.encode(), "sha256")

    def request_digest(self, canonical: bytes) -> bytes:
        """The digest (32 bytes) of a command's body. It covers opened seals, therefore it is keyed.

        KeyError: this principal takes no commands and has no such key.
        """
        if self._digest is None:
            raise KeyError("digest")
        return hmac.digest(self._digest, canonical, "sha256")

    def _decoder(self, kind: type[Inside]) -> msgspec.json.Decoder[Inside]:
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.json.Decoder(kind)
        return decoder  # type: ignore[return-value]  # the entry of a class decodes that class


def load_keyring(path: str | Path) -> Keyring:
    """The keyring of a file. SystemExit with one clear line: it is missing, wrong, or others may read it."""
    try:
        if os.stat(path).st_mode & 0o077:
            raise SystemExit(f"{path}: others may read this key file; chmod 600 it")
        return Keyring(msgspec.json.decode(Path(path).read_bytes(), type=KeyFile))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: {type(error).__name__}: {error}") from None


def _bound(reader: str, kind: type[Struct], place: str) -> bytes:
    return f"{reader}|{kind.__name__}|{place}".encode()


def _rsa_check(key: VerifyingKey) -> Callable[[bytes, bytes], bool]:
    public = load_pem_public_key(key.public_pem.encode())
    if not isinstance(public, RSAPublicKey) or public.key_size < 2048:
        raise ValueError(f"{key.key_id}: expected an RSA public key of at least 2048 bits")
    padding, digest = PKCS1v15(), SHA256()

    def matches(signature: bytes, signed: bytes) -> bool:
        try:
            public.verify(signature, signed, padding, digest)
        except InvalidSignature:
            return False
        return True

    return matches


def _hmac_check(key: VerifyingKey) -> Callable[[bytes, bytes], bool]:
    secret = _hmac_secret(key)
    return lambda signature, signed: hmac.compare_digest(signature, hmac.digest(secret, signed, "sha256"))


def _signer(key: SigningKey) -> Callable[[bytes], bytes]:
    if key.algorithm == RSA:
        private = load_pem_private_key(key.private_pem.encode(), None)
        if not isinstance(private, RSAPrivateKey):
            raise ValueError(f"{key.key_id}: expected an RSA private key")
        return lambda signed: private.sign(signed, PKCS1v15(), SHA256())
    secret = _hmac_secret(key)
    return lambda signed: hmac.digest(secret, signed, "sha256")


def _hmac_secret(key: SigningKey | VerifyingKey) -> bytes:
    if key.algorithm != HMAC:
        raise ValueError(f"{key.key_id}: algorithm {key.algorithm!r}, expected {RSA} or {HMAC}")
    return _secret(key.secret, key.key_id)


def _secret(text: str, name: str) -> bytes:
    """32 bytes of key. An empty or short key would work and protect nothing, so it is an error."""
    try:
        secret = a2b_base64(text, strict_mode=True)
    except NotBase64:
        secret = b""
    if len(secret) != 32:
        raise ValueError(f"{name}: expected 32 bytes as base64")
    return secret
