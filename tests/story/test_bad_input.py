"""What becomes of bad input, whatever it is? A refusal with its field, or a parked record with its reason."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from cli.verify import check
from contracts.answers import Rejected
from contracts.billing import QueryBill
from contracts.enrollment import RegisterAccount, Registration
from contracts.message import Sealed
from contracts.operations import MessageParked
from contracts.payment import CartItem, FundsUnmatched, PaymentSettled, StartPayment
from sandbox.forger import forge
from sandbox.partner import Letter, as_http, kafka_options
from services.chassis import trust
from services.chassis.ids import uuid7
from tests.people import REGION, YEAR
from tests.people import Citizen as Person
from tests.story.town import Citizen, Town, accepted

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

REGISTER, REPORT = "enrollment.register_account.v1", "payment.report_payment.v1"
HE_PING = Person(number=9, name="何平", id_number="990100198812120018", phone="19900000009")
MEGABYTE = 1 << 20


class Billed:
    """Somebody at the bank who owes 400 yuan, with what is true to be said about it."""

    def __init__(self, citizen: Citizen, bill: dict[str, Any]) -> None:
        self.town, self.citizen, self.bill = citizen.town, citizen, bill
        self.bank, self.wechat = self.town.partners["bank"], self.town.partners["wechat"]

    def report(self, **changes: Any) -> bytes:
        """A report of her payment, with other fields."""
        whole = msgspec.json.decode(msgspec.json.encode(self.citizen.paid_at("bank", self.bill)))
        return msgspec.json.encode(whole | changes)

    def letter(self, body: bytes | None, *, type_name: str = REPORT, **head: bytes | None) -> Letter:
        """A record signed by the bank, and its headers changed after that; None takes one away."""
        letter = self.bank.signed(type_name, self.citizen.person_id, body)
        changed = dict(letter.headers) | head
        return letter._replace(headers=[(name, value) for name, value in changed.items() if value != b"-"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def billed(town: Town) -> AsyncIterator[Billed]:
    he = Citizen(town, HE_PING, at="bank")
    await he.is_approved()
    yield Billed(he, await he.bill())
    # whatever came before: she pays as she owes, is heard at once, and nothing else has happened to her
    heard = accepted(await town.partners["bank"].ask(he.paid_at("bank", await he.bill())))
    assert heard["status"] == "SETTLED"
    await town.hears(PaymentSettled, person_id=he.person_id)
    assert len(town.said(PaymentSettled, person_id=he.person_id)) == 1


def stale(it: Billed) -> Letter:
    """Signed six minutes ago."""
    letter = it.letter(it.report())
    head = {name: value or b"" for name, value in letter.headers if not name.startswith("sig")}
    signature = trust.sign(
        it.bank.keys, topic=letter.topic, key=letter.key or b"", headers=head, value=letter.value or b"",
        money=True, now_ms=int(time.time() * 1000) - 360_000,
    )
    return letter._replace(headers=[*head.items(), *signature])


def twice(it: Billed) -> Letter:
    letter = it.letter(it.report(), type_name="payment.start_payment.v1")
    return letter._replace(headers=[("ce_type", REPORT.encode()), *letter.headers])


PARKED: dict[str, tuple[str, Callable[[Billed], Letter]]] = {
    "garbage bytes": ("SCHEMA_INVALID", lambda it: it.letter(b"\xff\xfe\x00garbage")),
    "null value": ("SCHEMA_INVALID", lambda it: it.letter(None)),
    "a binary header": ("TYPE_UNKNOWN", lambda it: it.letter(it.report(), ce_type=b"\xff\x00\x80")),
    "no ce_type": ("BODY_INVALID", lambda it: it.letter(it.report(), ce_type=b"-")),
    "no headers": ("BODY_INVALID", lambda it: it.letter(it.report())._replace(headers=[])),
    "a header without a value": ("SIGNATURE_INVALID", lambda it: it.letter(it.report(), ce_id=None)),
    "unknown ce_type": ("TYPE_UNKNOWN", lambda it: it.letter(it.report(), type_name="payment.bribe.v1")),
    "future version": (
        "VERSION_UNSUPPORTED", lambda it: it.letter(it.report(), type_name="payment.report_payment.v9")
    ),
    "no request id": ("SCHEMA_INVALID", lambda it: it.letter(it.report(request_id=None))),
    "a forged signature": (
        "SIGNATURE_INVALID",
        lambda it: forge("flipped signature", it.bank, it.wechat, type_name=REPORT,
                         key=it.citizen.person_id, body=it.report()),
    ),
    "another partner's key": (
        "SIGNATURE_INVALID",
        lambda it: forge("another partner's key", it.bank, it.wechat, type_name=REPORT,
                         key=it.citizen.person_id, body=it.report()),
    ),
    "a stale signature": ("CLOCK_SKEW", stale),
    "a swapped ce_type": (
        "SIGNATURE_INVALID", lambda it: it.letter(it.report(), ce_type=b"payment.start_payment.v1")
    ),
    "two ce_types": ("BODY_INVALID", twice),
    "a password inside": ("SECRET_IN_MESSAGE", lambda it: it.letter(it.report(password="hunter2"))),
}


@pytest.mark.parametrize("what", PARKED)
async def test_what_nobody_can_be_answered_for_is_parked_with_its_reason(billed: Billed, what: str) -> None:
    reason, make = PARKED[what]
    place = await billed.bank.post(make(billed))
    parked = await billed.town.hears(MessageParked, source=str(place))
    assert (parked.reason, parked.refs) == (reason, 0)


MISFITS: dict[str, tuple[dict[str, Any], str, str]] = {
    "float money": ({"amount_fen": 400.5}, "SCHEMA_INVALID", "amount_fen"),
    "negative amount": ({"amount_fen": -40_000}, "SCHEMA_INVALID", "amount_fen"),
    "money as text": ({"amount_fen": "40000"}, "SCHEMA_INVALID", "amount_fen"),
    "a list for a number": ({"insurance_year": [2025]}, "SCHEMA_INVALID", "insurance_year"),
    "no time zone": ({"paid_at": "2024-12-20 09:00"}, "SCHEMA_INVALID", "paid_at"),
}


@pytest.mark.parametrize("what", MISFITS)
async def test_wrong_types_are_refused_by_their_field(billed: Billed, what: str) -> None:
    changes, code, field = MISFITS[what]
    body = billed.report(**changes)
    answer = await billed.bank.ask_raw(msgspec.json.decode(body)["request_id"], [billed.letter(body)])
    assert isinstance(answer, Rejected)
    assert (answer.refusal.code, answer.refusal.field) == (code, field)
    assert answer.refusal.todo_zh
    assert answer.refusal.todo_en


PEOPLE: dict[str, tuple[dict[str, str], str]] = {
    "wrong check digit": ({"id_number": "990100198812120010"}, "ID_CHECKSUM"),
    "birth date in the future": ({"id_number": "990100209912120016"}, "ID_BIRTH_DATE"),
    "phone with letters": ({"phone": "199oooo0009"}, "PHONE_INVALID"),
}


@pytest.mark.parametrize("what", PEOPLE)
async def test_who_cannot_be_is_not_registered(town: Town, what: str) -> None:
    changes, code = PEOPLE[what]
    answer = await registers(town, "bank", msgspec.structs.replace(HE_PING.registration, **changes))
    assert isinstance(answer, Rejected)
    assert answer.refusal.code == code
    assert not any(value in str(answer) for value in changes.values())


async def registers(town: Town, at: str, who: Registration, region: str = REGION) -> object:
    """The answer to a registration."""
    partner, request_id = town.partners[at], town.request_id()
    sealed: Sealed[Registration] = partner.keys.seal(who, reader="enrollment", place=request_id)
    return await partner.ask(RegisterAccount(request_id=request_id, region_code=region, registration=sealed))


async def test_an_unknown_region_is_refused(town: Town) -> None:
    answer = await registers(town, "bank", HE_PING.registration, region="999999")
    assert isinstance(answer, Rejected)
    assert answer.refusal.code == "REGION_UNKNOWN"


async def test_an_unknown_channel_is_not_let_in(billed: Billed) -> None:
    body = billed.report()
    async with billed.town.http.post(
        f"http://{billed.town.doors['payment']}/v1/commands", data=body,
        headers={"content-type": "application/json", "ce-type": REPORT, "ce-source": "/channels/pigeon"},
    ) as response:
        assert (response.status, (await response.json())["code"]) == (401, "SIGNATURE_INVALID")


async def test_another_channels_bill_is_neither_shown_nor_sold(billed: Billed) -> None:
    town, she = billed.town, billed.citizen
    query = QueryBill(request_id=town.request_id(), person_id=she.person_id, insurance_year=YEAR)
    item = CartItem(
        person_id=she.person_id, obligation_id=billed.bill["obligation_id"], version=1, amount_fen=40_000
    )
    start = StartPayment(
        request_id=town.request_id(), person_id=she.person_id, provider="wechat", items=[item]
    )
    for wish in (query, start):
        answer = await billed.wechat.ask(wish)
        assert isinstance(answer, Rejected)
        assert answer.refusal.code == "PERSON_NOT_FOUND"


async def test_an_amount_that_is_a_fen_off_settles_nothing(billed: Billed) -> None:
    heard = accepted(await billed.bank.ask(billed.citizen.paid_at("bank", billed.bill, fen=39_999)))
    assert (heard["status"], heard["reason"]) == ("SUSPENSE", "AMOUNT_MISMATCH")
    kept = await billed.town.hears(FundsUnmatched, person_id=billed.citizen.person_id)
    assert kept.amount_fen == 39_999


async def test_one_request_id_with_another_body_is_a_conflict_and_the_first_answer_stands(
    billed: Billed,
) -> None:
    wish = QueryBill(
        request_id=billed.town.request_id(), person_id=billed.citizen.person_id, insurance_year=YEAR
    )
    first = await billed.bank.ask(wish)
    other = await billed.bank.ask(msgspec.structs.replace(wish, insurance_year=YEAR + 1))
    assert accepted(first)["due_fen"] == 40_000
    assert isinstance(other, Rejected)
    assert other.refusal.code == "IDEMPOTENCY_CONFLICT"
    assert await billed.bank.ask(wish) == first


async def test_a_record_that_is_replayed_is_answered_alike_and_has_no_second_effect(billed: Billed) -> None:
    report = billed.citizen.paid_at("bank", billed.bill, fen=1)
    letter = billed.bank.letter(report)
    first = await billed.bank.ask_raw(report.request_id, [letter])
    again = await billed.bank.ask_raw(report.request_id, [letter])
    assert first == again
    await billed.town.hears(FundsUnmatched, channel_ref=report.channel_ref)
    assert len(billed.town.said(FundsUnmatched, channel_ref=report.channel_ref)) == 1


async def test_ten_megabytes_are_turned_away_at_the_broker_and_at_the_door(billed: Billed) -> None:
    bank, body = billed.bank, billed.report(note="x" * 10 * MEGABYTE)
    options = kafka_options(billed.town.stack.kafka("bank"))
    producer = AIOKafkaProducer(**options, max_request_size=32 * MEGABYTE)
    await producer.start()
    try:
        with pytest.raises(MessageSizeTooLargeError):
            await producer.send_and_wait(bank.who.topic, body)
    finally:
        await producer.stop()
    url = f"http://{billed.town.doors['payment']}/v1/commands"
    headers = as_http(billed.letter(body))
    try:
        async with billed.town.http.post(url, data=io.BytesIO(body), headers=headers) as response:
            assert response.status == 413
    except aiohttp.ClientError:
        pass    # the door said no and hung up while we still talked


async def test_five_hundred_pieces_of_garbage_delay_nobody(billed: Billed) -> None:
    town, counter = billed.town, billed.town.partners["counter"]
    letters = [counter.signed(REGISTER, uuid7(), b"\xff%d" % number) for number in range(500)]
    places = await asyncio.gather(*map(counter.post, letters))
    for channel in ("counter", "bank"):
        wish = QueryBill(
            request_id=town.request_id(), person_id=billed.citizen.person_id, insurance_year=YEAR
        )
        assert await town.partners[channel].ask(wish)
    await town.hears(MessageParked, source=str(places[-1]))


async def test_after_all_that_every_invariant_holds_and_every_service_is_well(town: Town) -> None:
    assert [result.id for result in await check(town.stack) if not result.ok] == []
    for service in ("enrollment", "billing", "payment", "notify"):
        async with town.http.get(f"http://{town.doors[service]}/health/live") as response:
            said = await response.json()
            assert (response.status, said["vitals"]["halted"]) == (200, False), said
