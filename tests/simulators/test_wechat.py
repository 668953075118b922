"""Does the double of WeChat Pay behave as the real one, on good days and on bad ones?"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sandbox.simulators.accounts import make_wechat
from sandbox.simulators.running import simulator
from sandbox.simulators.wechat_callbacks import REPEATS
from sandbox.stack import Stack
from services.chassis.ids import uuid7
from services.payment.gateway import WeChat, read_account
from services.payment.rules import OrderPlaced, PlaceOrder, ProviderPaid, number_of
from tests.ground import Database

SPEED = 1000.0      # the first repeat comes after 15 ms instead of 15 s


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wechat")
    make_wechat(directory / "ours.json", directory / "theirs.json")
    return directory


@pytest.fixture(scope="module")
def provider(files: Path, stack: Stack) -> Iterator[str]:
    settings = {
        "account": str(files / "theirs.json"),
        "notify_speed": SPEED,
        "database": stack.database_url("auditor"),
    }
    with simulator("wechat", settings, files) as where:
        yield where["url"]


class Shop:
    """A merchant's two ends: the gateway that places orders, the address that hears callbacks."""

    def __init__(self, gateway: WeChat, session: aiohttp.ClientSession) -> None:
        self.gateway, self.session = gateway, session
        self.heard: list[ProviderPaid] = []
        self.bodies: list[bytes] = []
        self.answers: list[int] = []            # the next statuses we answer with; then 204

    async def hear(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        self.heard.append(self.gateway.read_callback(request.headers, body))
        return web.Response(status=self.answers.pop(0) if self.answers else 204)

    async def order(self, *, minutes: float = 30) -> PlaceOrder:
        order_id = uuid7()
        order = PlaceOrder(
            order_id=order_id,
            order_no=number_of(order_id),
            person_id=uuid7(),
            obligation_ids=[uuid7()],
            amount_fen=40_000,
            description="城乡居民医保",
            expires_at=datetime.now(UTC) + timedelta(minutes=minutes),
        )
        assert isinstance(await self.gateway.send(order), OrderPlaced)
        return order

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        async with self.session.post(path, json=body) as response:
            return response.status, await response.json()

    async def pay(self, order: PlaceOrder, behaviour: str = "ok", **how: Any) -> tuple[int, Any]:
        return await self.post(
            "/simulator/pay", {"out_trade_no": order.order_no, "behaviour": behaviour, **how}
        )

    async def row(self, order: PlaceOrder) -> dict[str, Any]:
        async with self.session.get("/simulator/book") as response:
            rows = [json.loads(line) for line in (await response.text()).splitlines()]
        return next(row for row in rows if row["out_trade_no"] == order.order_no)

    async def pending(self) -> int:
        async with self.session.get("/simulator/stats") as response:
            return int((await response.json())["pending"])


@pytest.fixture
async def shop(files: Path, provider: str, database: Database) -> AsyncIterator[Shop]:
    app = web.Application()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    async with aiohttp.ClientSession(provider) as session:
        gateway = WeChat(read_account(files / "ours.json"), url=provider, callback_url="")
        ready = Shop(gateway, session)
        app.router.add_post("/notify", ready.hear)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        gateway.callback_url = f"http://127.0.0.1:{runner.addresses[0][1]}/notify"
        async with gateway:
            yield ready
            await until_quiet(ready)        # or the next test's provider would still be calling this shop
        await runner.cleanup()


async def until(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def until_quiet(shop: Shop) -> None:
    async with asyncio.timeout(10):
        while await shop.pending():
            await asyncio.sleep(0.005)


async def test_a_payment_is_told_to_the_merchant(shop: Shop) -> None:
    order = await shop.order()

    _, paid = await shop.pay(order)
    await until(lambda: bool(shop.heard))

    told = shop.heard[0]
    assert (told.order_id, told.person_id, told.obligation_ids) == (
        order.order_id,
        order.person_id,
        order.obligation_ids,
    )
    assert (told.amount_fen, told.transaction_id) == (40_000, paid["transaction_id"])
    assert abs(told.paid_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_the_same_order_cannot_be_paid_twice(shop: Shop) -> None:
    order = await shop.order()

    await shop.pay(order)

    assert await shop.pay(order) == (409, {"code": "ORDERPAID", "message": "该订单已支付"})


async def test_a_lost_callback_never_comes_but_stands_in_the_book(shop: Shop) -> None:
    order = await shop.order()

    await shop.pay(order, "lost")
    await until_quiet(shop)

    row = await shop.row(order)
    assert (row["total"], row["callbacks"], row["answered"], shop.heard) == (40_000, 0, False, [])


async def test_a_late_callback_comes_after_its_delay(shop: Shop) -> None:
    late, prompt = await shop.order(), await shop.order()

    await shop.pay(late, "late", delay_seconds=0.4)
    await shop.pay(prompt)
    await until(lambda: len(shop.heard) == 2)

    assert [told.order_no for told in shop.heard] == [prompt.order_no, late.order_no]


async def test_a_duplicate_callback_is_one_notice_sealed_anew(shop: Shop) -> None:
    order = await shop.order()

    await shop.pay(order, "duplicate", times=4)
    await until_quiet(shop)

    assert len(shop.heard) == 4
    assert len(set(map(repr, shop.heard))) == 1
    assert len(set(shop.bodies)) == 4
    assert (await shop.row(order))["callbacks"] == 4


@pytest.mark.parametrize("delta", [-1, 1])
async def test_a_wrong_amount_is_wrong_everywhere(shop: Shop, delta: int) -> None:
    order = await shop.order()

    await shop.pay(order, "wrong_amount", delta_fen=delta)
    await until(lambda: bool(shop.heard))

    row = await shop.row(order)
    assert (shop.heard[0].amount_fen, row["total"], row["order_total"]) == (
        40_000 + delta,
        40_000 + delta,
        40_000,
    )


async def test_who_does_not_pay_is_not_in_the_book(shop: Shop) -> None:
    order = await shop.order()

    status, answer = await shop.pay(order, "not_paid")

    assert (status, answer["total"]) == (200, 0)
    async with shop.session.get("/simulator/book") as response:
        assert order.order_no not in await response.text()


async def test_a_callback_is_repeated_until_it_is_answered_with_success(shop: Shop) -> None:
    shop.answers = [500, 302, 404, 204]
    order = await shop.order()

    await shop.pay(order)
    await until_quiet(shop)

    row = await shop.row(order)
    assert (len(shop.heard), row["callbacks"], row["answered"]) == (4, 4, True)


async def test_a_merchant_who_never_agrees_hears_it_to_the_end_of_the_schedule(
    shop: Shop, files: Path
) -> None:
    settings = {"account": str(files / "theirs.json"), "notify_speed": 1e6}
    with simulator("wechat", settings, files / "eager") as where:
        async with (
            WeChat(shop.gateway.account, url=where["url"], callback_url=shop.gateway.callback_url) as gateway,
            aiohttp.ClientSession(where["url"]) as session,
        ):
            eager = Shop(gateway, session)
            shop.answers = [500] * 99
            await eager.pay(await eager.order())
            await until_quiet(eager)

    assert len(shop.heard) == 1 + len(REPEATS)
    assert sum(REPEATS) == 24 * 3600 + 4 * 60


async def test_a_callback_can_be_asked_for_again(shop: Shop) -> None:
    order = await shop.order()
    await shop.pay(order, "lost")

    await shop.post("/simulator/callback", {"out_trade_no": order.order_no})
    await until(lambda: bool(shop.heard))

    assert shop.heard[0].order_no == order.order_no


async def test_who_pays_after_the_services_clock_moved_pays_at_the_new_time(
    shop: Shop, database: Database
) -> None:
    order = await shop.order(minutes=120)

    async with moved(database, timedelta(hours=1)):
        await shop.pay(order)
        await until(lambda: bool(shop.heard))

    assert abs(shop.heard[0].paid_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)


async def test_an_order_expires_by_the_services_clock(shop: Shop, database: Database) -> None:
    order = await shop.order(minutes=30)

    async with moved(database, timedelta(minutes=31)):
        status, answer = await shop.pay(order)

    assert (status, answer["code"]) == (409, "ORDER_CLOSED")


async def test_without_a_database_the_providers_time_is_the_systems(files: Path, shop: Shop) -> None:
    settings = {"account": str(files / "theirs.json")}
    with simulator("wechat", settings, files / "alone") as where:
        async with (
            WeChat(shop.gateway.account, url=where["url"], callback_url=shop.gateway.callback_url) as gateway,
            aiohttp.ClientSession(where["url"]) as session,
        ):
            alone = Shop(gateway, session)
            order = await alone.order()
            await alone.pay(order)
            paid_at = datetime.fromisoformat((await alone.row(order))["paid_at"])
            await until_quiet(alone)

    assert abs(paid_at - datetime.now(UTC)) < timedelta(minutes=1)


@asynccontextmanager
async def moved(database: Database, by: timedelta) -> AsyncIterator[None]:
    """The services' clock as an operator's order leaves it; back afterwards, as no operator can."""
    move = "update payment.clock set skew = skew + $1"
    async with database.connect() as db:
        await db.execute(move, by)
        yield
        await db.execute(move, -by)


async def test_many_payers_may_pay_in_one_request(shop: Shop) -> None:
    orders = [await shop.order() for _ in range(3)]

    _, answers = await shop.post(
        "/simulator/pay", [{"out_trade_no": o.order_no} for o in orders] + [{"out_trade_no": "none"}]
    )

    assert [each.get("code", "paid") for each in answers] == ["paid", "paid", "paid", "ORDER_NOT_EXIST"]


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        'WECHATPAY2-SHA256-RSA2048 mchid="1900000001"',
        'WECHATPAY2-SHA256-RSA2048 mchid="1900000001",nonce_str="a",timestamp="1",serial_no="b",signature=""',
    ],
)
async def test_who_does_not_sign_is_not_served(provider: str, authorization: str) -> None:
    headers = {"Authorization": authorization}
    async with (
        aiohttp.ClientSession(provider, headers=headers) as session,
        session.post("/v3/pay/transactions/native", json={"out_trade_no": "x"}) as response,
    ):
        assert response.status == 401
        assert (await response.json())["code"] == "SIGN_ERROR"
        assert "Wechatpay-Signature" not in response.headers


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/simulator/pay", {"out_trade_no": "x", "behavior": "ok"}),
        ("/simulator/pay", {"out_trade_no": 7}),
        ("/simulator/pay", {"out_trade_no": "x", "paid_at": "2024-11-05T01:30:00Z"}),
        ("/simulator/faults", {"rates": {"earthquake": 1.0}}),
        ("/simulator/faults", {"rates": {"place_500": 1.5}}),
    ],
)
async def test_a_wish_it_does_not_understand_is_refused(shop: Shop, path: str, body: dict[str, Any]) -> None:
    assert (await shop.post(path, body))[0] == 400


@pytest.mark.parametrize("text", ["account = 7\n", "acount = \"x\"\n", "not toml", 'account = "/nowhere"\n'])
def test_wrong_settings_end_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.toml").write_text(text)

    ended = subprocess.run(
        [sys.executable, "-m", "sandbox.simulators.wechat", "--settings", str(tmp_path / "s.toml")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1
