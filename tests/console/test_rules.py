"""What is shown of a fact, and how are its values written?"""

from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.billing import BillIssued
from contracts.enrollment import PersonRecorded
from contracts.reasons import Reason
from services.console import rules
from services.console.rules import Place
from tests.console.made_up import NOON, Citizen, accepted, parked, rejected

WANG = Citizen()
BILL = "billing.bill_issued.v1"
PLACE = Place(
    "01931a00-0000-7000-8000-000000000001", "2024-12-20T12:00:00+08:00", BILL, "billing.bills", 3, 7
)
REPLY = Place(PLACE.ce_id, PLACE.time, "answer.accepted.v1", "agencies.990100.replies", 3, 8)


def test_every_fact_has_words_and_nothing_sealed_is_shown() -> None:
    for fact, words in rules.WORDS.items():
        sealed = {name for name, kind in fact.__annotations__.items() if "Sealed" in str(kind)}
        assert sealed.isdisjoint(words.shown), fact
        assert set(words.shown) <= set(fact.__struct_fields__), fact
    assert {words.stage for words in rules.WORDS.values()} - {""} == set(rules.STAGES) - {"registered"}


def test_a_fact_becomes_a_row_with_its_ids_and_what_is_shown() -> None:
    bill = next(fact for fact in WANG.facts() if isinstance(fact, BillIssued))
    row = rules.step(bill, PLACE)
    assert (row.person_id, row.enrollment_id, row.obligation_id, row.order_id) == (
        WANG.person,
        WANG.enrollment,
        WANG.obligation,
        None,
    )
    assert (row.at, row.part, row.record_offset, row.journey) == (NOON, 3, 7, WANG.journey)
    assert row.about == {
        "version": 1,
        "due_fen": 12000,
        "subsidy_fen": 95000,
        "category": "subsistence",
        "closes_on": "2025-03-31",
        "policy": "demo-2025/1",
    }


@pytest.mark.parametrize(
    ("key", "result", "person_id"),
    [
        ("r-1", {}, None),
        (WANG.person, {}, WANG.person),
        ("r-1", {"person_id": WANG.person}, WANG.person),
        ("990100199203152625", {"person_id": 7}, None),
        (WANG.person.upper(), {"enrollment_id": "x"}, None),
    ],
)
def test_an_answer_is_about_whom_it_names_else_about_the_key(
    key: str, result: dict[str, Any], person_id: str | None
) -> None:
    row = rules.answered(accepted("r-1", "enrollment.register_account.v1", **result), REPLY, key=key)
    assert (row.person_id, row.enrollment_id, row.journey) == (person_id, None, "")
    assert row.channel_ref == "r-1"


def test_of_a_refusal_only_reason_and_field_are_kept() -> None:
    where = {"field": "registration.id_number", "expected": "a checksum", "got": "9901***25"}
    row = rules.answered(rejected("r-1", "x.y.v1", Reason.ID_CHECKSUM, **where), REPLY, key="r-1")
    assert row.about == {
        "command": "x.y.v1",
        "partner": "990100",
        "request_id": "r-1",
        "reason": "ID_CHECKSUM",
        "field": "registration.id_number",
    }
    assert rules.said_by(row.topic, row.about) == "x"


def test_what_names_nobody_has_no_ids() -> None:
    row = rules.step(parked(1), PLACE)
    assert (row.person_id, row.journey, row.channel_ref) == (None, "", "")


def test_a_person_is_known_by_its_masked_name_alone() -> None:
    recorded = next(fact for fact in WANG.facts() if isinstance(fact, PersonRecorded))
    assert rules.person(recorded, 3, PLACE.time) == rules.Person(WANG.person, "990100", "王*芳", NOON, 3)


@pytest.mark.parametrize(
    ("fen", "text"), [(0, "0.00元"), (12000, "120.00元"), (-5, "-0.05元"), (123456789, "1,234,567.89元")]
)
def test_amounts_are_yuan_with_fen(fen: int, text: str) -> None:
    assert rules.yuan(fen) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("due_fen", 40000, "400.00元"),
        ("paid_at", "2024-12-20T04:00:00Z", "2024-12-20 12:00:00+08:00"),
        ("reason", "PAID_TWICE", "重复缴费（PAID_TWICE）"),
        ("reasons", ["PAID_TWICE", "of the agency"], "重复缴费（PAID_TWICE）、of the agency"),
        ("categories", ["orphan", "student"], "orphan、student"),
        ("version", 2, "2"),
        ("command", "enrollment.submit_enrollment.v1", "submit enrollment"),
    ],
)
def test_values_are_written_for_people(name: str, value: Any, text: str) -> None:
    assert rules.shown(name, value) == text


def test_details_stand_in_the_order_of_the_words_without_what_is_empty() -> None:
    due = rules.details(BILL, {"due_fen": 1, "version": 2, "lines": [], "policy": ""})
    assert due == "版本 version 2；应缴 due 0.01元"
    assert rules.details("of.another.v1", {"x": 1, "due_fen": 2}) == "x 1；应缴 due 0.02元"


def test_every_shown_field_has_a_label_in_both_languages() -> None:
    for words in rules.BY_TYPE.values():
        for name in words.shown:
            zh, en = rules.LABELS[name]
            assert (zh.isascii(), en.isascii(), en != "") == (False, True, True), name


def test_cover_that_is_set_does_not_claim_that_somebody_waits() -> None:
    assert rules.title("enrollment.coverage_waiting.v1") == ("待遇待生效", "cover set")


@pytest.mark.parametrize(
    ("wanted", "is_personal"),
    [("11010119900307001X", True), ("110101199003070010", True), (" 13800000001 ", True),
     ("2024110500017", False), (PLACE.ce_id, False), ("4200002024110501", False)],
)  # fmt: skip
def test_an_id_number_or_a_phone_is_known_by_its_look(wanted: str, is_personal: bool) -> None:
    assert rules.is_personal(wanted) == is_personal


def test_a_type_is_called_by_its_words_or_by_itself() -> None:
    assert rules.title(BILL) == ("已核定缴费单", "bill issued")
    assert rules.title("of.another.v1") == ("of.another.v1", "of.another.v1")


def test_an_instant_is_told_on_chinese_clocks() -> None:
    assert rules.instant(datetime(2024, 12, 31, 16, 0, 1, tzinfo=UTC)) == "2025-01-01 00:00:01+08:00"
