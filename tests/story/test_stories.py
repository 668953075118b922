"""What happens to people? Told as they would, through channels, agency, provider and SMS, all running."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from zoneinfo import ZoneInfo

import asyncpg
import msgspec
import pytest

from contracts.billing import BillIssued, BillSettled
from contracts.enrollment import CoverageActivated, EnrollmentSubmitted
from contracts.message import contract_of
from contracts.operations import MessageParked
from contracts.payment import FundsUnmatched, PaymentSettled, ReportPayment
from sandbox.forger import forge
from tests.people import AYGUL, LI_NA, WANG_JUN, YEAR, ZHANG_WEI, ZHAO_XIAOYU
from tests.people import Citizen as Person
from tests.story.town import Citizen, Town, accepted, soon

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

CHINA = ZoneInfo("Asia/Shanghai")
CHEN_MIN = Person(number=6, name="陈敏", id_number="990100198503172420", phone="19900000006")
SUN_LI = Person(number=8, name="孙丽", id_number="990100199001015542", phone="19900000008")
LIU_YANG = Person(number=7, name="刘洋", id_number="990100197807190033", phone="19900000007")


async def test_li_na_applies_is_reviewed_pays_is_covered_and_told(town: Town) -> None:
    li_na = Citizen(town, LI_NA)
    await li_na.is_approved()

    bill = await li_na.bill()
    assert bill["due_fen"] == 40_000
    assert bill["explanation"][-1] == "应缴400.00元，请于2025年3月31日前（含当日）缴纳"

    await town.pays(await li_na.orders(bill))

    covered = await town.hears(CoverageActivated, person_id=li_na.person_id)
    assert covered.starts_on == town.now().astimezone(CHINA).date()
    assert covered.ends_on.isoformat() == f"{YEAR}-12-31"
    await li_na.bill("SETTLED")
    await li_na.is_told("bill_issued", "payment_settled", "coverage_activated")


async def test_who_pays_twice_gets_the_second_money_back(town: Town) -> None:
    wang_jun = Citizen(town, WANG_JUN)
    await wang_jun.is_approved()
    bill = await wang_jun.bill()

    await town.pays(await wang_jun.orders(bill))
    await town.hears(PaymentSettled, person_id=wang_jun.person_id)
    at_the_bank = wang_jun.paid_at("bank", bill)
    heard = accepted(await town.partners["bank"].ask(at_the_bank))

    assert (heard["status"], heard["reason"]) == ("SUSPENSE", "PAID_TWICE")
    kept = await town.hears(FundsUnmatched, person_id=wang_jun.person_id)
    assert (kept.amount_fen, kept.channel_ref) == (40_000, at_the_bank.channel_ref)
    assert len(town.said(PaymentSettled, person_id=wang_jun.person_id)) == 1
    await wang_jun.is_told("bill_issued", "payment_settled", "funds_unmatched", "coverage_activated")


async def test_money_that_is_a_fen_short_settles_nothing_and_the_right_amount_does(town: Town) -> None:
    zhao = Citizen(town, ZHAO_XIAOYU)
    await zhao.is_approved()
    bill = await zhao.bill()

    await town.pays(await zhao.orders(bill), "wrong_amount", delta_fen=-1)
    kept = await town.hears(FundsUnmatched, person_id=zhao.person_id)
    assert (kept.amount_fen, kept.reason) == (39_999, "AMOUNT_MISMATCH")
    assert (await zhao.bill("ISSUED"))["due_fen"] == 40_000
    assert not town.said(PaymentSettled, person_id=zhao.person_id)

    await town.pays(await zhao.orders(bill))
    await zhao.bill("SETTLED")
    await zhao.is_told("bill_issued", "funds_unmatched", "payment_settled", "coverage_activated")


async def test_a_returned_application_is_handed_in_again_and_approved(town: Town) -> None:
    aygul = Citizen(town, AYGUL, at="alipay")
    await aygul.registers()
    await aygul.applies()
    first = aygul.enrollment_id
    await aygul.is_judged("RETURN", "DOC_MISSING")
    assert "材料不全" in (await aygul.is_told("enrollment_returned"))[0].text

    await aygul.applies()
    await aygul.is_judged("APPROVE")

    async def twice() -> bool | None:
        return len(town.said(EnrollmentSubmitted, person_id=aygul.person_id)) == 2 or None

    assert aygul.enrollment_id == first
    await soon(twice, "the second application")
    await aygul.bill("ISSUED")
    await aygul.is_told("enrollment_returned", "bill_issued")


async def test_a_callback_that_got_lost_is_made_good_by_asking(town: Town) -> None:
    zhang = Citizen(town, ZHANG_WEI)
    await zhang.is_approved()
    bill = await zhang.bill()
    order_no = await zhang.orders(bill)

    await town.pays(order_no, "lost")
    await zhang.bill("ISSUED")
    await town.time_passes(timedelta(minutes=1))

    settled = await town.hears(PaymentSettled, person_id=zhang.person_id)
    assert settled.channel_code == "wechat"
    assert await town.callbacks(order_no) == 0
    await zhang.bill("SETTLED")


async def test_who_pays_after_the_clock_was_moved_pays_at_the_new_time(town: Town) -> None:
    sun = Citizen(town, SUN_LI)
    await sun.is_approved()
    order_no = await sun.orders(await sun.bill())

    moved_to = await town.time_passes(timedelta(minutes=10))
    await town.pays(order_no)

    settled = await town.hears(PaymentSettled, person_id=sun.person_id)
    assert settled.paid_at >= moved_to.replace(microsecond=0)


async def test_a_bank_that_is_faster_than_our_own_bill_is_answered_when_the_bill_arrives(town: Town) -> None:
    chen = Citizen(town, CHEN_MIN, at="bank")
    await chen.registers()
    await chen.applies()
    async with billing_says_nothing(town):
        await chen.is_judged("APPROVE")
        bill = await chen.bill()
        place = await town.partners["bank"].post(
            town.partners["bank"].letter(report := chen.paid_at("bank", bill))
        )
        await waits_in_payment(town, str(place))
        assert not town.said(BillIssued, person_id=chen.person_id)

    settled = await town.hears(PaymentSettled, person_id=chen.person_id)
    assert settled.channel_ref == report.channel_ref
    await town.hears(BillSettled, person_id=chen.person_id)
    assert not town.said(FundsUnmatched, person_id=chen.person_id)
    assert accepted(await town.partners["bank"].ask(report))["status"] == "SETTLED"


async def test_signatures_forged_for_her_change_nothing(town: Town) -> None:
    liu = Citizen(town, LIU_YANG, at="counter")
    await liu.is_approved()
    bill = await liu.bill()
    bank, thief = town.partners["bank"], town.partners["wechat"]
    claim, type_name = msgspec.json.encode(liu.paid_at("bank", bill)), contract_of(ReportPayment).type

    for forgery in ("flipped signature", "another partner's key", "cheap signature on money", "changed body"):
        letter = forge(forgery, bank, thief, type_name=type_name, key=liu.person_id, body=claim)
        parked = await town.hears(MessageParked, source=str(await bank.post(letter)))
        assert (parked.service, parked.reason, parked.refs) == ("payment", "SIGNATURE_INVALID", 0), forgery

    assert (await liu.bill("ISSUED"))["due_fen"] == 40_000
    assert not town.said(PaymentSettled, person_id=liu.person_id)
    assert not town.said(FundsUnmatched, person_id=liu.person_id)
    await liu.is_told("bill_issued")


@asynccontextmanager
async def billing_says_nothing(town: Town) -> AsyncIterator[None]:
    """Billing decides and keeps what it says: we hold its relay's lock."""
    db = await asyncpg.connect(town.stack.pg_admin_dsn, database=town.stack.database, ssl="disable")
    try:
        await db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'billing-relay'"
        )
        await db.execute("select pg_advisory_lock(hashtextextended('billing-relay', 0))")
        yield
    finally:
        await db.close()


async def waits_in_payment(town: Town, source: str) -> None:
    """Until payment has taken a report aside, to wait for its ground."""
    db = await asyncpg.connect(town.stack.database_url("auditor"), ssl="disable")

    async def look() -> bool | None:
        return await db.fetchval(
            "select true from payment.parked where state = 'AWAITS'"
            " and topic || '/' || partition || '/' || \"offset\" = $1",
            source,
        ) or None

    try:
        await soon(look, "the report that waits")
    finally:
        await db.close()
