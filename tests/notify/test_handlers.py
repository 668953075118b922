"""What does notify do? Given whom it can reach, when something happens, then calls, rows and facts."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.json import decode
from msgspec.structs import replace

from contracts.enrollment import Contact, PersonRecorded
from contracts.message import PersonId, Sealed
from contracts.notify import NotificationFailed, NotificationSent
from contracts.payment import FundsUnmatched
from services.notify import store
from services.notify.rules import MailTaken, Notification, SendMail, SendRefused, SendSms, SmsTaken
from tests.ground import Database
from tests.people import AYGUL, LI_NA, REGION, Citizen, instant
from tests.world import World, keyring, world_of


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with world_of("notify", database) as world:
        yield world


def recorded(citizen: Citizen) -> PersonRecorded:
    contact = Contact(name=citizen.name, phone=citizen.phone, email=citizen.email)
    sealed: Sealed[Any] = keyring("enrollment").seal(contact, reader="notify", place=citizen.person_id)
    return PersonRecorded(
        person_id=citizen.person_id, region_code=REGION, name_masked=citizen.name[0] + "*",
        for_payment=replace(sealed, reader="payment"), for_notify=sealed,
    )  # fmt: skip


async def told(world: World, citizen: Citizen) -> Notification:
    (notification,) = await world.kept(store.NOTIFICATIONS, person_id=citizen.person_id)
    return notification


async def request(world: World, kind: type[SendSms] | type[SendMail]) -> SendSms | SendMail:
    """The last call of this kind, as the gateway will read it."""
    sql = "select payload from call where type = $1 order by id desc limit 1"
    return decode(await world.db.fetchval(sql, kind.__name__), type=kind)


def about(notification: Notification) -> dict[str, Any]:
    return {"notification_id": notification.notification_id, "person_id": notification.person_id}


async def test_a_citizen_is_told_by_sms_and_the_phone_stays_sealed(world: World) -> None:
    await world.when(recorded(LI_NA))

    await world.when(LI_NA.payment_settled())

    kept = await told(world, LI_NA)
    sms = await request(world, SendSms)
    assert isinstance(sms, SendSms)
    assert (kept.template, kept.status, kept.params["amount"]) == ("payment_settled", "SENDING", "400.00")
    assert sms.params == kept.params
    assert sms.params["hotline"] == "12393"
    assert world.keys.open(sms.contact, Contact, place=LI_NA.person_id).phone == LI_NA.phone
    rows = await world.db.fetch(
        "select n::text from notification n union all select a::text from addressee a"
    )
    everything = " ".join(row[0] for row in rows)
    assert LI_NA.phone not in everything
    assert LI_NA.name not in everything


async def test_what_happens_before_we_know_the_person_is_told_when_we_do(world: World) -> None:
    await world.when(LI_NA.bill_waived())
    assert await world.parked() == [("AWAITS", "AWAITS_GROUND")]

    await world.when(recorded(LI_NA))

    assert (await told(world, LI_NA)).template == "bill_waived"
    assert await world.parked() == []


async def test_three_facts_of_one_person_in_one_batch_are_three_notifications(world: World) -> None:
    await world.when(recorded(LI_NA), LI_NA.bill_waived(), LI_NA.payment_settled(), LI_NA.payment_settled())

    assert len(await world.kept(store.NOTIFICATIONS, person_id=LI_NA.person_id)) == 3


async def test_what_the_provider_has_taken_is_said_once(world: World) -> None:
    await world.when(recorded(LI_NA), LI_NA.payment_settled())
    kept = await told(world, LI_NA)

    await world.tell(SmsTaken(**about(kept), provider_ref="b-1", doubtful=True))
    (fact,) = world.published
    assert isinstance(fact, NotificationSent)
    assert (fact.about, fact.road, fact.to_masked, fact.doubtful) == (
        kept.notification_id,
        "SMS",
        "李*",
        True,
    )

    await world.tell(SmsTaken(**about(kept), provider_ref="b-1"))
    assert world.published == []


async def test_who_has_no_working_phone_is_told_by_mail(world: World) -> None:
    await world.when(recorded(AYGUL), AYGUL.payment_settled())
    kept = await told(world, AYGUL)

    await world.tell(SendRefused(**about(kept), road="SMS", code="NO_PHONE", detail="", final=True))
    mail = await request(world, SendMail)
    assert isinstance(mail, SendMail)
    assert "缴费成功" in mail.text

    await world.tell(MailTaken(**about(kept), provider_ref="250 queued"))
    (fact,) = world.published
    assert isinstance(fact, NotificationSent)
    assert (fact.road, fact.attempts) == ("EMAIL", 2)


async def test_who_can_be_reached_by_no_road_is_reported_once(world: World) -> None:
    await world.when(recorded(LI_NA), LI_NA.payment_settled())
    kept = await told(world, LI_NA)

    await world.tell(SendRefused(**about(kept), road="SMS", code="NO_PHONE", detail="", final=True))
    await world.tell(SendRefused(**about(kept), road="EMAIL", code="NO_ADDRESS", detail="", final=True))

    (fact,) = world.published
    assert isinstance(fact, NotificationFailed)
    assert fact.reason == "NO_ADDRESS"
    assert (await told(world, LI_NA)).status == "DEAD"


async def test_a_phone_that_takes_no_more_today_is_tried_in_the_morning(world: World) -> None:
    await world.when(recorded(LI_NA), LI_NA.payment_settled())
    kept = await told(world, LI_NA)
    await world.db.execute("delete from call")  # its outcome takes the call's row with it
    await world.tell(
        SendRefused(**about(kept), road="SMS", code="isv.DAY_LIMIT_CONTROL", detail="", final=False)
    )
    assert (await told(world, LI_NA)).status == "DEFERRED"
    assert await world.calls() == []

    await world.later("2024-12-21T08:00+08:00")

    assert await world.calls() == [("SendSms", kept.notification_id)]
    assert ((await told(world, LI_NA)).status, (await told(world, LI_NA)).attempts) == ("SENDING", 2)


async def test_money_that_names_nobody_is_told_to_nobody(world: World) -> None:
    await world.when(
        FundsUnmatched(
            journey="a" * 32, region_code="", person_id=PersonId(""), enrollment_id="", obligation_id="",
            funds_id=LI_NA.order_id, order_id="", amount_fen=40_000, channel_code="wechat",
            channel_ref="4200-9", reason="ORDER_UNKNOWN", received_at=instant("2024-12-20T12:00+08:00"),
        )
    )  # fmt: skip

    assert (await world.calls(), await world.parked()) == ([], [])
