"""What does the provider hear when it calls back? Over a real socket, into the real engine."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from sandbox.simulators.accounts import make_wechat
from sandbox.simulators.wechat_signing import Keys, read_keys
from services.chassis import metrics, web
from services.chassis.door import Door
from services.payment import api, store
from services.payment.gateway import MOST_CALLBACK_BYTES, WeChat, read_account
from services.payment.rules import Item, Order, number_of
from tests.ground import Database
from tests.people import LI_NA, instant
from tests.world import World, world_of

NOW = instant("2024-12-20T11:00+08:00")


class Provider:
    """The provider's side: its keys, and our door's address."""

    def __init__(self, keys: Keys, url: str) -> None:
        self.keys, self.url = keys, url

    async def calls_back(self, *, order_no: str, attach: str = "", tamper: bool = False) -> tuple[int, bytes]:
        """A callback that says 400.00 was paid; what we answer."""
        clear = {
            "appid": "wx0000000000000001", "mchid": "1900000001", "out_trade_no": order_no, "attach": attach,
            "trade_state": "SUCCESS", "transaction_id": "4200-1", "success_time": "2024-12-20T11:58:00+08:00",
            "amount": {"total": 40_000, "payer_total": 40_000, "currency": "CNY"},
        }  # fmt: skip
        resource = self.keys.seal(json.dumps(clear).encode())
        notice = {"id": "EV-1", "event_type": "TRANSACTION.SUCCESS", "resource": resource}
        body = json.dumps(notice).encode()
        headers = self.keys.sign_headers(body)
        return await self.posts(body + b" " if tamper else body, headers)

    async def posts(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """Any bytes."""
        async with (
            aiohttp.ClientSession() as http,
            http.post(self.url + api.PATH, data=body, headers=headers) as answer,
        ):
            return answer.status, await answer.read()


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with world_of("payment", database) as world:
        yield world


@pytest.fixture
async def provider(world: World, tmp_path: Path) -> AsyncIterator[Provider]:
    make_wechat(tmp_path / "ours.json", tmp_path / "theirs.json")
    door = Door(world.engine, world.on)
    wechat = WeChat(read_account(tmp_path / "ours.json"), url="", callback_url="")
    server = web.server(api.routes(door, wechat), "127.0.0.1", 0)
    tasks = [asyncio.create_task(door.run(world.db)), asyncio.create_task(server.serve())]
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Provider(read_keys(tmp_path / "theirs.json"), f"http://127.0.0.1:{port}")
    server.should_exit = True
    tasks[0].cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task


async def test_a_verified_callback_is_kept_before_it_is_answered(world: World, provider: Provider) -> None:
    status, body = await provider.calls_back(order_no="somebody's")

    assert (status, body) == (204, b"")
    (funds,) = await world.kept(store.FUNDS, channel_ref="4200-1")
    assert (funds.reason, funds.amount_fen) == ("ORDER_UNKNOWN", 40_000)


async def test_a_repeated_callback_is_answered_like_the_first(world: World, provider: Provider) -> None:
    await provider.calls_back(order_no="somebody's")

    assert await provider.calls_back(order_no="somebody's") == (204, b"")
    assert len(await world.kept(store.FUNDS, channel_ref="4200-1")) == 1


async def test_forged_callbacks_are_counted_and_leave_nothing_behind(
    world: World, provider: Provider
) -> None:
    before = _forged()
    for _ in range(30):
        status, body = await provider.calls_back(order_no="somebody's", tamper=True)
        assert (status, json.loads(body)["code"]) == (401, "SIGNATURE_INVALID")

    assert _forged() - before == 30
    assert await world.kept(store.RECEIPTS, channel_ref="4200-1") == []
    assert await world.parked() == []


def _forged() -> float:
    """Forged callbacks since this process began."""
    lines = metrics.exposition()[0].decode().splitlines()
    ours = 'canbao_forged_total{kept="no",road="callback",service="payment"} '
    return sum(float(line.removeprefix(ours)) for line in lines if line.startswith(ours))


async def test_an_endless_body_is_not_read_to_its_end(provider: Provider) -> None:
    status, body = await provider.posts(b"x" * (MOST_CALLBACK_BYTES + 1), {})

    assert (status, json.loads(body)["code"]) == (413, "TOO_LARGE")


async def test_a_body_that_never_ends_is_not_waited_for(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "BODY_SECONDS", 0.3)
    host, _, port = provider.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {api.PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf".encode())

    said = await asyncio.wait_for(reader.read(), 5)  # to its end: the line is closed
    writer.close()
    assert said.startswith(b"HTTP/1.1 408 ")
    assert json.loads(said.rpartition(b"\r\n\r\n")[2])["code"] == "BODY_INVALID"


async def test_our_own_failure_is_not_the_providers_trouble(world: World, provider: Provider) -> None:
    """The callback lost the obligations on its way: the handler refuses to settle what it has not locked."""
    order = Order(
        LI_NA.order_id, LI_NA.person_id, "wechat", "wechat", "r", 40_000, "PENDING", "", NOW, None, 0
    )
    item = Item(LI_NA.order_id, 0, LI_NA.person_id, LI_NA.obligation_id, 1, 40_000, "OPEN")
    await world.given(store.ORDERS, order)
    await world.given(store.ITEMS, item)

    status, _ = await provider.calls_back(order_no=number_of(LI_NA.order_id))

    assert status == 204
    assert await world.parked() == [("PARKED", "HANDLER_FAILED")]


async def test_without_a_database_the_provider_is_asked_to_come_again(
    world: World, provider: Provider
) -> None:
    await world.db.close()

    status, body = await provider.calls_back(order_no="somebody's")

    assert (status, json.loads(body)["code"]) == (503, "UNDER_REPAIR")
