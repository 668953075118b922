"""Whose money it is, as tables: the outcome stands last, a row for each reason."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from contracts.enrollment import Identity
from contracts.message import Sealed
from contracts.payment import FundsUnmatched, PaymentSettled, ReportPayment
from contracts.reasons import Reason
from services.payment.rules import (
    Account,
    DueStatus,
    Item,
    ItemStatus,
    Obligation,
    Order,
    OrderState,
    OrderStatus,
    ProviderPaid,
    Receipt,
    books,
    money,
    orders,
)
from tests.payment.cases import (
    DUE_400,
    ENTRY,
    ENTRY_2,
    HERS,
    HIS,
    HIS_DUE,
    ITEM,
    LI_NA,
    LI_NA_CARD,
    LOCKED,
    NOW,
    OTHER,
    PENDING,
    SETTLED,
    THIS,
    WAIVED,
    WANG_WEI,
    state,
)

# Money through a provider


def callback(fen: int = 40_000, **more: Any) -> ProviderPaid:
    told = ProviderPaid(
        order_id=THIS, order_no="n", person_id=LI_NA, obligation_ids=[HERS], notice_id="1", state="SUCCESS",
        amount_fen=fen, payer_fen=fen, currency="CNY", transaction_id="4200-1", paid_at=NOW,
    )  # fmt: skip
    return replace(told, **more)


LONG_AGO = NOW - timedelta(days=9)
HELD_BY_ANOTHER = replace(DUE_400, order_id=OTHER)


def settled_of(posted: books.Posted) -> list[tuple[str, str]]:
    """(what is said, why) of each fact."""
    return [(type(fact).__name__, getattr(fact, "reason", "")) for fact, _ in posted.facts]


@pytest.mark.parametrize(
    ("told", "status", "due", "said", "order_after", "due_after"),
    [
        (callback(), "PENDING", LOCKED, "PaymentSettled", "SETTLED", "SETTLED"),
        (callback(), "FAILED", DUE_400, "PaymentSettled", "SETTLED", "SETTLED"),  # a late success, still due
        (callback(), "EXPIRED", HELD_BY_ANOTHER, "PaymentSettled", "SETTLED", "SETTLED"),
        (callback(), "EXPIRED", SETTLED, "PAID_TWICE", "DUPLICATE", None),  # G14
        (callback(), "PENDING", SETTLED, "PAID_TWICE", "DUPLICATE", None),  # the counter was faster
        (callback(), "PENDING", replace(WAIVED, order_id=THIS), "BILL_NOT_PAYABLE", "DUPLICATE", "WAIVED"),
        (callback(), "SETTLED", SETTLED, "PAID_TWICE", None, None),  # a second transaction for one order
        (callback(39_999), "PENDING", LOCKED, "AMOUNT_MISMATCH", "FAILED", "DUE"),  # G16
        (callback(39_999), "EXPIRED", DUE_400, "AMOUNT_MISMATCH", None, None),
        (callback(currency="USD"), "PENDING", LOCKED, "AMOUNT_MISMATCH", "FAILED", "DUE"),
        # G18: the provider's signed pay time counts, however late it comes
        (callback(paid_at=LONG_AGO), "PENDING", LOCKED, "PaymentSettled", "SETTLED", "SETTLED"),
    ],
)  # fmt: skip
def test_a_callback_settles_what_is_due_and_the_rest_is_kept_apart(
    told: ProviderPaid,
    status: str,
    due: Obligation,
    said: str,
    order_after: str | None,
    due_after: str | None,
) -> None:
    posted = money.capture(
        told, receipt=None, order=replace(PENDING, status=status), items=[ITEM], obligations={HERS: due},
        entry_ids=[ENTRY], now=NOW,
    )  # fmt: skip
    assert isinstance(posted, books.Posted)
    fact, sequence = posted.facts[0]
    assert len(posted.facts) == 1
    assert sequence == 1
    assert (fact.reason if isinstance(fact, FundsUnmatched) else type(fact).__name__) == said
    assert (posted.order.status if posted.order else None) == order_after
    assert [each.status for each in posted.obligations] == ([due_after] if due_after else [])
    assert sum(leg.amount_fen for leg in posted.legs) == 0
    assert posted.receipt.amount_fen == told.amount_fen == posted.legs[0].amount_fen


@pytest.mark.parametrize(
    ("paid_at", "reason"), [("2025-09-30T23:59:59+08:00", ""), ("2025-10-01T00:00:00+08:00", "WINDOW_CLOSED")]
)
def test_money_that_buys_no_cover_any_more_settles_nothing(paid_at: str, reason: str) -> None:
    instant = at(paid_at)
    online = money.capture(
        callback(paid_at=instant), receipt=None, order=PENDING, items=[ITEM], obligations={HERS: LOCKED},
        entry_ids=[ENTRY], now=instant,
    )  # fmt: skip
    over_the_counter = judged(reported(paid_at=instant), now=instant)
    for posted in (online, over_the_counter):
        assert isinstance(posted, books.Posted)
        assert settled_of(posted) == [("FundsUnmatched" if reason else "PaymentSettled", reason)]
    assert isinstance(online, books.Posted)
    assert online.order is not None
    assert online.order.status == ("FAILED" if reason else "SETTLED")
    assert [due.locked_until for due in online.obligations] == [None]


def test_money_for_an_order_that_we_never_made_stands_in_suspense() -> None:
    posted = money.capture(
        callback(person_id="", obligation_ids=[]), receipt=None, order=None, items=[], obligations={},
        entry_ids=[ENTRY], now=NOW,
    )  # fmt: skip
    assert isinstance(posted, books.Posted)
    assert settled_of(posted) == [("FundsUnmatched", "ORDER_UNKNOWN")]
    assert posted.funds[0].journey == ENTRY.replace("-", "")
    assert posted.legs[1].account == Account.SUSPENSE.code


@pytest.mark.parametrize(
    ("told", "receipt"),
    [
        (callback(), Receipt("wechat", "4200-1", THIS, None, 40_000, "", NOW, NOW)),  # heard before
        (callback(state="NOTPAY"), None),
    ],
)
def test_the_same_transaction_counts_once(told: ProviderPaid, receipt: Receipt | None) -> None:
    outcome = money.capture(
        told,
        receipt=receipt,
        order=PENDING,
        items=[ITEM],
        obligations={HERS: LOCKED},
        entry_ids=[ENTRY],
        now=NOW,
    )
    assert outcome == orders.Unchanged()


def test_a_callback_that_names_other_obligations_is_a_bug_and_settles_nothing() -> None:
    with pytest.raises(ValueError, match="different obligations"):
        money.capture(
            callback(obligation_ids=[HIS]), receipt=None, order=PENDING, items=[ITEM],
            obligations={HERS: LOCKED}, entry_ids=[ENTRY], now=NOW,
        )  # fmt: skip


def test_a_cart_with_one_bill_settled_meanwhile_settles_the_other() -> None:
    items = [ITEM, Item(THIS, 1, WANG_WEI, HIS, 1, 12_000, ItemStatus.OPEN)]
    posted = money.capture(
        callback(52_000, obligation_ids=[HERS, HIS]), receipt=None, order=replace(PENDING, amount_fen=52_000),
        items=items, obligations={HERS: SETTLED, HIS: HIS_DUE}, entry_ids=[ENTRY, ENTRY_2], now=NOW,
    )  # fmt: skip
    assert isinstance(posted, books.Posted)
    assert settled_of(posted) == [("FundsUnmatched", "PAID_TWICE"), ("PaymentSettled", "")]
    assert [item.status for item in posted.items] == ["SUSPENSE", "SETTLED"]
    assert [(leg.account, leg.amount_fen) for leg in posted.legs] == [
        (1002, 40_000),
        (2203, -40_000),
        (1002, 12_000),
        (2202, -12_000),
    ]
    assert posted.receipt.reason == "PAID_TWICE"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (state("NOTPAY"), False),
        (state("SUCCESS"), False),  # without a pay time it proves nothing
        (state("SUCCESS", transaction_id="4200-1", paid_at=NOW, amount_fen=40_000), True),
    ],
)
def test_an_answer_about_money_counts_like_the_callback_that_was_lost(
    answer: OrderState, found: bool
) -> None:
    assert (money.paid(answer) is not None) == found


# Money at a counter


def reported(**more: Any) -> ReportPayment:
    command = ReportPayment(
        request_id="r-9", person_id=LI_NA, obligation_id=HERS, insurance_year=2025, amount_fen=40_000,
        channel_ref="bank-1", paid_at=NOW, method="CASH",
        payer_saw=Sealed(reader="payment", key_id="k", box=""),
    )  # fmt: skip
    return replace(command, **more)


at = datetime.fromisoformat
SOMEBODY = Identity(name="王伟", id_number=LI_NA_CARD.id_number)


@pytest.mark.parametrize(
    ("command", "due", "payer", "reason"),
    [
        (reported(), DUE_400, LI_NA_CARD, None),
        (reported(), LOCKED, LI_NA_CARD, None),  # money in hand wins over an order that nobody has paid
        (reported(paid_at=NOW + timedelta(minutes=5)), DUE_400, LI_NA_CARD, None),
        (reported(paid_at=NOW + timedelta(minutes=6)), DUE_400, LI_NA_CARD, Reason.TIME_IN_FUTURE),  # I26
        (reported(paid_at=at("2024-09-30T23:59:59+08:00")), DUE_400, LI_NA_CARD, Reason.WINDOW_CLOSED),  # B11
        (reported(paid_at=at("2024-10-01T00:00:00+08:00")), DUE_400, LI_NA_CARD, None),
        (reported(), WAIVED, LI_NA_CARD, Reason.BILL_NOT_PAYABLE),
        (reported(amount_fen=39_999), DUE_400, LI_NA_CARD, Reason.AMOUNT_MISMATCH),  # G16
        (reported(insurance_year=2024), DUE_400, LI_NA_CARD, Reason.PERIOD_MISMATCH),
        (reported(person_id=WANG_WEI), DUE_400, LI_NA_CARD, Reason.PERSON_MISMATCH),
        (reported(), DUE_400, SOMEBODY, Reason.PERSON_MISMATCH),
        (reported(), SETTLED, LI_NA_CARD, Reason.PAID_TWICE),
        # several reasons: the first counts
        (reported(amount_fen=1, insurance_year=2024), SETTLED, SOMEBODY, Reason.AMOUNT_MISMATCH),
    ],
)  # fmt: skip
def test_a_counters_money_fits_the_bill_or_has_one_reason(
    command: ReportPayment, due: Obligation, payer: Identity, reason: Reason | None
) -> None:
    outcome = money.judge(command, due=due, person=LI_NA_CARD, payer=payer, now=NOW)
    assert outcome == (money.Misfits(reason) if reason else money.Fits())


@pytest.mark.parametrize(
    ("paid_at", "heard_at", "reason"),
    [
        ("2025-03-31T23:59:58+08:00", "2025-04-01T00:07:00+08:00", None),  # G18
        ("2025-03-31T23:59:58+08:00", "2025-04-01T23:59:59+08:00", None),
        ("2025-03-31T23:59:58+08:00", "2025-04-02T00:00:00+08:00", Reason.PAY_TIME_UNPROVEN),  # G18
        ("2025-04-01T00:00:00+08:00", "2025-04-09T00:00:00+08:00", None),  # late by its own word
        ("2024-12-01T10:00:00+08:00", "2025-01-20T10:00:00+08:00", None),  # the window is still open
    ],
)
def test_a_pay_time_in_the_window_must_be_reported_before_the_day_file(
    paid_at: str, heard_at: str, reason: Reason | None
) -> None:
    command = reported(paid_at=at(paid_at))
    outcome = money.judge(command, due=DUE_400, person=LI_NA_CARD, payer=LI_NA_CARD, now=at(heard_at))
    assert outcome == (money.Misfits(reason) if reason else money.Fits())


@pytest.mark.parametrize(
    ("name", "number", "same"),
    [
        ("李娜", "99010019900307002X", True),
        ("李 娜", "99010019900307002x", True),  # a space, a small x
        ("李娜", "990100199003070011", False),
        ("李那", "99010019900307002X", False),
    ],
)
def test_a_person_is_who_has_the_name_and_the_number(name: str, number: str, same: bool) -> None:
    assert money.same_person(Identity(name=name, id_number=number), LI_NA_CARD) == same


@pytest.mark.parametrize(
    "name", ["阿依古丽・买买提", "阿依古丽•买买提", "阿依古丽･买买提", "阿依古丽．买买提"]
)
def test_the_dot_of_a_name_may_be_written_in_any_way(name: str) -> None:
    registered = Identity(name="阿依古丽·买买提", id_number="1")
    assert money.same_person(Identity(name=name, id_number="1"), registered)


def judged(command: ReportPayment, **more: Any) -> object:
    given: dict[str, Any] = {
        "channel": "bank", "receipt": None, "due": DUE_400, "person": LI_NA_CARD, "payer": LI_NA_CARD,
        "waited": timedelta(), "order_id": THIS, "entry_id": ENTRY, "now": NOW,
    }  # fmt: skip
    return money.report(command, **(given | more))


BEFORE = Receipt("bank", "bank-1", OTHER, HERS, 40_000, "", NOW, NOW)


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        ({"receipt": BEFORE}, money.Known(BEFORE)),
        ({"receipt": replace(BEFORE, amount_fen=1)}, money.Conflicts(replace(BEFORE, amount_fen=1))),
        (
            {"receipt": replace(BEFORE, obligation_id=HIS)},
            money.Conflicts(replace(BEFORE, obligation_id=HIS)),
        ),
        ({"person": None}, money.AwaitsPerson()),
        ({"due": None}, money.AwaitsBill()),
        ({"due": None, "person": None}, money.AwaitsPerson()),
    ],
)
def test_a_report_is_known_or_waits_for_its_ground(more: dict[str, Any], outcome: object) -> None:
    assert judged(reported(), **more) == outcome


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, ("PaymentSettled", "")),
        ({"due": SETTLED}, ("FundsUnmatched", "PAID_TWICE")),
        ({"person": None, "waited": money.PATIENCE}, ("FundsUnmatched", "PERSON_NOT_FOUND")),
        ({"due": None, "waited": money.PATIENCE}, ("FundsUnmatched", "BILL_NOT_FOUND")),
    ],
)
def test_reported_money_is_settled_or_kept_but_never_refused(
    more: dict[str, Any], said: tuple[str, str]
) -> None:
    posted = judged(reported(), **more)
    assert isinstance(posted, books.Posted)
    assert settled_of(posted) == [said]
    assert sum(leg.amount_fen for leg in posted.legs) == 0


def test_a_counters_money_settles_by_an_order_of_its_own() -> None:
    posted = judged(reported(), due=LOCKED)
    assert isinstance(posted, books.Posted)
    assert posted.order == Order(
        THIS, LI_NA, "bank", "bank", "r-9", 40_000, OrderStatus.SETTLED, "bank-1", NOW, NOW, 1
    )
    assert posted.obligations == [replace(LOCKED, status=DueStatus.SETTLED, order_id=THIS, locked_until=None)]
    fact = posted.facts[0][0]
    assert isinstance(fact, PaymentSettled)
    assert (fact.version, fact.item, fact.amount_fen, fact.channel_ref) == (1, 0, 40_000, "bank-1")


def test_the_bank_hears_the_same_answer_each_time() -> None:
    assert money.answer(BEFORE) == {"order_id": OTHER, "status": "SETTLED", "reason": ""}
    assert money.answer(replace(BEFORE, order_id=None, reason="PAID_TWICE")) == {
        "order_id": "",
        "status": "SUSPENSE",
        "reason": "PAID_TWICE",
    }


def test_one_number_for_two_payments_is_a_conflict() -> None:
    refusal = money.conflict(reported(amount_fen=1), BEFORE)
    assert (refusal.code, refusal.field) == ("CHANNEL_REF_TAKEN", "channel_ref")
    assert "request" not in refusal.todo_en
