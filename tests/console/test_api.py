"""What does somebody see who opens the console? Over a real socket, from a real database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import aiohttp
import uvicorn
from starlette.applications import Starlette

from contracts.operations import MessageRedriven
from services.chassis.ids import uuid7
from services.console import api
from services.console.api.pages import tag
from tests.console.made_up import NOON, Citizen, listening, parked
from tests.ground import Database


@asynccontextmanager
async def browsing(database: str) -> AsyncIterator[aiohttp.ClientSession]:
    """The console's page on a port of its own."""
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=api.routes(database)), port=0, log_config=None, lifespan="off")
    )
    server.capture_signals = nullcontext  # type: ignore[method-assign, assignment]
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session
    finally:
        server.should_exit = True
        await serving


async def text_of(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with session.get(path) as answer:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        return answer.status, await answer.text()


async def test_the_front_page_counts_what_was_said(database: Database) -> None:
    async with listening(database) as console:
        for citizen in (Citizen(), Citizen()):
            await console.hear(*citizen.facts(), citizen.unmatched())
        await console.hear(parked(1))
    async with browsing(database.url("console")) as session:
        status, page = await text_of(session, "/")
        assert status == 200
        assert "<b>缴费入账</b><small>paid</small><strong>2</strong>" in page
        assert "<b>注册</b><small>registered</small><strong>2</strong>" in page
        assert "<td>billing</td><td>1</td><td>0</td><td>1</td>" in page
        assert (await text_of(session, "/live"))[1] in page
        assert "http://" not in page
        assert "https://" not in page
        assert "style=" not in page
        for path in ("/style.css", "/live.js"):
            assert (await text_of(session, path))[0] == 200


async def test_what_was_redriven_is_not_to_be_repaired_any_more(database: Database) -> None:
    again = MessageRedriven(service="billing", parked_id="1", operator="me", at=NOON)
    async with listening(database) as console:
        await console.hear(parked(1), parked(2), again)
    async with browsing(database.url("console")) as session:
        page = (await text_of(session, "/"))[1]
    assert "<b>待修复</b><small>parked</small><strong>1</strong>" in page
    assert "<td>billing</td><td>2</td><td>1</td><td>1</td>" in page


async def test_a_search_leads_to_the_timeline(database: Database) -> None:
    wang = Citizen()
    async with listening(database) as console:
        await console.hear(*wang.facts())
    async with browsing(database.url("console")) as session:
        status, page = await text_of(session, f"/timeline?id=%20{wang.channel_ref}")
        assert status == 200
        assert page.count("<tr>") == 8
        assert "王*芳" in page
        assert "2024-12-20 12:04:00" in page
        assert "应缴 due 120.00元" in page


async def test_headings_links_and_the_search_box_speak_both_languages(database: Database) -> None:
    wang = Citizen()
    async with listening(database) as console:
        await console.hear(*wang.facts())
    async with browsing(database.url("console")) as session:
        for wanted, heading in (
            (wang.person, "参保人 person"),
            (wang.obligation, "缴费单 bill"),
            (wang.order, "订单 order"),
            (wang.enrollment, "参保登记 enrollment"),
            (wang.channel_ref, "渠道流水号或请求号 transaction or request"),
        ):
            page = (await text_of(session, f"/timeline/{wanted}"))[1]
            assert f"<h2>{heading} <small>" in page
            for label in ("登记 enrollment …", "缴费单 bill …", "订单 order …"):
                assert f">{label}" in page
            assert 'placeholder="任一编号 any id"' in page  # short: a phone shows it whole


async def test_a_version_that_a_bill_does_not_have_is_not_found(database: Database) -> None:
    wang = Citizen()
    async with listening(database) as console:
        await console.hear(*wang.facts())
    async with browsing(database.url("console")) as session:
        for version, status in (("1", 200), ("2", 404), ("x", 404), ("", 404)):
            assert (await text_of(session, f"/timeline/{wang.obligation}/{version}"))[0] == status, version
        assert (await text_of(session, f"/timeline/{wang.person}/1"))[0] == 404


async def test_an_id_number_is_refused_and_stays_in_no_address(database: Database) -> None:
    async with browsing(database.url("console")) as session:
        for path in ("/timeline?id=11010119900307001X", "/timeline/11010119900307001X"):
            async with session.get(path) as answer:
                assert (answer.status, answer.url.path, answer.url.query_string) == (400, "/sealed", "")
                page = await answer.text()
            assert "stored sealed" in page
            assert "11010119900307001X" not in page
        page = (await text_of(session, "/timeline/1101-01"))[1]
        assert "<title>查无记录" in page


async def test_how_many_have_just_registered_is_shown(database: Database) -> None:
    async with listening(database) as console:
        await console.hear(*Citizen().facts())
    async with browsing(database.url("console")) as session:
        page = (await text_of(session, "/"))[1]
    assert "<small>registered</small><strong>1</strong><i>+1 / min</i>" in page


async def test_what_nobody_has_said_is_not_found(database: Database) -> None:
    async with browsing(database.url("console")) as session:
        for wanted in (uuid7(), "x", "..%2f..%2fetc%2fpasswd", "%00", "%27;drop table step", "a" * 2000):
            status, page = await text_of(session, f"/timeline/{wanted}")
            assert status == 404, wanted
            assert "查无记录" in page


async def test_without_a_database_the_page_says_so(database: Database) -> None:
    async with browsing("postgresql://console:x@127.0.0.1:1/canbao") as session:
        status, page = await text_of(session, "/")
    assert status == 503
    assert "nothing is lost" in page


def test_nobodys_name_becomes_markup() -> None:
    assert tag("b", "<script>", title='"x"') == '<b title="&quot;x&quot;">&lt;script&gt;</b>'
