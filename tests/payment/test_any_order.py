"""Whatever happens, in any order: may each bill be paid that is due and that nobody else is paying?"""

from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from contracts.message import OrderId
from contracts.payment import CartItem, PaymentSettled, StartPayment
from services.payment.rules import (
    DueStatus,
    Funds,
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
from services.payment.rules.orders import Starts, Unchanged
from tests.payment.cases import HERS, HIS, LI_NA, LI_NA_CARD, NOW, WANG_WEI
from tests.payment.test_rules import issued, waived
from tests.payment.test_rules_money import reported

OWNERS: dict[str, str] = {HERS: LI_NA, HIS: WANG_WEI}
BILLS = st.sampled_from(sorted(OWNERS))
CARTS = st.sampled_from([[HERS], [HIS], [HERS, HIS]])
SILENT = st.sampled_from(["NOTPAY", "USERPAYING", "ABSENT", "CLOSED", "REVOKED", "PAYERROR"])
OFF_BY = st.sampled_from([0, 0, 0, -1, 100])


class Payment(RuleBasedStateMachine):
    """Payment's rows as its handlers keep them, two citizens, and everybody who may speak of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.dues: dict[str, Obligation] = {}
        self.orders: dict[str, Order] = {}
        self.items: dict[str, list[Item]] = {}
        self.receipts: dict[str, Receipt] = {}
        self.funds: list[Funds] = []
        self.ledger_fen = 0
        self.version = dict.fromkeys(OWNERS, 0)
        self.drawn = 0

    def new_id(self) -> str:
        self.drawn += 1
        return f"0190f000-0000-7000-8000-{self.drawn:012x}"

    # ---- what may happen

    @rule(obligation=BILLS, fen=st.sampled_from([12_000, 40_000]), waive=st.booleans(), late=st.booleans())
    def billing_speaks(self, obligation: str, fen: int, waive: bool, late: bool) -> None:
        self.version[obligation] += not late
        version = max(1, self.version[obligation])
        fact = waived(version) if waive else issued(version, fen)
        names = {"person_id": OWNERS[obligation], "obligation_id": obligation}
        match orders.hear(replace(fact, **names), self.dues.get(obligation)):
            case orders.Born(due) | orders.Changed(due):
                self.keep(due)
            case orders.Unchanged():
                pass

    @rule(obligations=CARTS)
    def somebody_starts_to_pay(self, obligations: list[str]) -> None:
        self.keep_started(self.start(obligations))

    @precondition(lambda self: self.orders)
    @rule(data=st.data())
    def the_provider_refuses(self, data: st.DataObject) -> None:
        order = self.any_order(data)
        self.end(order, orders.refuse(order, self.dues_of(order)))

    @precondition(lambda self: self.orders)
    @rule(data=st.data(), word=SILENT, round_=st.integers(0, len(orders.QUERY_PLAN) - 1))
    def the_provider_says_that_nobody_paid(self, data: st.DataObject, word: str, round_: int) -> None:
        order = self.any_order(data)
        state = OrderState(**self.names(order), round=round_, state=word)
        self.end(order, orders.unpaid(state, order, self.dues_of(order)))

    @precondition(lambda self: self.orders)
    @rule(data=st.data(), off_fen=OFF_BY, repeat=st.booleans())
    def the_provider_says_that_money_came(self, data: st.DataObject, off_fen: int, repeat: bool) -> None:
        order = self.any_order(data)
        transaction = f"first of {order.order_id}" if repeat else self.new_id()
        told = ProviderPaid(
            **self.names(order), notice_id="n", state="SUCCESS", amount_fen=order.amount_fen + off_fen,
            payer_fen=0, currency="CNY", transaction_id=transaction, paid_at=self.now,
        )  # fmt: skip
        items = self.items[order.order_id]
        posted = money.capture(
            told, receipt=self.receipts.get(transaction), order=order, items=items, obligations=self.dues,
            entry_ids=[self.new_id() for _ in items], now=self.now,
        )  # fmt: skip
        if isinstance(posted, books.Posted):
            self.post(posted)

    @precondition(lambda self: self.dues)
    @rule(obligation=BILLS, fen=st.sampled_from([12_000, 40_000]))
    def a_counter_reports_money(self, obligation: str, fen: int) -> None:
        ref = self.new_id()
        command = replace(
            reported(obligation_id=obligation, channel_ref=ref, amount_fen=fen), person_id=OWNERS[obligation]
        )
        posted = money.report(
            command, channel="bank", receipt=None, due=self.dues.get(obligation), person=LI_NA_CARD,
            payer=LI_NA_CARD, waited=money.PATIENCE, order_id=OrderId(self.new_id()), entry_id=self.new_id(),
            now=self.now,
        )  # fmt: skip
        assert isinstance(posted, books.Posted)
        self.post(posted)

    @rule(minutes=st.sampled_from([1, 31, 70]))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    # ---- what must hold

    @invariant()
    def what_is_due_and_not_being_paid_is_free(self) -> None:
        for due in self.dues.values():
            paying = [
                order.order_id
                for order in self.orders.values()
                if order.status == OrderStatus.PENDING
                and due.obligation_id in self.names(order)["obligation_ids"]
            ]
            if due.status == DueStatus.DUE and not paying:
                assert isinstance(self.start([due.obligation_id]), Starts), due
            if due.status != DueStatus.SETTLED and due.order_id is not None:
                assert due.order_id in paying, "locked by an order that is over"

    @invariant()
    def no_lock_outlives_its_word(self) -> None:
        for due in self.dues.values():
            if due.status == DueStatus.DUE and (due.locked_until or self.now) <= self.now:
                assert isinstance(self.start([due.obligation_id]), Starts), due

    @invariant()
    def a_bill_is_settled_once_and_all_money_is_somewhere(self) -> None:
        kept = [item for items in self.items.values() for item in items]
        settled = [item for item in kept if item.status == ItemStatus.SETTLED]
        assert len({item.obligation_id for item in settled}) == len(settled)
        assert {item.obligation_id for item in settled} == {
            due.obligation_id for due in self.dues.values() if due.status == DueStatus.SETTLED
        }
        came = sum(receipt.amount_fen for receipt in self.receipts.values())
        assert came == sum(i.amount_fen for i in settled) + sum(f.amount_fen for f in self.funds)
        assert self.ledger_fen == 0

    # ---- what handlers and store do

    def start(self, obligations: list[str]) -> Starts | orders.Refuses:
        known = {each: self.dues[each] for each in obligations if each in self.dues}
        items = [
            CartItem(
                person_id=OWNERS[each], obligation_id=each,
                version=known[each].version if each in known else 1,
                amount_fen=(known[each].due_fen if each in known else 0) or 1,
            )
            for each in obligations
        ]  # fmt: skip
        command = StartPayment(request_id="r", person_id=LI_NA, provider="wechat", items=items)
        return orders.start(
            command, obligations=known, identified=OWNERS.values(), order_id=OrderId(self.new_id()),
            partner="alipay", now=self.now,
        )  # fmt: skip

    def keep_started(self, outcome: Starts | orders.Refuses) -> None:
        if isinstance(outcome, Starts):
            self.orders[outcome.order.order_id] = outcome.order
            self.items[outcome.order.order_id] = outcome.items
            self.keep(*outcome.locked)

    def end(self, order: Order, outcome: orders.Ends | orders.AsksLater | Unchanged) -> None:
        if isinstance(outcome, orders.Ends):
            self.orders[order.order_id] = outcome.order
            self.keep(*outcome.freed)

    def post(self, posted: books.Posted) -> None:
        self.receipts[posted.receipt.channel_ref] = posted.receipt
        self.ledger_fen += sum(leg.amount_fen for leg in posted.legs)
        self.funds += posted.funds
        self.keep(*posted.obligations)
        if posted.order is not None:
            self.orders[posted.order.order_id] = posted.order
        for item in posted.items:
            others = [each for each in self.items.get(item.order_id, []) if each.item != item.item]
            self.items[item.order_id] = sorted([*others, item], key=lambda each: each.item)
        assert sum(isinstance(fact, PaymentSettled) for fact, _ in posted.facts) == sum(
            item.status == ItemStatus.SETTLED for item in posted.items
        )

    def keep(self, *dues: Obligation) -> None:
        self.dues |= {due.obligation_id: due for due in dues}

    def any_order(self, data: st.DataObject) -> Order:
        return self.orders[data.draw(st.sampled_from(sorted(self.orders)))]

    def dues_of(self, order: Order) -> list[Obligation]:
        return [self.dues[item.obligation_id] for item in self.items[order.order_id]]

    def names(self, order: Order) -> dict[str, Any]:
        ids = [item.obligation_id for item in self.items[order.order_id]]
        return {"order_id": order.order_id, "order_no": "n", "person_id": LI_NA, "obligation_ids": ids}


TestPayment = Payment.TestCase
TestPayment.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
