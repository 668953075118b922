"""Does trace tell one person's way from any id, quickly, without personal data?"""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.console import Console

from cli.history import NEWEST
from cli.timeline import Timeline, find
from cli.trace import WIDE, tables
from contracts.reasons import Reason
from sandbox.stack import Stack
from services.chassis.ids import millis, uuid7
from services.chassis.refs import Refs
from tests.cli.healthy import NOON, Year
from tests.ground import Database

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def year(database: Database, broker: Stack) -> AsyncIterator[Year]:
    async with database.connect() as db:
        year = Year(broker, db)
        await year.live()
        yield year


async def told(year: Year, wanted: str) -> Timeline:
    found = await find(year.stack, wanted)
    assert found is not None, wanted
    return found


def short(found: Timeline) -> list[tuple[str, str, str]]:
    """What happened, without when and how much."""
    return [(entry.service, entry.kind, entry.en) for entry in found.entries]


YEAR = [
    ("enrollment", "fact", "registered"),
    ("payment", "receipt", "received"),
    ("payment", "ledger", "ledger"),
    ("payment", "ledger", "ledger"),
    ("enrollment", "fact", "approved by the agency"),
    ("billing", "fact", "bill issued"),
    ("payment", "fact", "payment posted"),
]


@pytest.mark.parametrize("heard", ["just now", "two months ago"])
async def test_every_id_leads_to_the_same_way(year: Year, heard: str) -> None:
    if heard == "two months ago":
        await year.remember()
    for wanted, kind in (
        (year.person, "person"),
        (year.enrollment, "enrollment"),
        (year.journey, "enrollment"),
        (year.enrollment.upper(), "enrollment"),
        (year.obligation, "bill"),
        (f"{year.obligation}/1", "bill"),
        (year.order, "order"),
        (year.order.replace("-", ""), "order"),
        (year.channel_ref, "transaction"),
        (year.events["PaymentSettled"], "event"),
    ):
        found = await told(year, wanted)
        assert (found.kind, found.persons, found.journeys) == (kind, [year.person], [year.journey])
        assert short(found) == YEAR
        assert [(s.service, s.status) for s in found.states] == [
            ("enrollment", "APPROVED"),
            ("enrollment", "ACTIVE"),
            ("billing", "SETTLED"),
            ("payment", "SETTLED"),
            ("payment", "SETTLED"),
            ("notify", "SENT"),
        ]
        assert found.behind == []


@pytest.mark.parametrize("first", [0, 1])
async def test_what_two_services_say_in_one_millisecond_stands_in_the_order_of_the_way(
    year: Year, first: int
) -> None:
    said = uuid7()
    ids = [f"{said[:14]}7000{said[18:]}", f"{said[:14]}7fff{said[18:]}"]
    start = ("payment", "r-2", "payment.start_payment.v1", year.person)
    register = ("enrollment", "r-1", "enrollment.register_account.v1", "r-1")
    await year.answer(*start, ce_id=ids[first], order_id=year.order)
    await year.remember()  # so that it is found first
    await year.answer(*register, ce_id=ids[1 - first], person_id=year.person)
    found = await told(year, year.person)
    assert [en for _, kind, en in short(found) if kind == "command"] == ["register account", "start payment"]


async def test_no_fact_stands_between_the_two_legs_of_an_entry(year: Year) -> None:
    named = f"{millis(year.entry) + 1:012x}"
    fact = f"{named[:8]}-{named[8:]}{year.entry[13:]}"
    await year.db.execute(
        "update payment.outbox set ce_id = $1::text::uuid where ce_id = $2::text::uuid",
        fact, year.events["PaymentSettled"],
    )  # fmt: skip
    way = [en for service, _, en in short(await told(year, year.person)) if service == "payment"]
    assert way == ["received", "ledger", "ledger", "payment posted"]


@pytest.mark.parametrize("heard", ["just now", "two months ago"])
async def test_a_persons_way_begins_with_the_registration(year: Year, heard: str) -> None:
    register, start = "enrollment.register_account.v1", "payment.start_payment.v1"
    await year.answer("enrollment", "r-1", register, "r-1", person_id=year.person)
    await year.answer("payment", "r-2", start, year.person, order_id=year.order)
    await year.answer("enrollment", "r-3", register, "r-3", person_id=uuid7())
    if heard == "two months ago":
        await year.remember()
    asked = [("enrollment", "command", "register account"), ("payment", "command", "start payment")]
    for wanted in (year.person, "r-1", year.events["r-1"], year.order):
        found = await told(year, wanted)
        assert short(found) == [*asked, *YEAR], wanted
        assert [e.details for e in found.entries if e.kind == "command"] == ["wechat → ACCEPTED"] * 2


async def test_what_neither_console_nor_outbox_is_sure_to_know_is_said(year: Year) -> None:
    await year.db.execute(
        "insert into payment.outbox(batch_id, n, part, topic, type, seq, key, ce_id, subject, ce_time,"
        " journey, payload)"
        " select n, 0, $1, 'payment.payments', 'payment.payment_settled.v1', 1, uuidv7()::text,"
        " uuidv7(), '', now(), md5(n::text)::uuid, '{}' from generate_series(1000, 999 + $2::int) n",
        year.part,
        NEWEST,
    )
    assert (await told(year, year.person)).behind == ["payment.payments"]
    await year.db.execute("insert into console.inbox select ce_id from payment.outbox where batch_id = 1000")
    assert (await told(year, year.person)).behind == []


async def test_amounts_are_yuan_and_times_are_chinese(year: Year) -> None:
    found = await told(year, year.order)
    lines = [entry.details for entry in found.entries if entry.kind == "ledger"]
    assert lines == [
        "借 debit 渠道待清算 1002 clearing 400.00元",
        "贷 credit 应缴基金 2202 premiums 400.00元",
    ]
    assert any("支付时间 paid at 2024-12-20 12:00:00+08:00" in entry.details for entry in found.entries)


@pytest.mark.parametrize("columns", [80, 120, 150, 200])
async def test_on_a_terminal_of_any_width_no_id_and_no_word_is_cut(year: Year, columns: int) -> None:
    found = await told(year, year.order)
    console = Console(width=columns, file=io.StringIO())
    for part in tables(found, wide=columns >= WIDE):
        console.print(part)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    ids = {state.id for state in found.states} | {entry.id for entry in found.entries}
    words = {word for text in (*ids, *(each.en for each in found.entries)) for word in text.split()}
    assert "…" not in printed
    assert {word for word in words if word not in printed} == set()


async def test_commands_and_their_refusals_are_told_and_what_is_not_answered_yet(year: Year) -> None:
    answer = (
        b'{"outcome":"REJECTED","request_id":"r-9","command":"payment.start_payment.v1","answered_at":'
        b'"2024-12-20T04:00:00Z","refusal":{"code":"BILL_NOT_FOUND","zh":"\xe6\x9f\xa5\xe6\x97\xa0"}}'
    )
    request = {"partner": "wechat", "command": "payment.start_payment.v1", "digest": b"", "key": year.person}
    await year.put("payment.request", request_id="r-9", answer=answer, **request)
    await year.put("payment.request", request_id="r-10", **request)
    for wanted, outcome in (("r-9", "REJECTED 查无（BILL_NOT_FOUND）"), ("r-10", "PENDING")):
        found = await told(year, wanted)
        assert [e.details for e in found.entries if e.kind == "command"] == [f"wechat → {outcome}"]
        assert len(found.entries) == len(YEAR) + 1


@pytest.mark.parametrize("heard", ["just now", "two months ago"])
async def test_a_refused_registration_is_told_though_it_is_nobodys(year: Year, heard: str) -> None:
    register = "enrollment.register_account.v1"
    await year.answer("enrollment", "r-8", register, "r-8", refused=Reason.ID_CHECKSUM)
    if heard == "two months ago":
        await year.remember()
        await year.db.execute("delete from enrollment.request")  # a refusal that says "try again" leaves none
    found = await told(year, "r-8")
    assert (found.persons, found.states) == ([], [])
    assert [e.details for e in found.entries] == ["wechat → REJECTED 身份证号校验位不符（ID_CHECKSUM）"]


async def test_what_is_parked_for_somebody_is_told(year: Year) -> None:
    await year.park(
        "billing", type="payment.payment_settled.v1", topic="payment.payments", partition=1,
        **{'"offset"': 7}, at=NOON,
    )  # fmt: skip
    seq = await year.db.fetchval("select seq from billing.parked")
    await year.put(
        "billing.parked_ref", ref=Refs("billing").by_uuid("person")(year.person), seq=seq, state="PARKED"
    )
    found = await told(year, year.person)
    assert [(e.service, e.id) for e in found.entries if e.kind == "parked"] == [
        ("billing", f"{seq}: payment.payments/1/7")
    ]


async def test_another_persons_year_is_not_told(year: Year) -> None:
    other = Year(year.stack, year.db)
    await other.put_order(channel_ref="4200-other")
    found = await told(year, year.person)
    assert other.order not in [state.id for state in found.states]
    assert await find(year.stack, uuid7()) is None
    assert await find(year.stack, "4200-nobody") is None


@pytest.mark.parametrize("heard", ["just now", "two months ago"])
async def test_a_version_that_a_bill_does_not_have_is_known_to_nobody(year: Year, heard: str) -> None:
    if heard == "two months ago":
        await year.remember()
    for version in ("2", "x", "", "01"):
        assert await find(year.stack, f"{year.obligation}/{version}") is None, version
    assert await find(year.stack, f"{year.person}/1") is None


async def test_who_asked_is_called_what_he_is(year: Year) -> None:
    row = {"request_id": "r-7", "digest": b"", "key": year.person}
    await year.put(
        "enrollment.request", partner="990100", command="enrollment.review_decision.v1", **row
    )
    await year.put("enrollment.request", partner="operators", command="any.resume.v1", **row)
    await year.put("payment.request", partner="wechat", command="payment.start_payment.v1", **row)
    found = await told(year, "r-7")
    asked = {(entry.zh, entry.en) for entry in found.entries if entry.kind == "command"}
    assert asked == {
        ("机构决定", "review decision"), ("运维指令", "resume"), ("渠道请求", "start payment"),
    }  # fmt: skip


async def test_it_is_quick(year: Year) -> None:
    await year.remember()
    await year.db.execute(
        "insert into payment.outbox(batch_id, n, part, topic, type, seq, key, ce_id, subject, ce_time,"
        " journey, payload)"
        " select n, 0, 0, 'payment.payments', 'payment.payment_settled.v1', 1, gen_random_uuid()::text,"
        " gen_random_uuid(), '', now(), md5(n::text)::uuid, '{}' from generate_series(1000, 101000) n"
    )
    began = time.monotonic()
    await told(year, year.channel_ref)
    assert time.monotonic() - began < 2


def canbao(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=50,
        env={**os.environ, "CANBAO_DATA": str(folder), **settings},
    )


async def test_the_verbs_speak_in_lines_and_exit_codes(year: Year, tmp_path: Path) -> None:
    nowhere = canbao(tmp_path, "trace", year.person)
    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    year.stack.remember(tmp_path)
    shown = canbao(tmp_path, "trace", year.person)
    assert shown.returncode == 0
    assert "400.00元" in shown.stdout
    narrow = canbao(tmp_path, "trace", year.person, COLUMNS="150")
    found = json.loads(canbao(tmp_path, "trace", year.order, "--json").stdout)
    assert found["journeys"] == [year.journey]
    ids = [each["id"] for each in (*found["states"], *found["entries"])]
    assert [id for id in ids if id not in narrow.stdout] == []  # none is cut where it goes into a pipe
    for wanted, code, word in (
        (uuid7(), 1, "no service knows"),
        ("a b", 2, "is no id"),
        ("", 2, "is no id"),
        ("x" * 101, 2, "is no id"),
        ("11010119900307001X", 2, "sealed"),
        ("13800000001", 2, "sealed"),
    ):
        said = canbao(tmp_path, "trace", wanted)
        assert (said.returncode, said.stdout) == (code, ""), wanted
        assert word in said.stderr
        assert said.stderr.count("\n") == 1


async def test_it_follows_until_it_is_told_to_stop(year: Year, tmp_path: Path) -> None:
    year.stack.remember(tmp_path)
    following = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "trace", year.person, "--follow", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "CANBAO_DATA": str(tmp_path)},
    )
    assert following.stdout is not None
    try:
        async with asyncio.timeout(50):
            first = json.loads(await following.stdout.readline())
            assert len(first["entries"]) == len(YEAR)
            await year.answer("payment", "r-2", "payment.start_payment.v1", year.person)
            new = json.loads(await following.stdout.readline())
            assert (new["kind"], new["id"]) == ("command", "r-2")
            following.send_signal(signal.SIGINT)
            assert await following.communicate() == (b"", b"")
        assert following.returncode == 0
    finally:
        if following.returncode is None:
            following.kill()


async def test_verify_exits_with_1_when_something_is_wrong(year: Year, tmp_path: Path) -> None:
    assert canbao(tmp_path, "verify").returncode == 1
    year.stack.remember(tmp_path)
    good = canbao(tmp_path, "verify")
    assert (good.returncode, good.stdout.count("✓")) == (0, 14)
    await year.db.execute("delete from payment.ledger where leg = 2")
    bad = canbao(tmp_path, "verify", "--json")
    assert bad.returncode == 1
    results = {result["id"]: result for result in json.loads(bad.stdout)}
    assert set(results["I1"]) == {"id", "ok", "rows", "ms"}
    assert (results["I1"]["ok"], results["I1"]["rows"]) == (False, 1)
