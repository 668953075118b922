"""Does payment hear the provider, and only the provider?"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from sandbox.simulators.accounts import make_wechat
from sandbox.simulators.running import simulator
from sandbox.simulators.wechat_signing import read_keys
from services.chassis.calls import NotSent, Unknown
from services.chassis.ids import uuid7
from services.payment.gateway import Account, WeChat, read_account
from services.payment.rules import (
    AskOrder,
    OrderPlaced,
    OrderRefused,
    OrderState,
    PlaceOrder,
    number_of,
)

LI_NA = "01931a00-0000-7000-8000-000000000001"
HER_CHILD = "01931a00-0000-7000-8000-0000000000a1"
HER_OWN = "01931a00-0000-7000-8000-0000000000a2"
CALLBACK = "http://127.0.0.1:9/v1/wechat/notify"      # nobody listens: these tests mint callbacks themselves


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sides' accounts: ours.json, theirs.json, and a stranger's theirs in strange.json."""
    directory = tmp_path_factory.mktemp("wechat")
    make_wechat(directory / "ours.json", directory / "theirs.json")
    make_wechat(directory / "stranger.json", directory / "strange.json")
    return directory


@pytest.fixture(scope="module")
def provider(files: Path) -> Iterator[str]:
    """The running provider's address."""
    with simulator("wechat", {"account": str(files / "theirs.json")}, files) as where:
        yield where["url"]


@pytest.fixture
async def gateway(files: Path, provider: str) -> AsyncIterator[WeChat]:
    async with WeChat(
        read_account(files / "ours.json"), url=provider, callback_url=CALLBACK, timeout_seconds=2
    ) as ready:
        yield ready


def an_order(amount_fen: int = 80_000) -> PlaceOrder:
    order_id = uuid7()
    return PlaceOrder(
        order_id=order_id,
        order_no=number_of(order_id),
        person_id=LI_NA,
        obligation_ids=[HER_CHILD, HER_OWN],
        amount_fen=amount_fen,
        description="城乡居民医保 2025",
        expires_at=datetime.now(UTC) + timedelta(minutes=30),
    )


def asking(order: PlaceOrder, round: int = 0) -> AskOrder:
    return AskOrder(order_id=order.order_id, order_no=order.order_no, person_id=order.person_id,
                    obligation_ids=order.obligation_ids, round=round)


async def at_the_provider(url: str, path: str, **body: Any) -> Any:
    async with aiohttp.ClientSession(url) as session, session.post(path, json=body) as response:
        return await response.json()


# ---- orders

async def test_an_order_is_placed_with_what_the_payer_scans(gateway: WeChat) -> None:
    order = an_order()

    placed = await gateway.send(order)

    assert isinstance(placed, OrderPlaced)
    assert (placed.order_id, placed.person_id, placed.obligation_ids) == (
        order.order_id,
        LI_NA,
        [HER_CHILD, HER_OWN],
    )
    assert placed.pay_url.startswith("weixin://wxpay/bizpayurl?pr=")


async def test_the_same_order_twice_is_one_order(gateway: WeChat) -> None:
    order = an_order()

    assert await gateway.send(order) == await gateway.send(order)


async def test_another_amount_under_the_same_number_is_refused(gateway: WeChat) -> None:
    order = an_order()
    await gateway.send(order)

    refused = await gateway.send(msgspec.structs.replace(order, amount_fen=79_999))

    assert isinstance(refused, OrderRefused)
    assert refused.code == "OUT_TRADE_NO_USED"


async def test_an_order_that_never_arrived_may_be_sent_again(gateway: WeChat) -> None:
    assert await gateway.ask(an_order()) is None


async def test_an_order_whose_answer_was_lost_is_found_by_asking(gateway: WeChat, provider: str) -> None:
    order = an_order()
    await at_the_provider(provider, "/simulator/faults", named={order.order_no: "place_timeout"})
    with pytest.raises(Unknown):
        await gateway.send(order)
    await at_the_provider(provider, "/simulator/faults")

    found = await gateway.ask(order)

    assert isinstance(found, OrderPlaced)
    assert found.pay_url


async def test_an_order_paid_meanwhile_counts_as_placed(gateway: WeChat, provider: str) -> None:
    order = an_order()
    await gateway.send(order)
    await at_the_provider(provider, "/simulator/pay", out_trade_no=order.order_no, behaviour="lost")

    for answer in (await gateway.ask(order), await gateway.send(order)):
        assert isinstance(answer, OrderPlaced)
        assert answer.pay_url == ""


@pytest.mark.parametrize(
    ("behaviour", "state", "amount_fen"),
    [
        ("", "NOTPAY", 80_000),
        ("not_paid", "USERPAYING", 80_000),
        ("lost", "SUCCESS", 80_000),
        ("wrong_amount", "SUCCESS", 79_999),     # the provider's truth, not the order's: rules judge it
    ],
)
async def test_asking_hears_the_state(
    gateway: WeChat, provider: str, behaviour: str, state: str, amount_fen: int
) -> None:
    order = an_order()
    await gateway.send(order)
    if behaviour:
        await at_the_provider(provider, "/simulator/pay", out_trade_no=order.order_no, behaviour=behaviour)

    heard = await gateway.send(asking(order, round=2))

    assert isinstance(heard, OrderState)
    assert (heard.state, heard.amount_fen, heard.round, heard.obligation_ids) == (
        state,
        amount_fen,
        2,
        [HER_CHILD, HER_OWN],
    )
    assert (heard.paid_at is not None) == (state == "SUCCESS")
    assert heard.paid_at is None or abs(heard.paid_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_stranger_order_is_absent(gateway: WeChat) -> None:
    heard = await gateway.ask(asking(an_order()))

    assert isinstance(heard, OrderState)
    assert heard.state == "ABSENT"


# ---- trouble on the way

async def test_nobody_listening_is_surely_not_sent(files: Path, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    async with WeChat(read_account(files / "ours.json"), url=url, callback_url=CALLBACK) as gateway:
        with pytest.raises(NotSent):
            await gateway.send(an_order())


@pytest.mark.parametrize(("fault", "error"), [("place_500", Unknown), ("place_429", NotSent)])
async def test_a_busy_or_failing_provider_raises(
    gateway: WeChat, provider: str, fault: str, error: type[Exception]
) -> None:
    order = an_order()
    await at_the_provider(provider, "/simulator/faults", named={order.order_no: fault})

    with pytest.raises(error) as caught:
        await gateway.send(order)

    assert getattr(caught.value, "after_seconds", 1.0) == 1.0       # what Retry-After said
    await at_the_provider(provider, "/simulator/faults")


@pytest.mark.parametrize("impostor", ["unsigned", "another key", "other body", "our own key"])
async def test_only_answers_signed_by_the_provider_count(files: Path, impostor: str) -> None:
    theirs = read_keys(files / ("strange.json" if impostor == "another key" else "theirs.json"))

    async def answer(_: web.Request) -> web.Response:
        body = b'{"code_url":"weixin://wxpay/bizpayurl?pr=evil"}'
        headers = (
            {} if impostor == "unsigned" else theirs.sign_headers(b"{}" if impostor == "other body" else body)
        )
        if impostor == "our own key":
            headers["Wechatpay-Serial"] = read_account(files / "ours.json").serial
        return web.Response(body=body, headers=headers)

    app = web.Application()
    app.router.add_post("/v3/pay/transactions/native", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with WeChat(read_account(files / "ours.json"), url=url, callback_url=CALLBACK) as gateway:
        with pytest.raises(Unknown):
            await gateway.send(an_order())
    await runner.cleanup()


async def test_many_orders_at_once_are_each_answered(gateway: WeChat) -> None:
    placed = await asyncio.gather(*(gateway.send(an_order()) for _ in range(100)))

    assert len({each.pay_url for each in placed if isinstance(each, OrderPlaced)}) == 100


def test_the_account_is_read_whole(files: Path) -> None:
    assert isinstance(read_account(files / "ours.json"), Account)
    with pytest.raises(msgspec.ValidationError):
        read_account(files / "theirs.json")
