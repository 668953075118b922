"""Does a partner's client say what it means, hear every answer, and read whole topics? On the real broker."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from contracts.answers import Accepted
from contracts.billing import QueryBill
from contracts.enrollment import RegisterAccount, Registration
from contracts.message import contract_of
from sandbox import ending, mischief
from sandbox.forger import forge
from sandbox.keys import make_keys
from sandbox.partner import Letter, Partner, kafka_options, read_topics
from sandbox.stack import Stack
from services.chassis import trust
from services.chassis.ids import uuid7
from services.chassis.keys import Keyring, load_keyring

NOW = datetime(2024, 12, 20, 1, 0, tzinfo=UTC)
QUERY = contract_of(QueryBill).type


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("city") / "keys"
    make_keys(folder)
    return folder


@asynccontextmanager
async def partner(stack: Stack, keys: Path, code: str) -> AsyncIterator[Partner]:
    client = Partner(code, stack.kafka(code), load_keyring(keys / f"{code}.json"), lambda: NOW)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


@asynccontextmanager
async def answering(stack: Stack, topic: str) -> AsyncIterator[list[bytes]]:
    """Billing's place, taken by an echo: every request on a topic is accepted; the requests as they came."""
    came: list[bytes] = []
    consumer = await read_topics(stack.kafka("billing"), [topic], from_start=False)
    producer = AIOKafkaProducer(**kafka_options(stack.kafka("billing")))
    await producer.start()

    async def echo() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                for record in records:
                    came.append(record.value)
                    request_id = msgspec.json.decode(record.value)["request_id"]
                    answer = Accepted(request_id=request_id, command=QUERY, answered_at=NOW)
                    await producer.send(f"{topic}.replies", msgspec.json.encode(answer))

    task = asyncio.create_task(echo())
    try:
        yield came
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await consumer.stop()
        await producer.stop()


def query(request_id: str) -> QueryBill:
    return QueryBill(request_id=request_id, person_id=uuid7(), insurance_year=2025)


def verdict(keyring: Keyring, letter: Letter) -> object:
    money = letter.value is not None and b"channel_ref" in letter.value
    at_ms = int(dict(letter.headers).get("sig_at") or b"0")
    return trust.verify(
        keyring,
        topic=letter.topic,
        key=letter.key or b"",
        headers=dict(letter.headers),
        value=letter.value or b"",
        broker_ms=at_ms,
        money=money,
    )


async def test_every_question_gets_its_own_answer(broker: Stack, keys: Path) -> None:
    async with answering(broker, "channels.wechat") as came, partner(broker, keys, "wechat") as wechat:
        answers = await asyncio.gather(*(wechat.ask(query(f"q-{number}")) for number in range(500)))

    assert [answer.request_id for answer in answers] == [f"q-{number}" for number in range(500)]
    assert len(came) == 500


async def test_what_is_said_twice_is_heard_twice(broker: Stack, keys: Path) -> None:
    async with answering(broker, "channels.bank"), partner(broker, keys, "bank") as bank:
        question = query("again")
        await bank.ask(question, question)
        async with asyncio.timeout(10):
            while len(bank.answers["again"]) < 2:
                await bank.ask(query("tick"))

    assert bank.answers["again"][0] == bank.answers["again"][1]


async def test_who_is_told_to_end_in_the_moment_of_his_answer_ends(broker: Stack, keys: Path) -> None:
    async with answering(broker, "channels.bank"), partner(broker, keys, "bank") as bank:
        question = query("end")
        asked = asyncio.create_task(bank.ask(question, question))
        async with asyncio.timeout(10):
            while not bank.answers.get("end"):
                await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    assert asked.cancelled(), "else it goes on with what it does next"


async def test_who_loses_the_order_to_end_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "AGAIN_SECONDS", 0.01)
    told: list[BaseException] = []

    began = asyncio.Event()

    async def deaf() -> None:
        began.set()
        while len(told) < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as order:
                told.append(order)

    task = asyncio.create_task(deaf())
    await began.wait()
    await ending.end(task)

    assert task.done()


async def test_a_posted_record_stands_where_the_partner_says(broker: Stack, keys: Path) -> None:
    consumer = await read_topics(broker.kafka("auditor"), ["channels.alipay"], from_start=False)
    async with partner(broker, keys, "alipay") as alipay:
        letters = [alipay.letter(query(f"p-{number}")) for number in range(50)]
        places = await asyncio.gather(*(alipay.post(letter) for letter in letters))
    found: dict[tuple[int, int], bytes] = {}
    async with asyncio.timeout(10):
        while len(found) < 50:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found |= {(record.partition, record.offset): record.value for record in records}
    await consumer.stop()

    assert [found[place.partition, place.offset] for place in places] == [letter.value for letter in letters]


async def test_a_record_that_is_too_large_is_refused_here_and_the_next_one_goes(
    broker: Stack, keys: Path
) -> None:
    async with partner(broker, keys, "wechat") as wechat:
        with pytest.raises((ValueError, KafkaError)):
            await wechat.post(wechat.signed(QUERY, "k", random.Random(7).randbytes(2_000_000)))
        assert (await wechat.post(wechat.letter(query("small")))).topic == "channels.wechat"


async def test_nobody_writes_anothers_topic(broker: Stack, keys: Path) -> None:
    async with partner(broker, keys, "alipay") as alipay:
        letter = alipay.letter(query("x"))._replace(topic="channels.wechat")
        with pytest.raises(KafkaError):
            await alipay.post(letter)


def test_a_sealed_registration_opens_for_enrollment_only_in_its_place(keys: Path) -> None:
    bank, enrollment = load_keyring(keys / "bank.json"), load_keyring(keys / "enrollment.json")
    inside = Registration(
        id_kind="RESIDENT_ID", name="甄无误", id_number="99010019850203999X", phone="19900000000"
    )
    command = RegisterAccount(
        request_id="r-1",
        region_code="990100",
        registration=bank.seal(inside, reader="enrollment", place="r-1"),
    )

    assert enrollment.open(command.registration, Registration, place="r-1") == inside


@pytest.mark.parametrize("kind", mischief.FORGERY_KINDS)
def test_no_forgery_passes_and_the_same_words_well_signed_do(keys: Path, stack: Stack, kind: str) -> None:
    bank = Partner("bank", stack.kafka("bank"), load_keyring(keys / "bank.json"), lambda: NOW)
    thief = Partner("wechat", stack.kafka("wechat"), load_keyring(keys / "wechat.json"), lambda: NOW)
    services = load_keyring(keys / "payment.json")
    money = kind == "cheap signature on money"
    type_name = "payment.report_payment.v1" if money else QUERY
    body = b'{"channel_ref": "x"}' if money else msgspec.json.encode(query("forged"))

    assert verdict(services, bank.signed(type_name, "key-1", body)) is None
    assert (
        verdict(services, forge(kind, bank, thief, type_name=type_name, key="key-1", body=body)) is not None
    )
