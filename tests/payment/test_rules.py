"""Payment's rules as tables: the outcome stands last, a row for each reason."""

from datetime import date, datetime, timedelta
from itertools import product

import pytest
from msgspec.structs import replace

from contracts.billing import BillIssued, BillSettled, BillWaived
from contracts.payment import CartItem, StartPayment
from contracts.reasons import Reason
from services.payment import tables
from services.payment.rules import (
    DUE,
    FUNDS,
    ORDER,
    Account,
    DueEvent,
    DueStatus,
    FundsEvent,
    FundsStatus,
    Item,
    ItemStatus,
    Obligation,
    Order,
    OrderEvent,
    OrderStatus,
    orders,
)
from tests.payment.cases import (
    CASE,
    DUE_400,
    HERS,
    HIS,
    HIS_DUE,
    ITEM,
    LI_NA,
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

# States


@pytest.mark.parametrize(("status", "event"), list(product(DueStatus, DueEvent)))
def test_an_obligation_moves_only_as_its_table_says(status: DueStatus, event: DueEvent) -> None:
    allowed = {
        "ABSENT": {"ISSUED": "DUE", "WAIVED": "WAIVED"},
        "DUE": {"ISSUED": "DUE", "WAIVED": "WAIVED", "PAID": "SETTLED", "CLOSED": "SETTLED"},
        "WAIVED": {"ISSUED": "DUE", "CLOSED": "SETTLED"},
        "SETTLED": {},
    }
    assert DUE.get((status, event)) == allowed[status].get(event)


@pytest.mark.parametrize(("status", "event"), list(product(OrderStatus, OrderEvent)))
def test_an_order_moves_only_as_its_table_says(status: OrderStatus, event: OrderEvent) -> None:
    allowed = {
        "PENDING": {"REFUSED": "FAILED", "UNPAID": "EXPIRED", "PAID": "CAPTURED", "MISPAID": "FAILED"},
        "CAPTURED": {"POSTED": "SETTLED", "TAKEN": "DUPLICATE"},
        "CAPTURED_LATE": {"POSTED": "SETTLED", "TAKEN": "DUPLICATE"},
        "SETTLED": {},
        "DUPLICATE": {},
        "FAILED": {"PAID": "CAPTURED_LATE"},
        "EXPIRED": {"PAID": "CAPTURED_LATE"},
    }
    assert ORDER.get((status, event)) == allowed[status].get(event)


@pytest.mark.parametrize(("status", "event"), list(product(FundsStatus, FundsEvent)))
def test_money_in_suspense_is_received_once(status: FundsStatus, event: FundsEvent) -> None:
    assert FUNDS.get((status, event)) == ("RECEIVED" if status == "ABSENT" else None)


def test_each_state_and_account_is_allowed_by_its_table() -> None:
    checks = {
        constraint.name: str(constraint.sqltext)
        for table in tables.Base.metadata.sorted_tables
        for constraint in table.constraints
        if hasattr(constraint, "sqltext")
    }
    assert all(f"'{status}'" in checks["ck_orders_status"] for status in OrderStatus)
    assert all(f"'{status}'" in checks["ck_obligation_status"] for status in DueStatus if status != "ABSENT")
    assert all(f"'{status}'" in checks["ck_order_item_status"] for status in ItemStatus)
    assert all(str(account.code) in checks["ck_ledger_account"] for account in Account)


# What is due


def issued(version: int = 1, fen: int = 40_000) -> BillIssued:
    return BillIssued(
        journey="a" * 32, region_code="990100", person_id=LI_NA, enrollment_id=CASE, obligation_id=HERS,
        version=version, scheme="RESIDENT", insurance_year=2025, item="RESIDENT_MEDICAL_ANNUAL", category="",
        lines=[], due_fen=fen, subsidy_fen=67_000, closes_on=date(2025, 3, 31), policy="demo-2025/1",
        explanation=[],
    )  # fmt: skip


def waived(version: int = 1) -> BillWaived:
    return BillWaived(
        journey="a" * 32, region_code="990100", person_id=LI_NA, enrollment_id=CASE, obligation_id=HERS,
        version=version, scheme="RESIDENT", insurance_year=2025, category="orphan", subsidy_fen=107_000,
        policy="demo-2025/1", waived_at=NOW,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fact", "known", "outcome"),
    [
        (issued(), None, orders.Born(DUE_400)),
        (waived(), None, orders.Born(WAIVED)),
        (issued(), DUE_400, orders.Unchanged()),  # heard twice
        (issued(2, 12_000), DUE_400, orders.Changed(replace(DUE_400, version=2, due_fen=12_000))),  # re-rated
        (
            issued(2, 12_000),
            LOCKED,
            orders.Changed(replace(LOCKED, version=2, due_fen=12_000)),
        ),  # keeps the lock
        (waived(2), DUE_400, orders.Changed(replace(WAIVED, version=2))),
        (issued(2), WAIVED, orders.Changed(replace(DUE_400, version=2))),  # the category was taken back
        (issued(1), replace(WAIVED, version=2), orders.Unchanged()),  # came late
        (issued(2), SETTLED, orders.Unchanged()),  # settled is final
    ],
)
def test_the_newest_bill_says_what_is_due(
    fact: BillIssued | BillWaived, known: Obligation | None, outcome: object
) -> None:
    assert orders.hear(fact, known) == outcome


@pytest.mark.parametrize(
    ("known", "outcome"),
    [
        (None, orders.Awaited()),
        (SETTLED, orders.Unchanged()),  # the rule: billing repeats what we said
        (DUE_400, orders.Changed(replace(DUE_400, status=DueStatus.SETTLED, order_id=OTHER))),
        (WAIVED, orders.Changed(replace(WAIVED, status=DueStatus.SETTLED, order_id=OTHER))),
    ],
)
def test_what_billing_has_closed_takes_no_more_money(known: Obligation | None, outcome: object) -> None:
    fact = BillSettled(
        journey="a" * 32, region_code="990100", person_id=LI_NA, enrollment_id=CASE, obligation_id=HERS,
        version=1, order_id=OTHER, paid_fen=40_000, paid_at=NOW,
    )  # fmt: skip
    assert orders.close(fact, known) == outcome


# May this order be made?


def cart(*items: CartItem, provider: str = "wechat") -> StartPayment:
    return StartPayment(request_id="r-1", person_id=LI_NA, provider=provider, items=list(items))


HER_ITEM = CartItem(person_id=LI_NA, obligation_id=HERS, version=1, amount_fen=40_000)
HIS_ITEM = CartItem(person_id=WANG_WEI, obligation_id=HIS, version=1, amount_fen=12_000)
WRONG_FOR_HIM = replace(HIS_ITEM, amount_fen=1)


@pytest.mark.parametrize(
    ("command", "due", "reason", "field"),
    [
        (cart(HER_ITEM, HER_ITEM), DUE_400, Reason.SCHEMA_INVALID, "items"),  # one obligation twice
        (cart(HER_ITEM, provider="unionpay"), DUE_400, Reason.CHANNEL_NOT_ENABLED, "provider"),
        (cart(HER_ITEM), None, Reason.BILL_NOT_FOUND, "items[0].obligation_id"),
        (cart(HER_ITEM), replace(DUE_400, version=2), Reason.BILL_NOT_CURRENT, "items[0].version"),
        (cart(HER_ITEM), WAIVED, Reason.BILL_NOT_PAYABLE, "items[0].obligation_id"),
        (cart(HER_ITEM), SETTLED, Reason.BILL_ALREADY_SETTLED, "items[0].obligation_id"),
        (cart(HER_ITEM), LOCKED, Reason.BILL_LOCKED, "items[0].obligation_id"),  # G13
        # G16
        (cart(replace(HER_ITEM, amount_fen=39_999)), DUE_400, Reason.AMOUNT_MISMATCH, "items[0].amount_fen"),
        (cart(replace(HER_ITEM, person_id=WANG_WEI)), DUE_400, Reason.PERSON_MISMATCH, "items[0].person_id"),
        # several reasons: the first in the order of Reason, whichever item has it
        (cart(WRONG_FOR_HIM, HER_ITEM), SETTLED, Reason.BILL_ALREADY_SETTLED, "items[1].obligation_id"),
        (cart(replace(HER_ITEM, amount_fen=1)), LOCKED, Reason.BILL_LOCKED, "items[0].obligation_id"),
    ],
)  # fmt: skip
def test_a_cart_is_refused_with_its_first_reason(
    command: StartPayment, due: Obligation | None, reason: Reason, field: str
) -> None:
    known: dict[str, Obligation] = {HIS: HIS_DUE}
    if due:
        known[HERS] = due
    outcome = orders.start(
        command, obligations=known, identified={LI_NA, WANG_WEI}, order_id=THIS, partner="alipay", now=NOW
    )
    assert isinstance(outcome, orders.Refuses)
    assert (outcome.refusal.code, outcome.refusal.field) == (reason.name, field)


@pytest.mark.parametrize(
    ("now", "refused"), [("2025-09-30T23:29:59+08:00", False), ("2025-09-30T23:30:00+08:00", True)]
)
def test_no_order_is_made_whose_money_could_come_too_late_for_cover(now: str, *, refused: bool) -> None:
    outcome = orders.start(
        cart(HER_ITEM), obligations={HERS: DUE_400}, identified={LI_NA}, order_id=THIS, partner="alipay",
        now=datetime.fromisoformat(now),
    )  # fmt: skip
    assert isinstance(outcome, orders.Refuses) == refused
    if isinstance(outcome, orders.Refuses):
        assert (outcome.refusal.code, outcome.refusal.field) == ("WINDOW_CLOSED", "items[0].obligation_id")


@pytest.mark.parametrize(
    ("identified", "reason", "field"),
    [
        (set(), Reason.PERSON_NOT_FOUND, "person_id"),  # the payer is another channel's
        ({LI_NA}, Reason.BILL_NOT_FOUND, "items[1].obligation_id"),  # so is one of the insured
    ],
)
def test_another_channels_person_is_nobody_and_another_channels_bill_is_none(
    identified: set[str], reason: Reason, field: str
) -> None:
    outcome = orders.start(
        cart(HER_ITEM, HIS_ITEM), obligations={HERS: DUE_400, HIS: HIS_DUE}, identified=identified,
        order_id=THIS, partner="alipay", now=NOW,
    )  # fmt: skip
    assert isinstance(outcome, orders.Refuses)
    assert (outcome.refusal.code, outcome.refusal.field) == (reason.name, field)


def test_a_locked_bill_says_for_how_many_minutes() -> None:
    outcome = orders.start(
        cart(HER_ITEM),
        obligations={HERS: LOCKED},
        identified={LI_NA},
        order_id=OTHER,
        partner="wechat",
        now=NOW + timedelta(seconds=90),
    )
    assert isinstance(outcome, orders.Refuses)
    assert outcome.refusal.rule == "free in 59 minutes at most"


def test_a_family_cart_is_one_order_that_locks_each_obligation() -> None:
    outcome = orders.start(
        cart(HER_ITEM, HIS_ITEM),
        obligations={HERS: DUE_400, HIS: HIS_DUE},
        identified={LI_NA, WANG_WEI},
        order_id=THIS,
        partner="alipay",
        now=NOW,
    )
    assert isinstance(outcome, orders.Starts)
    assert outcome.order == replace(PENDING, amount_fen=52_000)
    assert outcome.items == [ITEM, Item(THIS, 1, WANG_WEI, HIS, 1, 12_000, ItemStatus.OPEN)]
    assert [(due.obligation_id, due.order_id) for due in outcome.locked] == [(HERS, THIS), (HIS, THIS)]
    placing = orders.placing(outcome.order, outcome.items)
    assert (placing.order_no, placing.amount_fen, placing.obligation_ids) == (
        THIS.replace("-", ""),
        52_000,
        [HERS, HIS],
    )
    assert placing.expires_at == NOW + orders.PAY_WITHIN


# When do we ask, and when is it over?


def test_the_first_question_comes_after_half_a_minute_and_only_while_pending() -> None:
    question = orders.first_question(PENDING)
    assert question.at == NOW + timedelta(seconds=30)
    asked = orders.query(question.timer, PENDING, [ITEM])
    assert isinstance(asked, orders.Asks)
    assert (asked.question.round, asked.question.obligation_ids) == (0, [HERS])
    assert (
        orders.query(question.timer, replace(PENDING, status=OrderStatus.SETTLED), [ITEM])
        == orders.Unchanged()
    )


FREE = replace(LOCKED, order_id=None, locked_until=None)


@pytest.mark.parametrize(
    ("word", "round_", "order", "outcome"),
    [
        ("NOTPAY", 0, PENDING, timedelta(minutes=2)),
        ("USERPAYING", 1, PENDING, timedelta(minutes=5)),
        ("ABSENT", 2, PENDING, timedelta(minutes=15)),  # may still be on its way there
        ("NOTPAY", 3, PENDING, timedelta(hours=1)),
        ("NOTPAY", 4, PENDING, OrderStatus.EXPIRED),
        ("CLOSED", 0, PENDING, OrderStatus.FAILED),
        ("REVOKED", 0, PENDING, OrderStatus.FAILED),
        ("PAYERROR", 0, PENDING, OrderStatus.FAILED),
        ("CLOSED", 0, replace(PENDING, status=OrderStatus.SETTLED), None),  # a sync never undoes money
        ("NOTPAY", 4, replace(PENDING, status=OrderStatus.FAILED), None),
    ],
)
def test_an_unpaid_order_is_asked_about_by_plan_and_then_ends(
    word: str, round_: int, order: Order, outcome: timedelta | OrderStatus | None
) -> None:
    after = orders.unpaid(state(word, round_), order, [LOCKED])
    match outcome:
        case timedelta():
            assert after == orders.AsksLater(
                NOW + outcome, orders.QueryOrder(order_id=THIS, round=round_ + 1)
            )
        case OrderStatus():
            assert after == orders.Ends(replace(PENDING, status=outcome), [FREE])
        case None:
            assert after == orders.Unchanged()


def test_a_refused_order_frees_only_what_it_locks_itself() -> None:
    held_by_another = replace(HIS_DUE, order_id=OTHER)
    assert orders.refuse(PENDING, [LOCKED, held_by_another]) == orders.Ends(
        replace(PENDING, status=OrderStatus.FAILED), [FREE]
    )
    assert orders.refuse(replace(PENDING, status=OrderStatus.SETTLED), [LOCKED]) == orders.Unchanged()
