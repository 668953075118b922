"""How does WeChat Pay's API v3 sign, verify and seal, and what do its bodies say?

Nothing here calls anybody.
"""

import base64
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from msgspec import Struct

from contracts.reasons import Reason

ALGORITHM = "WECHATPAY2-SHA256-RSA2048"
CIPHER = "AEAD_AES_256_GCM"
CLOCK_SKEW_SECONDS = 300
_SIGNATURE_HEADERS = {
    "wechatpay-timestamp": re.compile(r"[0-9]{1,12}"),
    "wechatpay-nonce": re.compile(r"[\x21-\x7e]{1,128}"),
    "wechatpay-signature": re.compile(r"[A-Za-z0-9+/]+={0,2}"),
    "wechatpay-serial": re.compile(r"[\x21-\x7e]{1,128}"),
}


class NotAccepted(Exception):
    """A callback that must not be answered with success. reason: why. detail: where, no personal data."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.name}: {detail}")
        self.reason, self.detail = reason, detail


class Forged(NotAccepted):
    """The provider did not say this."""


class Stale(NotAccepted):
    """The provider said it, but over five minutes off our clock: it was kept, or a clock is wrong."""


class Unreadable(NotAccepted):
    """The provider said it, but to another merchant, under another key, or not about a payment."""


class Account(Struct, frozen=True, kw_only=True):
    """Who we are to the provider. platform: its public keys by serial, two while it changes them.

    private_pem: our RSA key, known to the provider by serial. apiv3_key: 32 characters, opens callbacks.
    """

    mchid: str
    appid: str
    serial: str
    private_pem: str
    apiv3_key: str
    platform: dict[str, str]


def read_account(path: Path) -> Account:
    """The account from its file. OSError or msgspec.ValidationError: there is none, or it is not one."""
    return msgspec.json.decode(path.read_bytes(), type=Account)


class Amount(Struct, frozen=True):
    """Whole fen. total: of the order. payer_total: what left the payer's purse, once paid."""

    total: int
    payer_total: int = 0
    currency: str = "CNY"


class Transaction(Struct, frozen=True):
    """An order in the provider's words: a query's answer, a callback's inside. success_time: with offset."""

    appid: str
    mchid: str
    out_trade_no: str
    trade_state: str
    amount: Amount = Amount(total=0)     # some states come without one
    transaction_id: str = ""
    success_time: datetime | None = None
    attach: str = ""


class Resource(Struct, frozen=True):
    """The sealed part of a callback."""

    algorithm: str
    ciphertext: str
    nonce: str
    associated_data: str = ""


class Notice(Struct, frozen=True):
    """A callback's body. id stays the same in every repeat."""

    id: str
    event_type: str
    resource: Resource


class ErrorBody(Struct, frozen=True):
    """What stands in every answer that is no success."""

    code: str = ""
    message: str = ""


class PlacedBody(Struct, frozen=True):
    """What a placed order is answered with."""

    code_url: str


_transaction = msgspec.json.Decoder(Transaction)


class Pen:
    """Our signature, and the eye for the provider's. May be used from any thread."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._private = _private(account.private_pem)
        self._platform = {serial: _public(pem) for serial, pem in account.platform.items()}
        self._cipher = AESGCM(account.apiv3_key.encode())

    def authorization(self, method: str, path: str, body: bytes, *, now: float) -> str:
        """The Authorization header of a request; costs 0.3 to 1 ms of CPU. path: with its query."""
        stamp, nonce = str(int(now)), secrets.token_hex(16)
        text = "\n".join((method, path, stamp, nonce, "")).encode() + body + b"\n"
        signature = base64.b64encode(self._private.sign(text, PKCS1v15(), hashes.SHA256())).decode()
        return (f'{ALGORITHM} mchid="{self._account.mchid}",nonce_str="{nonce}",timestamp="{stamp}",'
                f'serial_no="{self._account.serial}",signature="{signature}"')

    def check(self, headers: Iterable[tuple[str, str]], body: bytes, *, now: float) -> None:
        """Did the provider say exactly these bytes, now? Raises Forged or Stale. headers: as sent, any case.

        The key that the serial names decides the algorithm; a header that names another is a forgery.
        """
        signed = _signature_headers(headers)
        key = self._platform.get(signed["wechatpay-serial"])
        if key is None:
            raise Forged(Reason.SIGNATURE_INVALID, "wechatpay-serial")
        text = f"{signed['wechatpay-timestamp']}\n{signed['wechatpay-nonce']}\n".encode() + body + b"\n"
        try:
            key.verify(base64.b64decode(signed["wechatpay-signature"]), text, PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, ValueError) as error:
            raise Forged(Reason.SIGNATURE_INVALID, "wechatpay-signature") from error
        if abs(now - int(signed["wechatpay-timestamp"])) > CLOCK_SKEW_SECONDS:
            raise Stale(Reason.CLOCK_SKEW, "wechatpay-timestamp")

    def open(self, box: Resource) -> Transaction:
        """What a callback's resource holds.

        Unreadable: sealed otherwise, under another key, or no transaction.
        """
        if box.algorithm != CIPHER:
            raise Unreadable(Reason.BODY_INVALID, "resource.algorithm")
        try:
            sealed = base64.b64decode(box.ciphertext, validate=True)
            clear = self._cipher.decrypt(box.nonce.encode(), sealed, box.associated_data.encode())
            return _transaction.decode(clear)
        except (InvalidTag, ValueError) as error:       # msgspec's errors are ValueErrors
            raise Unreadable(Reason.BODY_INVALID, "resource") from error


def _signature_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The four signature headers, each exactly once and in form, and no algorithm named but ours."""
    found: dict[str, str] = {}
    for name, value in headers:
        lowered = name.lower()
        if lowered in _SIGNATURE_HEADERS:
            if lowered in found:
                raise Forged(Reason.SIGNATURE_INVALID, f"{lowered} twice")
            found[lowered] = value
        elif lowered == "wechatpay-signature-type" and value != ALGORITHM:
            raise Forged(Reason.SIGNATURE_INVALID, lowered)
    for name, form in _SIGNATURE_HEADERS.items():
        if not form.fullmatch(found.get(name, "")):
            raise Forged(Reason.SIGNATURE_INVALID, name)
    return found


def _private(pem: str) -> RSAPrivateKey:
    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("the merchant key is not RSA")
    return key


def _public(pem: str) -> RSAPublicKey:
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, RSAPublicKey) or key.key_size < 2048:
        raise ValueError("a platform key is not RSA-2048")
    return key
