"""How do we talk to the payment provider (WeChat Pay API v3)? Signs, calls, verifies, translates; decides nothing."""

import asyncio
import base64
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

import aiohttp
import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from msgspec import Struct

from contracts.reasons import Reason
from services.chassis.calls import NotSent, Unknown
from services.payment.rules import AskOrder, OrderPlaced, OrderRefused, OrderState, PlaceOrder, ProviderPaid

ALGORITHM = "WECHATPAY2-SHA256-RSA2048"
CIPHER = "AEAD_AES_256_GCM"
CLOCK_SKEW_SECONDS = 300
MOST_CALLBACK_BYTES = 65_536            # a real one is about 1 KB
BEIJING = timezone(timedelta(hours=8))  # the protocol's times are written in +08:00
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_DECIMAL = re.compile(r"[0-9]{1,12}")
_ORDER_NO = re.compile(r"[0-9a-f]{32}")

Form = TypeVar("Form", bound=Struct)


class NotAccepted(Exception):
    """A callback that must not be answered with success. reason says why, detail where, without personal data."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.name}: {detail}")
        self.reason, self.detail = reason, detail


class Forged(NotAccepted):
    """The provider did not say this."""


class Stale(NotAccepted):
    """The provider said it, but longer ago (or later) than five minutes: somebody kept it, or a clock is wrong."""


class Unreadable(NotAccepted):
    """The provider said it, but not to this merchant, not under our key, or not about a payment. It will repeat it."""


class Account(Struct, frozen=True, kw_only=True):
    """Who we are to the provider. platform: its public keys by serial, several while it rotates. apiv3_key: 32 characters."""

    mchid: str
    appid: str
    serial: str
    private_pem: str
    apiv3_key: str
    platform: dict[str, str]


def read_account(path: Path) -> Account:
    """The account from its file. OSError or msgspec.ValidationError: there is none, or it is not one."""
    return msgspec.json.decode(path.read_bytes(), type=Account)


class _Amount(Struct, frozen=True):
    total: int
    payer_total: int = 0
    currency: str = "CNY"


class _Transaction(Struct, frozen=True):
    appid: str
    mchid: str
    out_trade_no: str
    trade_state: str
    amount: _Amount = _Amount(total=0)     # absent until it is paid
    transaction_id: str = ""
    success_time: datetime | None = None
    attach: str = ""


class _Resource(Struct, frozen=True):
    algorithm: str
    ciphertext: str
    nonce: str
    associated_data: str = ""


class _Notice(Struct, frozen=True):
    id: str
    event_type: str
    resource: _Resource


class _Error(Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Placed(Struct, frozen=True):
    code_url: str


_notice = msgspec.json.Decoder(_Notice)
_transaction = msgspec.json.Decoder(_Transaction)


class WeChat:
    """The provider as payment sees it. Use as `async with`; one instance a process.

    send and ask raise NotSent (it surely did nothing) or Unknown (we can't tell); they never retry.
    Only answers that the provider signed count: an unsigned one, from whatever stands between us, is Unknown.
    """

    def __init__(self, account: Account, *, url: str, callback_url: str, timeout_seconds: float = 5.0,
                 connections: int = 64, clock: Callable[[], float] = time.time) -> None:  # noqa: TID251 signatures are by the system clock
        self.account, self.url, self.callback_url = account, url.rstrip("/"), callback_url
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=timeout_seconds / 2)
        self._connections = connections
        self._key = _private(account.private_pem)
        self._platform = {serial: _public(pem) for serial, pem in account.platform.items()}
        self._cipher = AESGCM(account.apiv3_key.encode())
        # An RSA signature costs 0.3 to 1 ms of CPU: on the loop it would stand before every other answer.
        self._signers = ThreadPoolExecutor(2, thread_name_prefix="wechat-sign")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self.url, timeout=self._timeout, connector=aiohttp.TCPConnector(limit=self._connections),
            headers={"Accept": "application/json", "Content-Type": "application/json"},
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self._session.close()
        self._signers.shutdown(wait=False)

    async def send(self, request: PlaceOrder | AskOrder) -> OrderPlaced | OrderRefused | OrderState:
        """Place an order, or ask for one's state. Placing the same order twice is one order."""
        if isinstance(request, AskOrder):
            return await self._state(request)
        return await self._place(request)

    async def ask(self, request: PlaceOrder | AskOrder) -> OrderPlaced | OrderRefused | OrderState | None:
        """What became of a request whose outcome is unknown. None: it never arrived, so it may be sent again."""
        if isinstance(request, AskOrder):
            return await self._state(request)
        found = await self._query(request.order_no)
        if found is None:
            return None
        if found.trade_state in ("NOTPAY", "USERPAYING"):
            return await self._place(request)      # the only way to hear the code_url again
        return _placed(request, "") if found.trade_state in ("SUCCESS", "REFUND") else _refused(
            request, _Error(code=f"ORDER_{found.trade_state}", message="the order is over"))

    def read_callback(self, headers: Mapping[str, str], body: bytes) -> ProviderPaid:
        """What a callback says, once we know that the provider says it to us. Raises Forged, Stale or Unreadable.

        headers: of the request, names in any case; `items()` may repeat a name (then it is forged). body: as received.
        A replay within five minutes passes: the provider itself repeats, and whoever handles it knows the order.
        """
        if len(body) > MOST_CALLBACK_BYTES:
            raise Forged(Reason.BODY_INVALID, f"{len(body)} bytes")
        signed = _signature_headers(headers.items())
        self._verify(signed, body)
        if abs(self._clock() - int(signed["wechatpay-timestamp"])) > CLOCK_SKEW_SECONDS:
            raise Stale(Reason.CLOCK_SKEW, "wechatpay-timestamp")
        try:
            notice = _notice.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Unreadable(Reason.BODY_INVALID, "notice") from error
        if notice.event_type != "TRANSACTION.SUCCESS":
            raise Unreadable(Reason.TYPE_UNKNOWN, "event_type")
        return self._payment(notice, self._open(notice.resource))

    # ---- the protocol

    async def _place(self, order: PlaceOrder) -> OrderPlaced | OrderRefused:
        body = {
            "appid": self.account.appid, "mchid": self.account.mchid, "description": order.description,
            "out_trade_no": order.order_no, "time_expire": order.expires_at.astimezone(BEIJING).isoformat(timespec="seconds"),
            "attach": _pack(order.person_id, order.obligation_ids), "notify_url": self.callback_url,
            "amount": {"total": order.amount_fen, "currency": "CNY"},
        }
        status, answer = await self._call("POST", "/v3/pay/transactions/native", msgspec.json.encode(body))
        if status == 200:
            return _placed(order, _read(answer, _Placed).code_url)
        error = _read(answer, _Error)
        return _placed(order, "") if error.code == "ORDERPAID" else _refused(order, error)

    async def _state(self, asked: AskOrder) -> OrderState:
        found = await self._query(asked.order_no)
        names = _names(asked)
        if found is None:
            return OrderState(**names, round=asked.round, state="ABSENT")
        return OrderState(
            **names, round=asked.round, state=found.trade_state, amount_fen=found.amount.total,
            payer_fen=found.amount.payer_total, currency=found.amount.currency, transaction_id=found.transaction_id,
            paid_at=found.success_time and found.success_time.astimezone(UTC),
        )

    async def _query(self, order_no: str) -> _Transaction | None:
        status, answer = await self._call("GET", f"/v3/pay/transactions/out-trade-no/{order_no}?mchid={self.account.mchid}")
        if status == 200:
            found = _read(answer, _Transaction)
            if (found.mchid, found.out_trade_no) != (self.account.mchid, order_no):
                raise Unknown("the answer is about another order")
            return found
        error = _read(answer, _Error)
        if error.code == "ORDER_NOT_EXIST":
            return None
        raise Unknown(f"query: {status} {error.code}")

    async def _call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """One signed request and its verified answer. A provider that is busy or failing raises."""
        stamp, nonce = str(int(self._clock())), secrets.token_hex(16)
        text = b"%s\n%s\n%s\n%s\n%s\n" % (method.encode(), path.encode(), stamp.encode(), nonce.encode(), body)
        signature = await asyncio.get_running_loop().run_in_executor(self._signers, self._sign, text)
        authorization = (f'{ALGORITHM} mchid="{self.account.mchid}",nonce_str="{nonce}",timestamp="{stamp}",'
                         f'serial_no="{self.account.serial}",signature="{signature}"')
        async with _outcomes(), self._session.request(
            method, path, data=body or None, headers={"Authorization": authorization}, allow_redirects=False
        ) as response:
            answer = await response.read()
            status, headers = response.status, response.headers
        if status == 429:
            raise NotSent("the provider asks for patience", after_seconds=_seconds(headers.get("Retry-After", "")))
        try:
            self._verify(_signature_headers(headers.items()), answer)
        except Forged as forged:
            raise Unknown(f"{status} without the provider's signature: {forged.detail}") from forged
        if status >= 500:
            raise Unknown(f"the provider failed: {status}")
        return status, answer

    def _sign(self, text: bytes) -> str:
        return base64.b64encode(self._key.sign(text, PKCS1v15(), hashes.SHA256())).decode()

    def _verify(self, signed: dict[str, str], body: bytes) -> None:
        """Is it signed by a platform key we know, over exactly these bytes? The key decides how long a signature is."""
        key = self._platform.get(signed["wechatpay-serial"])
        if key is None:
            raise Forged(Reason.SIGNATURE_INVALID, "wechatpay-serial")
        text = b"%s\n%s\n%s\n" % (signed["wechatpay-timestamp"].encode(), signed["wechatpay-nonce"].encode(), body)
        try:
            key.verify(base64.b64decode(signed["wechatpay-signature"]), text, PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, ValueError) as error:
            raise Forged(Reason.SIGNATURE_INVALID, "wechatpay-signature") from error

    def _open(self, box: _Resource) -> _Transaction:
        if box.algorithm != CIPHER:
            raise Unreadable(Reason.BODY_INVALID, "resource.algorithm")
        try:
            clear = self._cipher.decrypt(box.nonce.encode(), base64.b64decode(box.ciphertext, validate=True),
                                         box.associated_data.encode())
            return _transaction.decode(clear)
        except (InvalidTag, ValueError) as error:       # a msgspec.DecodeError is a ValueError, too
            raise Unreadable(Reason.BODY_INVALID, "resource") from error

    def _payment(self, notice: _Notice, paid: _Transaction) -> ProviderPaid:
        if (paid.mchid, paid.appid) != (self.account.mchid, self.account.appid):
            raise Unreadable(Reason.NOT_PERMITTED, "mchid")
        if paid.success_time is None or paid.success_time.tzinfo is None:
            raise Unreadable(Reason.BODY_INVALID, "success_time")
        person_id, obligation_ids = _unpack(paid.attach)
        return ProviderPaid(
            order_id=_order_id(paid.out_trade_no), order_no=paid.out_trade_no, person_id=person_id,
            obligation_ids=obligation_ids, notice_id=notice.id, state=paid.trade_state, amount_fen=paid.amount.total,
            payer_fen=paid.amount.payer_total, currency=paid.amount.currency, transaction_id=paid.transaction_id,
            paid_at=paid.success_time.astimezone(UTC),
        )


@asynccontextmanager
async def _outcomes() -> AsyncIterator[None]:
    """What the network did, in the two words the chassis knows. No connection: surely not sent. Else we can't tell."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise NotSent(type(error).__name__) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unknown(type(error).__name__) from error


def _signature_headers(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The four signature headers, each there exactly once and in form, and no other algorithm than ours named."""
    names = ("wechatpay-timestamp", "wechatpay-nonce", "wechatpay-signature", "wechatpay-serial")
    found: dict[str, str] = {}
    for name, value in items:
        lowered = name.lower()
        if lowered in names:
            if lowered in found:
                raise Forged(Reason.SIGNATURE_INVALID, f"{lowered} twice")
            found[lowered] = value
        elif lowered == "wechatpay-signature-type" and value != ALGORITHM:
            raise Forged(Reason.SIGNATURE_INVALID, lowered)
    for name in names:
        if not found.get(name):
            raise Forged(Reason.SIGNATURE_INVALID, f"{name} missing")
    if not _DECIMAL.fullmatch(found["wechatpay-timestamp"]):
        raise Forged(Reason.SIGNATURE_INVALID, "wechatpay-timestamp")
    if not _BASE64.fullmatch(found["wechatpay-signature"]):
        raise Forged(Reason.SIGNATURE_INVALID, "wechatpay-signature")
    return found


def _pack(person_id: str, obligation_ids: list[str]) -> str:
    """Payer and obligations as the provider's `attach`: 16 bytes each, base64, 128 characters at most."""
    return base64.urlsafe_b64encode(b"".join(UUID(each).bytes for each in (person_id, *obligation_ids))).decode()


def _unpack(attach: str) -> tuple[str, list[str]]:
    """Payer and obligations of an `attach` of ours; empty for any other."""
    try:
        packed = base64.urlsafe_b64decode(attach)
    except ValueError:
        return "", []
    if not packed or len(packed) % 16:
        return "", []
    first, *others = (str(UUID(bytes=packed[at:at + 16])) for at in range(0, len(packed), 16))
    return first, others


def _order_id(order_no: str) -> str:
    """The order that an order_no names, the inverse of rules.number_of; for a stranger's number an id that nobody has."""
    return str(UUID(hex=order_no) if _ORDER_NO.fullmatch(order_no) else uuid5(NAMESPACE_URL, order_no))


def _names(request: PlaceOrder | AskOrder) -> dict[str, Any]:
    return {"provider": request.provider, "order_id": request.order_id, "order_no": request.order_no,
            "person_id": request.person_id, "obligation_ids": request.obligation_ids}


def _placed(order: PlaceOrder, pay_url: str) -> OrderPlaced:
    return OrderPlaced(**_names(order), amount_fen=order.amount_fen, pay_url=pay_url)


def _refused(order: PlaceOrder, error: _Error) -> OrderRefused:
    return OrderRefused(**_names(order), code=error.code or "UNNAMED", detail=error.message[:200])


def _read(answer: bytes, form: type[Form]) -> Form:
    try:
        return msgspec.json.decode(answer, type=form)
    except msgspec.MsgspecError as error:
        raise Unknown(f"the provider's answer is no {form.__name__}") from error


def _seconds(text: str) -> float:
    return float(text) if _DECIMAL.fullmatch(text) else 1.0


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
