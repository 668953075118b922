"""Notify's rules as tables: the outcome stands last, a row for each reason."""

import string
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Any, get_args

import pytest
from msgspec.structs import replace

from contracts.billing import BillIssued, BillWaived
from contracts.enrollment import Contact, CoverageActivated, EnrollmentRejected, EnrollmentReturned
from contracts.message import EnrollmentId, ObligationId, OrderId, PersonId, Sealed
from contracts.notify import NotificationFailed, NotificationSent
from contracts.payment import FundsUnmatched, PaymentSettled
from contracts.reasons import Reason
from services.notify import rules, tables
from services.notify.rules import (
    EMAIL,
    NOTIFICATION,
    SMS,
    Addressee,
    Event,
    MailTaken,
    Notification,
    SendMail,
    SendRefused,
    SendSms,
    SmsTaken,
    Status,
)
from services.notify.rules.words import TEMPLATES, Told, words, yuan

NOW = datetime(2024, 12, 20, 16, 30, tzinfo=UTC)  # half past midnight in Shanghai: already the 21st
LI_NA = PersonId("0190a000-0000-7000-8000-000000000001")
FACT = "0190f000-0000-7000-8000-000000000001"
CASE = EnrollmentId("0190e000-0000-7000-8000-000000000001")
HERS = ObligationId("0190b000-0000-7000-8000-000000000001")
THIS = OrderId("0190c000-0000-7000-8000-000000000001")
BOX: Sealed[Contact] = Sealed(reader="notify", key_id="k", box="sealed")
HER = Addressee(LI_NA, "990100", "阿***********提", BOX, 1)  # the longest masked name of the city
SIGN = "【示例市医保】"

_WHO: dict[str, Any] = {
    "journey": "a" * 32,
    "region_code": "990100",
    "person_id": LI_NA,
    "enrollment_id": CASE,
}
_CASE: dict[str, Any] = {**_WHO, "scheme": "RESIDENT", "insurance_year": 2025}
_BILL: dict[str, Any] = {
    **_CASE,
    "obligation_id": HERS,
    "version": 1,
    "category": "",
    "subsidy_fen": 67_000,
    "policy": "demo-2025/1",
}

ISSUED = BillIssued(
    **_BILL, item="RESIDENT_MEDICAL_ANNUAL", lines=[], due_fen=40_000, closes_on=date(2025, 3, 31),
    explanation=[],
)  # fmt: skip
PAID = PaymentSettled(
    **_WHO, obligation_id=HERS, version=1, order_id=THIS, item=0, amount_fen=40_000, channel_code="wechat",
    channel_ref="4200-1", paid_at=NOW + timedelta(hours=1), posted_at=NOW,
)  # fmt: skip
UNMATCHED = FundsUnmatched(
    **_WHO, obligation_id=HERS, funds_id=FACT, order_id="", amount_fen=39_999, channel_code="counter",
    channel_ref="c-1", reason="PERSON_MISMATCH", received_at=NOW,
)  # fmt: skip
FACTS: list[Told] = [
    ISSUED,
    BillWaived(**_BILL, waived_at=NOW),
    EnrollmentReturned(**_CASE, reasons=["DOC_UNREADABLE", "DOC_MISSING"], decided_at=NOW),
    EnrollmentRejected(**_CASE, reasons=["COVERED_ELSEWHERE"], decided_at=NOW),
    PAID,
    CoverageActivated(**_CASE, starts_on=date(2025, 1, 1), ends_on=date(2025, 12, 31)),
    UNMATCHED,
]


def told(fact: Told, addressee: Addressee | None = HER) -> object:
    return rules.tell(fact, fact_id=FACT, addressee=addressee, hotline="12393", now=NOW)


def text(fact: Told) -> str:
    """What stands on the phone, without the sender's sign."""
    outcome = told(fact)
    assert isinstance(outcome, rules.Tells)
    return TEMPLATES[outcome.request.template][1].format_map(outcome.request.params)


# Words


def test_there_are_words_for_each_fact_and_no_others() -> None:
    assert {type(fact) for fact in FACTS} == set(get_args(Told))
    assert {words(fact)[0] for fact in FACTS} == TEMPLATES.keys()


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_each_text_is_one_sms_with_the_hotline_and_without_a_link(fact: Told) -> None:
    said = text(fact)
    assert len(SIGN + said) <= 70
    assert "12393" in said
    assert "http" not in said
    assert "{" not in said


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_a_template_is_given_exactly_what_it_asks_for(fact: Told) -> None:
    template, params = words(fact)
    holes = {name for _, name, _, _ in string.Formatter().parse(TEMPLATES[template][1]) if name}
    assert holes == {*params, "name", "hotline"}


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.value[0]])
def test_every_reason_for_suspense_leaves_room_in_the_sms(reason: Reason) -> None:
    assert (
        len(SIGN + text(replace(UNMATCHED, reason=reason.name))) <= 74
    )  # the longest reasons never come here


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        (ISSUED, "您2025年度居民医保参保审核通过，请于2025-03-31前缴费400.00元。咨询12393"),
        (PAID, "已收到您于2024-12-21缴纳的居民医保费400.00元，缴费成功。咨询12393"),  # the civil day in China
        (UNMATCHED, "医保经办窗口收到的399.99元未能入账（缴费人身份信息不符），将原路退回。咨询12393"),
        (
            replace(UNMATCHED, channel_code="unionpay", reason="PAID_TWICE"),
            "unionpay收到的399.99元未能入账（重复缴费），将原路退回。咨询12393",
        ),
        (
            EnrollmentReturned(**_CASE, reasons=["SOMETHING_NEW"], decided_at=NOW),
            "您2025年度居民医保参保登记需补正：详情请咨询经办机构。请补正后重新提交。咨询12393",
        ),
        (
            EnrollmentRejected(**_CASE, reasons=[], decided_at=NOW),
            "您2025年度居民医保参保登记未通过审核：详情请咨询经办机构。咨询12393",
        ),
    ],
)  # fmt: skip
def test_a_citizen_reads_amounts_in_yuan_and_dates_of_the_calendar(fact: Told, said: str) -> None:
    assert text(fact) == f"{HER.name_masked}：{said}"


@pytest.mark.parametrize(("fen", "read"), [(40_000, "400.00"), (39_999, "399.99"), (5, "0.05"), (0, "0.00")])
def test_fen_are_read_as_yuan(fen: int, read: str) -> None:
    assert yuan(fen) == read


# Roads


@pytest.mark.parametrize(("status", "event"), list(product(Status, Event)))
def test_a_notification_moves_only_as_its_table_says(status: Status, event: Event) -> None:
    allowed = {
        "SENDING": {"TAKEN": "SENT", "BUSY": "DEFERRED", "REFUSED": "FALLBACK"},
        "DEFERRED": {"MORNING": "SENDING"},
        "FALLBACK": {"TAKEN": "SENT", "BUSY": "DEAD", "REFUSED": "DEAD"},
        "SENT": {},
        "DEAD": {},
    }
    assert NOTIFICATION.get((status, event)) == allowed[status].get(event)


def test_each_state_is_allowed_by_the_table() -> None:
    table = tables.Base.metadata.tables["notify.notification"]
    checks = " ".join(str(each.sqltext) for each in table.constraints if hasattr(each, "sqltext"))
    assert all(f"'{status}'" in checks for status in Status)


def test_a_fact_becomes_one_sms_whose_contact_stays_sealed() -> None:
    outcome = told(ISSUED)
    assert isinstance(outcome, rules.Tells)
    it, request = outcome.notification, outcome.request
    assert (it.notification_id, it.status, it.road, it.attempts) == (FACT, Status.SENDING, SMS, 1)
    assert (request.notification_id, request.person_id, request.contact) == (FACT, LI_NA, BOX)
    assert rules.number(request) == FACT


@pytest.mark.parametrize(
    ("fact", "addressee", "outcome"),
    [
        (ISSUED, None, rules.Awaited()),
        (replace(UNMATCHED, person_id=PersonId("")), None, rules.Nobody()),  # money that names nobody
        (replace(UNMATCHED, reason="PERSON_NOT_FOUND"), None, rules.Nobody()),  # payment has waited for her
        (replace(UNMATCHED, reason="ORDER_UNKNOWN"), None, rules.Awaited()),
    ],
)
def test_who_cannot_be_told_yet_is_awaited(fact: Told, addressee: Addressee | None, outcome: object) -> None:
    assert told(fact, addressee) == outcome


KNOWN = Notification(
    FACT, LI_NA, "a" * 32, "990100", "bill_issued", {}, HER.name_masked, SMS, Status.SENDING, 1, "", "",
    NOW, None,
)  # fmt: skip
ABOUT: dict[str, Any] = {"notification_id": FACT, "person_id": LI_NA}


@pytest.mark.parametrize(
    ("outcome", "status", "doubtful"),
    [
        (SmsTaken(**ABOUT, provider_ref="b-1"), "SENDING", False),
        (SmsTaken(**ABOUT, provider_ref="b-1", doubtful=True), "SENDING", True),
        (MailTaken(**ABOUT, provider_ref="b-1"), "FALLBACK", False),
        (MailTaken(**ABOUT, provider_ref="b-1", doubtful=True), "FALLBACK", True),
        (SmsTaken(**ABOUT, provider_ref="b-1"), "SENT", None),  # heard twice
        (SmsTaken(**ABOUT, provider_ref="b-1"), "DEAD", None),
    ],
)
def test_what_a_provider_has_taken_is_said_once(
    outcome: SmsTaken | MailTaken, status: str, doubtful: bool | None
) -> None:
    ended = rules.taken(outcome, replace(KNOWN, status=status), now=NOW)
    if doubtful is None:
        assert ended == rules.Unchanged()
        return
    assert isinstance(ended, rules.Ended)
    assert ended.notification == replace(KNOWN, status=Status.SENT, provider_ref="b-1", ended_at=NOW)
    assert isinstance(ended.fact, NotificationSent)
    assert (ended.fact.about, ended.fact.doubtful, ended.fact.attempts) == (FACT, doubtful, 1)


def refusal(road: str, *, final: bool) -> SendRefused:
    return SendRefused(**ABOUT, road=road, code="isv.DAY_LIMIT_CONTROL", detail="", final=final)


@pytest.mark.parametrize(
    ("road", "final", "status", "attempts", "after"),
    [
        (SMS, True, "SENDING", 1, "FALLBACK"),  # a number that does not exist: by mail
        (SMS, False, "SENDING", 1, "DEFERRED"),  # full for today: in the morning
        (SMS, False, "SENDING", 3, "FALLBACK"),  # three mornings are enough
        (EMAIL, True, "FALLBACK", 2, "DEAD"),  # no road is left
        (EMAIL, False, "FALLBACK", 2, "DEAD"),
        (SMS, True, "SENT", 1, None),
        (SMS, True, "DEAD", 1, None),
    ],
)
def test_a_refusal_leads_to_the_morning_to_the_mail_or_to_the_end(
    road: str, final: bool, status: str, attempts: int, after: str | None
) -> None:
    known = replace(
        KNOWN,
        status=status,
        attempts=attempts,
        params={"name": "李*", "year": "2025", "by": "d", "amount": "1", "hotline": "h"},
    )
    outcome = rules.refused(refusal(road, final=final), known, HER, now=NOW)
    match outcome:
        case rules.Resends(resent, request):
            assert resent.status == after == "FALLBACK"
            assert (resent.road, resent.attempts) == (EMAIL, attempts + 1)
            assert isinstance(request, SendMail)
            assert request.text.startswith("李*：您2025年度")
            assert rules.number(request) == f"{FACT}.mail"
        case rules.Defers(deferred, at, timer):
            assert deferred.status == after == "DEFERRED"
            assert at == datetime(2024, 12, 22, 0, 0, tzinfo=UTC)  # 08:00 the next day in Shanghai
            assert timer == rules.SendAgain(notification_id=FACT, person_id=LI_NA)
        case rules.Ended(dead, fact):
            assert dead.status == after == "DEAD"
            assert isinstance(fact, NotificationFailed)
            assert fact.reason == "isv.DAY_LIMIT_CONTROL"
        case rules.Unchanged():
            assert after is None


@pytest.mark.parametrize(("status", "sends"), [("DEFERRED", True), ("SENT", False), ("FALLBACK", False)])
def test_the_morning_sends_what_was_deferred(status: str, sends: bool) -> None:
    outcome = rules.again(replace(KNOWN, status=status), HER)
    if not sends:
        assert outcome == rules.Unchanged()
        return
    assert isinstance(outcome, rules.Resends)
    assert isinstance(outcome.request, SendSms)
    assert (outcome.notification.status, outcome.notification.attempts) == (Status.SENDING, 2)
