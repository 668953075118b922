"""Does notify learn what became of each message, also on the provider's bad days?"""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from contracts.enrollment import Contact
from sandbox.simulators.accounts import make_sms
from sandbox.simulators.running import simulator
from services.chassis.calls import NotSent, Unknown
from services.chassis.ids import uuid7
from services.chassis.keys import KeyFile, Keyring, SealBroken, SealKey
from services.notify.gateway import Mail, Sms, read_sms_account
from services.notify.rules import MailTaken, SendMail, SendRefused, SendSms, SmsTaken

LI_NA = "01931a00-0000-7000-8000-000000000001"
WANG_WEI = "01931a00-0000-7000-8000-000000000002"
KEYS = Keyring(
    KeyFile(
        principal="notify",
        seals=[
            SealKey(
                key_id="notify>notify.1",
                sealer="notify",
                reader="notify",
                secret=base64.b64encode(b"n" * 32).decode(),
            )
        ],
    )
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("notify")
    make_sms(directory / "ours.json", directory / "theirs.json")
    return directory


@pytest.fixture(scope="module")
def provider(files: Path) -> Iterator[str]:
    settings = {"account": str(files / "theirs.json"), "retry_after_seconds": 7, "day_limit": 3,
                "templates": {"BILL_ISSUED": "{name}，您2025年度居民医保应缴{due}元。咨询12393。"}}
    with simulator("sms", settings, files) as where:
        yield where["url"]


@pytest.fixture(scope="module")
def server(files: Path) -> Iterator[dict[str, str]]:
    with simulator("mail", {}, files) as where:
        yield where


@pytest.fixture
async def sms(files: Path, provider: str) -> AsyncIterator[Sms]:
    async with Sms(
        read_sms_account(files / "ours.json"), url=provider, keys=KEYS, timeout_seconds=1
    ) as ready:
        yield ready
    await at(provider, "/simulator/faults")


@pytest.fixture
async def mail(server: dict[str, str]) -> AsyncIterator[Mail]:
    async with Mail(server=server["smtp"], sender="no-reply@canbao.example", keys=KEYS, timeout_seconds=1,
                    connections=2) as ready:
        yield ready
    await at(server["url"], "/simulator/faults")


async def at(url: str, path: str, **body: Any) -> Any:
    async with aiohttp.ClientSession(url) as session, session.post(path, json=body) as response:
        return await response.json()


async def book(url: str, **wanted: str) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession(url) as session, session.get("/simulator/book") as response:
        rows = [json.loads(line) for line in (await response.text()).splitlines()]
    return [row for row in rows if wanted.items() <= row.items()]


_phones = iter(range(13_800_000_000, 13_900_000_000))


def an_sms(phone: str | None = None, **params: str) -> SendSms:
    contact = Contact(name="李娜", phone=str(next(_phones)) if phone is None else phone, email="")
    return SendSms(
        notification_id=uuid7(),
        person_id=LI_NA,
        contact=KEYS.seal(contact, reader="notify", place=LI_NA),
        template="BILL_ISSUED",
        params=params or {"name": "李*", "due": "400.00"},
    )


def a_mail(email: str = "lina@example.org", subject: str = "您的缴费单") -> SendMail:
    contact = Contact(name="李娜", phone="", email=email)
    return SendMail(
        notification_id=uuid7(),
        person_id=LI_NA,
        contact=KEYS.seal(contact, reader="notify", place=LI_NA),
        subject=subject,
        text="您2025年度居民医保应缴400.00元。\n咨询12393。\n",
    )


# ---- SMS

async def test_an_sms_is_taken_with_the_text_of_its_template(sms: Sms, provider: str) -> None:
    request = an_sms("13700000001")

    taken = await sms.send(request)

    rows = await book(provider, out_id=request.notification_id)
    assert taken == SmsTaken(
        notification_id=request.notification_id, person_id=LI_NA, provider_ref=rows[0]["biz_id"]
    )
    assert [(row["phone"], row["text"]) for row in rows] == [
        ("13700000001", "【示例市医保】李*，您2025年度居民医保应缴400.00元。咨询12393。")]


async def test_sending_twice_sends_twice(sms: Sms, provider: str) -> None:
    """The provider does not dedupe; that is why nobody sends again before asking."""
    request = an_sms()

    await sms.send(request)
    await sms.send(request)

    assert len(await book(provider, out_id=request.notification_id)) == 2


async def test_an_unknown_outcome_is_resolved_by_asking(sms: Sms, provider: str) -> None:
    request = an_sms()
    await at(provider, "/simulator/faults", named={request.notification_id: "timeout"})
    with pytest.raises(Unknown):
        await sms.send(request)

    found = await sms.ask(request)

    assert isinstance(found, SmsTaken)
    assert found.doubtful
    assert len(await book(provider, out_id=request.notification_id)) == 1


async def test_what_the_provider_never_had_may_be_sent_again(sms: Sms, provider: str) -> None:
    request = an_sms()
    await at(provider, "/simulator/faults", named={request.notification_id: "dropped"})
    with pytest.raises(Unknown):
        await sms.send(request)

    assert await sms.ask(request) is None
    await at(provider, "/simulator/faults")
    sent_again = await sms.send(request)
    assert isinstance(sent_again, SmsTaken)
    assert sent_again.doubtful  # the provider's book may lag: then there are two, and that is counted


async def test_a_new_process_does_not_know_what_an_old_one_sent(sms: Sms) -> None:
    request = an_sms()

    assert await sms.ask(request) is None  # only asked because an earlier attempt left the row
    sent = await sms.send(request)

    assert isinstance(sent, SmsTaken)
    assert sent.doubtful


async def test_an_outage_of_the_provider_is_unknown(sms: Sms, provider: str) -> None:
    request = an_sms()
    await at(provider, "/simulator/faults", named={request.notification_id: "down"})

    with pytest.raises(Unknown):
        await sms.send(request)


async def test_a_busy_provider_says_how_long_to_wait(sms: Sms, provider: str) -> None:
    request = an_sms()
    await at(provider, "/simulator/faults", named={request.notification_id: "limited"})

    with pytest.raises(NotSent) as caught:
        await sms.send(request)

    assert caught.value.after_seconds == 7.0
    assert await book(provider, out_id=request.notification_id) == []
    await at(provider, "/simulator/faults")
    assert await sms.ask(request) is None
    sent = await sms.send(request)
    assert isinstance(sent, SmsTaken)
    assert not sent.doubtful  # surely not sent before


@pytest.mark.parametrize(
    ("phone", "params", "code", "final"),
    [
        ("13700000009", {}, "isv.MOBILE_NUMBER_ILLEGAL", True),          # named as bad at the provider
        ("", {}, "NO_PHONE", True),
        ("12345", {}, "NO_PHONE", True),
        ("1380000000a", {}, "NO_PHONE", True),
        ("13700000010", {"name": "李*"}, "isv.TEMPLATE_MISSING_PARAMETERS", True),
        ("13700000011", {}, "isv.BUSINESS_LIMIT_CONTROL", False),        # named as full for today
    ],
)
async def test_a_refusal_is_a_value(
    sms: Sms, provider: str, phone: str, params: dict[str, str], code: str, final: bool
) -> None:
    await at(provider, "/simulator/faults", named={"13700000009": "bad_number", "13700000011": "day_limit"})
    request = an_sms(phone, **params)

    refused = await sms.send(request)

    assert isinstance(refused, SendRefused)
    assert (refused.road, refused.code, refused.final) == ("SMS", code, final)
    assert phone not in refused.detail or not phone


async def test_the_fourth_of_a_day_is_refused_for_today(sms: Sms) -> None:
    outcomes = [await sms.send(an_sms("13700000012")) for _ in range(4)]

    assert [type(each) for each in outcomes] == [SmsTaken, SmsTaken, SmsTaken, SendRefused]


async def test_what_the_provider_took_it_knows_whether_it_arrived_or_not(sms: Sms, provider: str) -> None:
    lost, arrived, never = an_sms(), an_sms(), an_sms()
    await at(provider, "/simulator/faults", named={lost.notification_id: "undelivered"})
    for request in (lost, arrived):
        await sms.send(request)

    assert [type(await sms.ask(each)) for each in (lost, arrived, never)] == [SmsTaken, SmsTaken, type(None)]


async def test_a_contact_sealed_for_another_person_is_never_sent(sms: Sms, provider: str) -> None:
    request = msgspec.structs.replace(an_sms(), person_id=WANG_WEI)

    with pytest.raises(SealBroken):
        await sms.send(request)

    assert await book(provider, out_id=request.notification_id) == []


async def test_a_wrong_secret_sends_nothing_and_condemns_no_number(files: Path, provider: str) -> None:
    account = msgspec.structs.replace(read_sms_account(files / "ours.json"), secret="another")
    async with Sms(account, url=provider, keys=KEYS) as strange:
        with pytest.raises(NotSent):
            await strange.send(an_sms())


async def test_no_provider_is_surely_not_sent(files: Path, unused_tcp_port: int) -> None:
    account = read_sms_account(files / "ours.json")
    async with Sms(account, url=f"http://127.0.0.1:{unused_tcp_port}", keys=KEYS) as sms:
        with pytest.raises(NotSent):
            await sms.send(an_sms())


@pytest.mark.parametrize("change", ["none", "body", "replay", "old date", "unsigned action", "other path"])
async def test_the_provider_takes_only_what_its_customer_signed_once(
    sms: Sms, provider: str, change: str
) -> None:
    body = json.dumps({"phone": "13700000013", "template": "BILL_ISSUED", "out_id": f"forged {change}",
                       "params": {"name": "李*", "due": "1.00"}}).encode()
    if change == "old date":
        sms._clock = lambda: 1_700_000_000.0
    headers = sms._signed("SendSms", "POST", "/query" if change == "other path" else "/send", "", body)
    if change == "unsigned action":
        headers["x-acs-action"] = "DeleteSign"
    async with aiohttp.ClientSession(provider) as session:
        if change == "replay":
            await (await session.post("/send", data=body, headers=headers)).release()
        sent = body + b" " if change == "body" else body
        async with session.post("/send", data=sent, headers=headers) as response:
            assert response.status == (200 if change == "none" else 403)


async def test_an_answer_that_is_none_is_unknown(files: Path) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="<html>portal login</html>")

    app = web.Application()
    app.router.add_post("/send", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with Sms(
        read_sms_account(files / "ours.json"), url=f"http://127.0.0.1:{runner.addresses[0][1]}", keys=KEYS
    ) as sms:
        with pytest.raises(Unknown):
            await sms.send(an_sms())
    await runner.cleanup()


# ---- mail

async def test_a_mail_arrives_with_its_chinese_subject_and_its_id(mail: Mail, server: dict[str, str]) -> None:
    request = a_mail()

    taken = await mail.send(request)

    assert isinstance(taken, MailTaken)
    assert "queued" in taken.provider_ref
    rows = await book(server["url"], message_id=f"{request.notification_id}@canbao.example")
    assert [(row["to"], row["subject"], row["text"]) for row in rows] == [
        ("lina@example.org", "您的缴费单", "您2025年度居民医保应缴400.00元。\n咨询12393。\n")]


async def test_mails_share_the_connections_that_are_open(mail: Mail, server: dict[str, str]) -> None:
    before = len(await book(server["url"]))

    for _ in range(20):
        assert isinstance(await mail.send(a_mail()), MailTaken)

    assert len(await book(server["url"])) == before + 20


@pytest.mark.parametrize(
    ("email", "fault", "code"),
    [
        ("nobody@example.org", "bad_address", "550"),
        ("spam@example.org", "refused", "554"),
        ("", "ok", "NO_ADDRESS"),
        ("a@example.org\r\nBcc: b@example.org", "ok", "NO_ADDRESS"),
        ("李娜@example.org", "ok", "NO_ADDRESS"),
    ],
)
async def test_a_mailbox_that_will_never_take_it_is_a_value(
    mail: Mail, server: dict[str, str], email: str, fault: str, code: str
) -> None:
    await at(server["url"], "/simulator/faults", named={email: fault})

    refused = await mail.send(a_mail(email))

    assert isinstance(refused, SendRefused)
    assert (refused.road, refused.code, refused.final) == ("EMAIL", code, True)
    assert isinstance(await mail.send(a_mail()), MailTaken)         # the connection is clean again


async def test_a_subject_in_two_lines_becomes_one(mail: Mail, server: dict[str, str]) -> None:
    request = a_mail(subject="缴费单\r\nBcc: b@example.org")

    await mail.send(request)

    rows = await book(server["url"], message_id=f"{request.notification_id}@canbao.example")
    assert [(row["to"], row["subject"]) for row in rows] == [
        ("lina@example.org", "缴费单 Bcc: b@example.org")
    ]


@pytest.mark.parametrize(
    ("fault", "error", "taken"), [("limited", NotSent, 0), ("timeout", Unknown, 1), ("dropped", Unknown, 1)]
)
async def test_trouble_with_the_server_raises(
    mail: Mail, server: dict[str, str], fault: str, error: type[Exception], taken: int
) -> None:
    request = a_mail()
    message_id = f"{request.notification_id}@canbao.example"
    await at(server["url"], "/simulator/faults", named={message_id: fault})

    with pytest.raises(error):
        await mail.send(request)

    assert len(await book(server["url"], message_id=message_id)) == taken
    assert isinstance(await mail.send(a_mail()), MailTaken)


async def test_a_server_that_refuses_us_condemns_no_mailbox(mail: Mail, server: dict[str, str]) -> None:
    await at(server["url"], "/simulator/faults", named={"no-reply@canbao.example": "no_relay"})

    with pytest.raises(NotSent):
        await mail.send(a_mail())


async def test_no_mail_server_is_surely_not_sent(unused_tcp_port: int) -> None:
    async with Mail(
        server=f"127.0.0.1:{unused_tcp_port}", sender="no-reply@canbao.example", keys=KEYS
    ) as mail:
        with pytest.raises(NotSent):
            await mail.send(a_mail())


async def test_a_mail_that_may_have_gone_is_sent_again(mail: Mail) -> None:
    """SMTP can't be asked; the second carries the same Message-ID."""
    request = a_mail()
    known: object = await mail.ask(request)    # type: ignore[func-returns-value]  # None is its one answer

    assert known is None
    sent = await mail.send(request)
    assert isinstance(sent, MailTaken)
    assert sent.doubtful
