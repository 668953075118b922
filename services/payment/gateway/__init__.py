"""How do we talk to the payment provider? Calls, verifies what comes back, translates; decides nothing."""

import asyncio
import base64
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, timedelta, timezone
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

import aiohttp
import msgspec
from msgspec import Struct

from contracts.reasons import Reason
from services.chassis.calls import NotSent, Unknown
from services.payment.gateway.wechat_v3 import (
    Account,
    ErrorBody,
    Forged,
    NotAccepted,
    Notice,
    Pen,
    PlacedBody,
    Stale,
    Transaction,
    Unreadable,
    read_account,
)
from services.payment.rules import AskOrder, OrderPlaced, OrderRefused, OrderState, PlaceOrder, ProviderPaid

__all__ = [
    "MOST_CALLBACK_BYTES",
    "Account",
    "Forged",
    "NotAccepted",
    "Stale",
    "Unreadable",
    "WeChat",
    "read_account",
]

MOST_CALLBACK_BYTES = 65_536            # a real one is about 1 KB
BEIJING = timezone(timedelta(hours=8))  # the protocol's times are written in +08:00
_ORDER_NO = re.compile(r"[0-9a-f]{32}")
_notice = msgspec.json.Decoder(Notice)

Form = TypeVar("Form", bound=Struct)


class WeChat:
    """The provider as payment sees it. Use as `async with`; one instance a process.

    send and ask raise NotSent (it surely did nothing) or Unknown (we can't tell); they never retry.
    Only answers that the provider signed count: an unsigned one, from whatever stands between us, is Unknown.
    """

    def __init__(
        self,
        account: Account,
        *,
        url: str,
        callback_url: str,
        timeout_seconds: float = 5.0,
        connections: int = 64,
        clock: Callable[[], float] = time.time,  # noqa: TID251  signatures are by the system clock
    ) -> None:
        self.account, self.url, self.callback_url = account, url.rstrip("/"), callback_url
        self._clock, self._pen = clock, Pen(account)
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=timeout_seconds / 2)
        self._connections = connections
        # A signature costs 0.3 to 1 ms of CPU: on the loop it would stand before every other answer.
        self._signers = ThreadPoolExecutor(2, thread_name_prefix="wechat-sign")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self.url, timeout=self._timeout, connector=aiohttp.TCPConnector(limit=self._connections),
            headers={"Accept": "application/json", "Content-Type": "application/json"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        self._signers.shutdown(wait=False)

    async def send(self, request: PlaceOrder | AskOrder) -> OrderPlaced | OrderRefused | OrderState:
        """Place an order, or ask for one's state. Placing the same order twice is one order."""
        if isinstance(request, AskOrder):
            return await self._state(request)
        return await self._place(request)

    async def ask(self, request: PlaceOrder | AskOrder) -> OrderPlaced | OrderRefused | OrderState | None:
        """What became of a request with an unknown outcome.

        None: it never arrived, so it may be sent again.
        """
        if isinstance(request, AskOrder):
            return await self._state(request)
        found = await self._query(request.order_no)
        if found is None:
            return None
        if found.trade_state in ("NOTPAY", "USERPAYING"):
            return await self._place(request)      # the only way to hear the code_url again
        if found.trade_state in ("SUCCESS", "REFUND"):
            return _placed(request, "")
        return _refused(request, ErrorBody(code=f"ORDER_{found.trade_state}", message="the order is over"))

    def read_callback(self, headers: Mapping[str, str], body: bytes) -> ProviderPaid:
        """What a callback says, once we know that the provider says it to us. Raises Forged, Stale,
        Unreadable.

        headers: of the request; where `items()` repeats a signature header, it is forged. body: as received.
        A replay within five minutes passes: the provider itself repeats, and whoever handles it knows the
        order.
        """
        if len(body) > MOST_CALLBACK_BYTES:
            raise Forged(Reason.BODY_INVALID, f"{len(body)} bytes")
        self._pen.check(headers.items(), body, now=self._clock())
        try:
            notice = _notice.decode(body)
        except ValueError as error:     # msgspec's errors are ValueErrors
            raise Unreadable(Reason.BODY_INVALID, "notice") from error
        if notice.event_type != "TRANSACTION.SUCCESS":
            raise Unreadable(Reason.TYPE_UNKNOWN, "event_type")
        return self._payment(notice.id, self._pen.open(notice.resource))

    async def _place(self, order: PlaceOrder) -> OrderPlaced | OrderRefused:
        body = {
            "appid": self.account.appid, "mchid": self.account.mchid, "description": order.description,
            "out_trade_no": order.order_no, "attach": _pack(order.person_id, order.obligation_ids),
            "time_expire": order.expires_at.astimezone(BEIJING).isoformat(timespec="seconds"),
            "notify_url": self.callback_url, "amount": {"total": order.amount_fen, "currency": "CNY"},
        }
        status, answer = await self._call("POST", "/v3/pay/transactions/native", msgspec.json.encode(body))
        if status == 200:
            return _placed(order, _read(answer, PlacedBody).code_url)
        error = _read(answer, ErrorBody)
        return _placed(order, "") if error.code == "ORDERPAID" else _refused(order, error)

    async def _state(self, asked: AskOrder) -> OrderState:
        found, names = await self._query(asked.order_no), _names(asked)
        if found is None:
            return OrderState(**names, round=asked.round, state="ABSENT")
        return OrderState(
            **names,
            round=asked.round,
            state=found.trade_state,
            amount_fen=found.amount.total,
            payer_fen=found.amount.payer_total,
            currency=found.amount.currency,
            transaction_id=found.transaction_id,
            paid_at=found.success_time and found.success_time.astimezone(UTC),
        )

    async def _query(self, order_no: str) -> Transaction | None:
        path = f"/v3/pay/transactions/out-trade-no/{order_no}?mchid={self.account.mchid}"
        status, answer = await self._call("GET", path)
        if status == 200:
            found = _read(answer, Transaction)
            if (found.mchid, found.out_trade_no) != (self.account.mchid, order_no):
                raise Unknown("the answer is about another order")
            return found
        error = _read(answer, ErrorBody)
        if error.code == "ORDER_NOT_EXIST":
            return None
        raise Unknown(f"query: {status} {error.code}")

    async def _call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """One signed request and its verified answer. A provider that is busy or failing raises."""
        authorization = await asyncio.get_running_loop().run_in_executor(
            self._signers, lambda: self._pen.authorization(method, path, body, now=self._clock()))
        async with _outcomes(), self._session.request(
            method, path, data=body or None, headers={"Authorization": authorization}, allow_redirects=False
        ) as response:
            answer = await response.read()
        if response.status == 429:
            wait = response.headers.get("Retry-After", "")
            raise NotSent("asked for patience", after_seconds=float(wait) if wait.isdecimal() else 1.0)
        try:
            self._pen.check(response.headers.items(), answer, now=self._clock())
        except NotAccepted as strange:
            raise Unknown(f"{response.status} that the provider did not sign: {strange.detail}") from strange
        if response.status >= 500:
            raise Unknown(f"the provider failed: {response.status}")
        return response.status, answer

    def _payment(self, notice_id: str, paid: Transaction) -> ProviderPaid:
        if (paid.mchid, paid.appid) != (self.account.mchid, self.account.appid):
            raise Unreadable(Reason.NOT_PERMITTED, "mchid")
        if paid.success_time is None or paid.success_time.tzinfo is None:
            raise Unreadable(Reason.BODY_INVALID, "success_time")
        person_id, obligation_ids = _unpack(paid.attach)
        return ProviderPaid(
            order_id=_order_id(paid.out_trade_no), order_no=paid.out_trade_no, person_id=person_id,
            obligation_ids=obligation_ids, notice_id=notice_id, state=paid.trade_state,
            amount_fen=paid.amount.total, payer_fen=paid.amount.payer_total, currency=paid.amount.currency,
            transaction_id=paid.transaction_id, paid_at=paid.success_time.astimezone(UTC),
        )


@asynccontextmanager
async def _outcomes() -> AsyncIterator[None]:
    """What the network did, in the chassis' two words. No connection: surely not sent. Else we can't tell."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise NotSent(type(error).__name__) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unknown(type(error).__name__) from error


def _pack(person_id: str, obligation_ids: list[str]) -> str:
    """Payer and obligations as the provider's `attach`: 16 bytes each, base64, 128 characters at most."""
    packed = b"".join(UUID(each).bytes for each in (person_id, *obligation_ids))
    return base64.urlsafe_b64encode(packed).decode()


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
    """The order that a number names, the inverse of rules.number_of; for a stranger's an id nobody has."""
    return str(UUID(hex=order_no) if _ORDER_NO.fullmatch(order_no) else uuid5(NAMESPACE_URL, order_no))


def _names(request: PlaceOrder | AskOrder) -> dict[str, Any]:
    return {"provider": request.provider, "order_id": request.order_id, "order_no": request.order_no,
            "person_id": request.person_id, "obligation_ids": request.obligation_ids}


def _placed(order: PlaceOrder, pay_url: str) -> OrderPlaced:
    return OrderPlaced(**_names(order), amount_fen=order.amount_fen, pay_url=pay_url)


def _refused(order: PlaceOrder, error: ErrorBody) -> OrderRefused:
    return OrderRefused(**_names(order), code=error.code or "UNNAMED", detail=error.message[:200])


def _read(answer: bytes, form: type[Form]) -> Form:
    try:
        return msgspec.json.decode(answer, type=form)
    except msgspec.MsgspecError as error:
        raise Unknown(f"the provider's answer is no {form.__name__}") from error
