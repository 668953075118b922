"""What does a person owe, why, and what does a payment do to it?"""

from datetime import UTC, date, datetime
from itertools import product

import pytest
from msgspec.structs import replace

from contracts import policy
from contracts.payment import PaymentSettled
from contracts.policy import in_force
from contracts.reasons import Refused
from services.billing.rules import (
    TRANSITIONS,
    AlreadyBilled,
    Awaits,
    Bill,
    BillEvent,
    BillState,
    Due,
    Settled,
    Shown,
    Unchanged,
    Waived,
    assess,
    category_of,
    premium,
    settle,
    show,
    yuan,
)
from tests.people import LI_NA, instant

POLICY = in_force("990100", 2025)
NOW = datetime(2024, 12, 20, 4, tzinfo=UTC)
ISSUED = Bill(
    obligation_id=LI_NA.obligation_id, version=1, enrollment_id=LI_NA.enrollment_id,
    person_id=LI_NA.person_id, region_code="990100", scheme="RESIDENT", insurance_year=2025,
    category="ordinary", certified=[], due_fen=40_000, subsidy_fen=67_000,
    policy="demo-2025/1", closes_on=date(2025, 3, 31), status="ISSUED", order_id=None,
    issued_at=NOW, paid_at=None, sequence=1,
)
WAIVED = replace(
    ISSUED, status="WAIVED", category="orphan", certified=["orphan"], due_fen=0, subsidy_fen=107_000)
SETTLED = replace(
    ISSUED, status="SETTLED", order_id=LI_NA.order_id, paid_at=instant("2024-12-21T09:30+08:00"), sequence=2)
SUPERSEDED = replace(ISSUED, status="SUPERSEDED", sequence=2)


@pytest.mark.parametrize(
    ("certified", "category", "relief_fen", "due_fen"),
    [
        ((),                                    "ordinary",             0,      40_000),   # G1
        (("extremely_poor",),                   "extremely_poor",       40_000, 0),        # G2
        (("orphan",),                           "orphan",               40_000, 0),
        (("unsupported_child",),                "unsupported_child",    40_000, 0),
        (("veteran_party_member",),             "veteran_party_member", 40_000, 0),
        (("subsistence",),                      "subsistence",          28_000, 12_000),   # G3
        (("poverty_unstable",),                 "poverty_unstable",     28_000, 12_000),
        (("poverty_edge",),                     "poverty_edge",         28_000, 12_000),
        (("sudden_hardship",),                  "sudden_hardship",      28_000, 12_000),
        (("severely_disabled",),                "severely_disabled",    20_000, 20_000),   # G4
        (("lifted_from_poverty",),              "lifted_from_poverty",  20_000, 20_000),
        (("severely_disabled", "subsistence"),  "subsistence",          28_000, 12_000),   # G5
        (("student", "orphan", "subsistence"),  "orphan",               40_000, 0),
        (("student",),                          "student",              0,      40_000),
        (("preschool",),                        "preschool",            0,      40_000),
    ],
)
def test_the_most_favourable_category_sets_the_premium(
    certified: tuple[str, ...], category: str, relief_fen: int, due_fen: int
) -> None:
    owed = premium(certified, policy=POLICY)

    assert (owed.category, owed.due_fen, owed.subsidy_fen) == (category, due_fen, 67_000 + relief_fen)
    assert sum(line.fen for line in owed.lines if line.payable) == due_fen
    assert [line.fen for line in owed.lines if line.kind == "LTC"] == [1_000]
    assert not any(line.payable for line in owed.lines if line.kind == "LTC")       # inside, not on top


def test_a_category_nobody_declared_is_a_bug() -> None:
    with pytest.raises(KeyError):
        category_of(("king",), policy=POLICY)


def test_a_bill_says_step_by_step_why() -> None:
    assert premium(("severely_disabled", "subsistence"), policy=POLICY).explanation == [
        "示例市2025年度城乡居民基本医疗保险个人缴费标准为400.00元，其中含长期护理保险10.00元",
        "财政另行补助670.00元，不由个人缴纳",
        "经认定为城乡低保对象，个人缴纳120.00元，资助280.00元",
        "同时符合多个类别的，按个人缴费最低的类别执行",
        "应缴120.00元，请于2025年3月31日前（含当日）缴纳",
    ]


def test_a_category_that_pays_in_full_hears_of_no_relief() -> None:
    assert premium(("student",), policy=POLICY).explanation[2] == "经认定为在校在园学生，个人缴纳400.00元"


@pytest.mark.parametrize(
    ("fen", "text"), [(0, "0.00元"), (1, "0.01元"), (12_000, "120.00元"), (40_099, "400.99元")])
def test_fen_are_read_as_yuan(fen: int, text: str) -> None:
    assert yuan(fen) == text


@pytest.mark.parametrize(
    ("certified", "known", "outcome"),
    [
        ((),          None,    Due),
        (("orphan",), None,    Waived),
        ((),          ISSUED,  AlreadyBilled),
        (("orphan",), SETTLED, AlreadyBilled),
    ],
)
def test_who_is_approved_is_billed_once(
    certified: tuple[str, ...], known: Bill | None, outcome: type
) -> None:
    result = assess(LI_NA.approved(*certified), known, obligation_id=LI_NA.obligation_id, now=NOW)

    assert type(result) is outcome


def test_a_bill_names_what_it_was_assessed_by() -> None:
    due = assess(LI_NA.approved(), None, obligation_id=LI_NA.obligation_id, now=NOW)
    waived = assess(LI_NA.approved("orphan"), None, obligation_id=LI_NA.obligation_id, now=NOW)

    assert due == Due(ISSUED, premium((), policy=POLICY))
    assert waived == Waived(WAIVED)


@pytest.mark.parametrize(
    ("fact", "bill", "outcome"),
    [
        (LI_NA.payment_settled(),            ISSUED,     Settled),
        (LI_NA.payment_settled(),            SUPERSEDED, Settled),         # the money was for this version
        (LI_NA.payment_settled(),            SETTLED,    Unchanged),
        (LI_NA.payment_settled(),            None,       Awaits),
        (LI_NA.payment_settled(),            WAIVED,     AssertionError),
        (LI_NA.payment_settled(fen=39_999),  ISSUED,     AssertionError),  # payment settles no other amount
    ],
)
def test_a_payment_settles_the_version_it_names(
    fact: PaymentSettled, bill: Bill | None, outcome: type
) -> None:
    try:
        result: object = settle(fact, bill)
    except AssertionError as bug:
        result = bug

    assert type(result) is outcome


def test_a_settled_bill_names_the_order_and_the_channels_pay_time() -> None:
    assert settle(LI_NA.payment_settled(), ISSUED) == Settled(SETTLED)


@pytest.mark.parametrize(
    ("bill", "outcome"), [(ISSUED, Shown), (WAIVED, Shown), (SETTLED, Shown), (None, Refused)])
def test_who_asks_sees_the_bill_and_why(bill: Bill | None, outcome: type) -> None:
    result = show(bill, identified=True)

    assert type(result) is outcome
    if isinstance(result, Shown):
        assert result.assessment.due_fen == result.bill.due_fen
    if isinstance(result, Refused):
        assert (result.code, result.retryable) == ("BILL_NOT_FOUND", True)


def test_who_asks_reads_the_very_reasons_that_the_bill_was_issued_with() -> None:
    approved = LI_NA.approved("severely_disabled", "subsistence")
    due = assess(approved, None, obligation_id=LI_NA.obligation_id, now=NOW)
    assert isinstance(due, Due)
    shown = show(due.bill, identified=True)
    assert isinstance(shown, Shown)
    assert shown.assessment == due.assessment
    assert "同时符合多个类别的，按个人缴费最低的类别执行" in shown.assessment.explanation


STANDING = {"NONE": None, "ISSUED": ISSUED, "WAIVED": WAIVED, "SETTLED": SETTLED, "SUPERSEDED": SUPERSEDED}


@pytest.mark.parametrize(("state", "event"), list(product(BillState, BillEvent)))
def test_every_event_in_every_state_leads_where_the_table_says(state: BillState, event: BillEvent) -> None:
    bill, reached = STANDING[state], set()
    for certified in ((), ("orphan",)):
        try:
            if event is BillEvent.APPROVED:
                outcome = assess(LI_NA.approved(*certified), bill, obligation_id=LI_NA.obligation_id, now=NOW)
                reached.add(outcome.bill.status if isinstance(outcome, Due | Waived) else state)
            else:
                paid = settle(LI_NA.payment_settled(), bill)
                reached.add(paid.bill.status if isinstance(paid, Settled) else state)
        except AssertionError:
            continue

    assert reached == TRANSITIONS[state, event]


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(product(BillState, BillEvent))


def test_a_bill_is_shown_with_the_policy_that_it_names_though_another_is_in_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resident = replace(POLICY.resident, personal_fen=42_000)
    newer = replace(POLICY, version=2, resident=resident)
    monkeypatch.setattr(policy, "_IN_FORCE", {("990100", 2025): newer})

    shown = show(ISSUED, identified=True)

    assert isinstance(shown, Shown)
    assert sum(line.fen for line in shown.assessment.lines if line.payable) == ISSUED.due_fen


def test_another_channels_person_has_no_bill_and_is_nobody() -> None:
    result = show(ISSUED, identified=False)

    assert isinstance(result, Refused)
    assert (result.code, result.expected) == ("PERSON_NOT_FOUND", "")
