"""What does WeChat Pay do? Takes signed orders, lets payers pay at its side door, keeps its own book."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import msgspec
from aiohttp import web
from msgspec import Struct

from sandbox.simulators.business_clock import BusinessClock
from sandbox.simulators.faults import NONE, Faults, check_faults, read_faults
from sandbox.simulators.process import book, json_answer, listening, main
from sandbox.simulators.wechat_callbacks import Courier
from sandbox.simulators.wechat_signing import Keys, Refused, read_keys

BEHAVIOURS = ("ok", "lost", "late", "duplicate", "wrong_amount", "not_paid")
FAULTS = frozenset({"place_timeout", "place_500", "place_429", "query_500"})
_ORDER_NO = re.compile(r"[0-9A-Za-z_*-]{6,32}")
_NAMES_ORDER = re.compile(rb'"out_trade_no"\s*:\s*"([^"]*)"')


class Settings(Struct, forbid_unknown_fields=True):
    """listen: host:port, port 0 = any. account: the file of accounts.make_wechat. notify_speed: callbacks
    repeat that many times faster than the real 15 s, 15 s, 30 s, 3 min … database: where the business clock
    stands; empty: it is the system's. callbacks: connections to the merchant at once. faults: of the
    merchant's own requests, by order number.
    """

    account: str
    listen: str = "127.0.0.1:0"
    notify_speed: float = 1.0
    database: str = ""
    callbacks: int = 32
    faults: Faults = Faults()


class Amount(Struct, frozen=True):
    """Whole fen."""

    total: int
    currency: str = "CNY"


class Placing(Struct, frozen=True):
    """The body of a native order, the fields that we use."""

    appid: str
    mchid: str
    description: str
    out_trade_no: str
    notify_url: str
    amount: Amount
    time_expire: datetime | None = None
    attach: str = ""


class Paying(Struct, frozen=True, forbid_unknown_fields=True):
    """What a payer does. delay_seconds: of a late callback. times: of a duplicate one. delta_fen: of a wrong
    amount.
    """

    out_trade_no: str
    payer_openid: str = "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"
    behaviour: str = "ok"
    delay_seconds: float = 5.0
    times: int = 3
    delta_fen: int = -1


class Taken(Struct):
    """One line of the book: money the provider took.

    callbacks: sent so far; answered: one of them with success.
    """

    out_trade_no: str
    transaction_id: str
    total: int
    order_total: int
    paid_at: str
    behaviour: str
    payer_openid: str
    callbacks: int = 0
    answered: bool = False


class Order(Struct):
    """One order as the provider holds it."""

    placing: Placing
    code_url: str
    state: str = "NOTPAY"
    taken: Taken | None = None


class Provider:
    """All of it, in memory: a restart forgets, as no real provider does; keep it alive through a test."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self.keys, self.faults, self.clock = keys, settings.faults, BusinessClock(settings.database)
        self.orders: dict[str, Order] = {}
        self.book: list[Taken] = []
        self.tried: dict[str, int] = {}
        self.courier = Courier(keys, speed=settings.notify_speed, connections=settings.callbacks)
        self._number = time.time_ns() // 1_000_000

    # ---- the merchant's door

    async def merchant(self, request: web.Request) -> web.StreamResponse:
        """Every request of the protocol: its signature, then the day's fault, then the answer, signed."""
        body = await request.read()
        try:
            self.keys.check_request(request, body, now=time.time())
            fault = self._fault(request, body)
            if fault.endswith("500"):
                raise Refused(500, "SYSTEM_ERROR", "系统错误")
            if fault.endswith("429"):
                raise Refused(429, "FREQUENCY_LIMIT_EXCEED", "频率超限")
            status, answer = self._answer(request, body)
            if fault.endswith("timeout"):
                await asyncio.sleep(60)  # taken, but longer than the merchant's patience
        except Refused as refused:
            status, answer = refused.status, {"code": refused.code, "message": refused.message}
        if status == 401:
            return json_answer(answer, status=401)      # the real one does not sign for strangers either
        text = b"" if status == 204 else msgspec.json.encode(answer)
        headers = self.keys.sign_headers(text) | {"Content-Type": "application/json; charset=utf-8"}
        if status == 429:
            headers["Retry-After"] = "1"
        return web.Response(body=text, status=status, headers=headers)

    def _fault(self, request: web.Request, body: bytes) -> str:
        kind = "query" if request.method == "GET" else "place"
        found = _NAMES_ORDER.search(body)
        number = request.match_info.get("no") or (found.group(1).decode() if found else "")
        tried = self.tried.get(f"{kind}/{number}", 0)
        self.tried[f"{kind}/{number}"] = tried + 1
        fault = self.faults.of(f"{kind}/{number}", tried=tried, names=(number,))
        return fault if fault.startswith(kind) else NONE

    def _answer(self, request: web.Request, body: bytes) -> tuple[int, object]:
        number = request.match_info.get("no")
        if number is None:
            return 200, {"code_url": self._place(_decode(body)).code_url}
        if request.method == "POST":
            self._close(number)
            return 204, None
        if request.query.get("mchid") != self.keys.mchid:
            raise Refused(400, "PARAM_ERROR", "mchid")
        return 200, self.transaction(self._order(number))

    def _place(self, wish: Placing) -> Order:
        if (wish.appid, wish.mchid) != (self.keys.appid, self.keys.mchid):
            raise Refused(400, "APPID_MCHID_NOT_MATCH", "AppID和mch_id不匹配")
        if not _ORDER_NO.fullmatch(wish.out_trade_no) or not wish.notify_url.startswith("http"):
            raise Refused(400, "PARAM_ERROR", "参数错误")
        if (
            wish.amount.total < 1
            or wish.amount.currency != "CNY"
            or len(wish.attach) > 128
            or len(wish.description) > 127
        ):
            raise Refused(400, "PARAM_ERROR", "参数错误")
        known = self.orders.get(wish.out_trade_no)
        if known is None:
            known = Order(placing=wish, code_url=f"weixin://wxpay/bizpayurl?pr={wish.out_trade_no[-12:]}{len(self.orders):x}")
            self.orders[wish.out_trade_no] = known
        elif known.state == "SUCCESS":
            raise Refused(400, "ORDERPAID", "该订单已支付")
        elif known.state == "CLOSED":
            raise Refused(400, "ORDER_CLOSED", "订单已关闭")
        elif known.placing != wish:
            raise Refused(403, "OUT_TRADE_NO_USED", "商户订单号重复")
        return known

    def _close(self, number: str) -> None:
        order = self._order(number)
        if order.state == "SUCCESS":
            raise Refused(400, "ORDERPAID", "该订单已支付")
        order.state = "CLOSED"

    def _order(self, number: str) -> Order:
        order = self.orders.get(number)
        if order is None:
            raise Refused(404, "ORDER_NOT_EXIST", "订单不存在")
        return order

    def transaction(self, order: Order) -> dict[str, object]:
        """An order in the provider's words, as queries and callbacks carry it."""
        placing, taken = order.placing, order.taken
        words: dict[str, object] = {
            "appid": placing.appid,
            "mchid": placing.mchid,
            "out_trade_no": placing.out_trade_no,
            "attach": placing.attach,
            "trade_state": order.state,
            "trade_state_desc": {"SUCCESS": "支付成功", "CLOSED": "已关闭"}.get(order.state, "未支付"),
        }
        if taken is None:
            return words | {"amount": {"total": placing.amount.total, "currency": "CNY"}}
        return words | {
            "transaction_id": taken.transaction_id,
            "trade_type": "NATIVE",
            "bank_type": "OTHERS",
            "success_time": taken.paid_at,
            "payer": {"openid": taken.payer_openid},
            "promotion_detail": [],
            "amount": {
                "total": taken.total,
                "payer_total": taken.total,
                "currency": "CNY",
                "payer_currency": "CNY",
            },
        }

    # ---- the payer's door (the city's), not part of the protocol

    def pay(self, wish: Paying, paid_at: datetime) -> dict[str, object]:
        """A payer scans the code and does as `behaviour` says.

        Refused: no such order, paid, closed or expired.
        """
        order = self._order(wish.out_trade_no)
        if wish.behaviour not in BEHAVIOURS:
            raise Refused(400, "PARAM_ERROR", f"behaviour is one of {', '.join(BEHAVIOURS)}")
        if order.state == "SUCCESS":
            raise Refused(409, "ORDERPAID", "该订单已支付")
        if order.state == "CLOSED" or (order.placing.time_expire and paid_at > order.placing.time_expire):
            raise Refused(409, "ORDER_CLOSED", "订单已关闭")
        if wish.behaviour == "not_paid":
            order.state = "USERPAYING"          # scanned, looked, put the phone away
            return {"out_trade_no": wish.out_trade_no, "transaction_id": "", "total": 0}
        total = order.placing.amount.total + (wish.delta_fen if wish.behaviour == "wrong_amount" else 0)
        self._number += 1
        taken = Taken(
            out_trade_no=wish.out_trade_no,
            transaction_id=f"4200{paid_at:%Y%m%d}{self._number:016d}",
            total=total,
            order_total=order.placing.amount.total,
            paid_at=paid_at.isoformat(timespec="seconds"),
            behaviour=wish.behaviour,
            payer_openid=wish.payer_openid,
        )
        order.state, order.taken = "SUCCESS", taken
        self.book.append(taken)
        if wish.behaviour != "lost":
            self._tell(order, delay=wish.delay_seconds if wish.behaviour == "late" else 0.0,
                       copies=wish.times if wish.behaviour == "duplicate" else 1)
        return {"out_trade_no": wish.out_trade_no, "transaction_id": taken.transaction_id, "total": total}

    def _tell(self, order: Order, *, delay: float = 0.0, copies: int = 1) -> None:
        assert order.taken is not None
        clear = msgspec.json.encode(self.transaction(order))
        self.courier.send(order.placing.notify_url, clear, order.taken, delay=delay, copies=copies)

    async def payer(self, request: web.Request) -> web.StreamResponse:
        """POST /simulator/pay: one Paying, or a list of them (answers in the same order, refusals inside)."""
        try:
            wishes = msgspec.json.decode(await request.read(), type=Paying | list[Paying])
        except msgspec.MsgspecError as error:
            return json_answer({"code": "PARAM_ERROR", "message": str(error)}, status=400)
        paid_at = await self.clock.now()
        if isinstance(wishes, list):
            return json_answer([self._paid_or_not(wish, paid_at)[1] for wish in wishes])
        status, answer = self._paid_or_not(wishes, paid_at)
        return json_answer(answer, status=status)

    def _paid_or_not(self, wish: Paying, paid_at: datetime) -> tuple[int, object]:
        try:
            return 200, self.pay(wish, paid_at)
        except Refused as refused:
            return refused.status, {"code": refused.code, "message": refused.message}

    async def again(self, request: web.Request) -> web.StreamResponse:
        """POST /simulator/callback {"out_trade_no"}: sends a paid order's callback once more."""
        order = self.orders.get((await request.json()).get("out_trade_no", ""))
        if order is None or order.taken is None:
            return json_answer({"code": "ORDER_NOT_EXIST", "message": "not paid"}, status=404)
        self._tell(order)
        return json_answer({})

    async def show_book(self, request: web.Request) -> web.StreamResponse:
        """GET /simulator/book: NDJSON of what it took, in order."""
        return await book(request, list(self.book))

    async def stats(self, _: web.Request) -> web.StreamResponse:
        """GET /simulator/stats: orders, paid, what became of callbacks; pending 0: none is on its way."""
        return json_answer({"orders": len(self.orders), "paid": len(self.book), **self.courier.counts()})

    async def change(self, request: web.Request) -> web.StreamResponse:
        """POST /simulator/faults: a new fault menu."""
        try:
            self.faults = read_faults(await request.read(), FAULTS)
        except ValueError as error:
            return json_answer({"code": "PARAM_ERROR", "message": str(error)}, status=400)
        return json_answer({})


def _decode(body: bytes) -> Placing:
    try:
        return msgspec.json.decode(body, type=Placing)
    except msgspec.MsgspecError as error:
        raise Refused(400, "PARAM_ERROR", str(error)) from error


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[dict[str, str]]:
    """Start the provider; where it listens."""
    check_faults(settings.faults, FAULTS)
    provider = Provider(settings, read_keys(Path(settings.account)))
    app = web.Application()
    app.add_routes([
        web.post("/v3/pay/transactions/native", provider.merchant),
        web.get("/v3/pay/transactions/out-trade-no/{no}", provider.merchant),
        web.post("/v3/pay/transactions/out-trade-no/{no}/close", provider.merchant),
        web.post("/simulator/pay", provider.payer),
        web.post("/simulator/callback", provider.again),
        web.get("/simulator/book", provider.show_book),
        web.get("/simulator/stats", provider.stats),
        web.post("/simulator/faults", provider.change),
    ])
    app.on_startup.append(provider.courier.start)
    app.on_cleanup.append(provider.courier.stop)
    try:
        async with listening(app, settings.listen) as url:
            yield {"url": url}
    finally:
        provider.clock.close()


if __name__ == "__main__":
    main("wechat", Settings, serve)
