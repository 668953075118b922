"""What does payment do when something happens? Load, decide, save, publish."""

from contracts.billing import BillIssued, BillSettled, BillWaived
from contracts.enrollment import Identity, PersonIdentified, PersonRecorded
from contracts.message import OrderId, contract_of
from contracts.payment import ReportPayment, StartPayment
from contracts.reasons import Reason, refused
from services.chassis.arrival import RequestKey
from services.chassis.ids import uuid7
from services.chassis.refs import Ref, Refs
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.transaction import Transaction
from services.payment import store
from services.payment.rules import (
    AskOrder,
    Identification,
    OrderPlaced,
    OrderRefused,
    OrderState,
    Person,
    ProviderPaid,
    books,
    money,
    orders,
)
from services.payment.rules.orders import QueryOrder

on = Subscriptions("payment")
refs = Refs("payment")
obligation = refs.by_uuid("obligation")
person = refs.by_uuid("person")
order = refs.by_uuid("order")
# the channel's number: two reports of one payment meet at one lock
transaction = refs.by_text("transaction")

_START = contract_of(StartPayment).type


def _of_order(message: OrderPlaced | OrderRefused | OrderState | ProviderPaid) -> list[Ref]:
    """The order and every obligation it may free or settle; the provider carries their ids for us."""
    return [order(message.order_id), *map(obligation, message.obligation_ids)]


# What is due, and who people are


@on(BillIssued, refs=lambda fact: [obligation(fact.obligation_id)], lane="bulk")
async def note_bills(facts: Batch[BillIssued], tx: Transaction) -> None:
    """Something is due, or its amount changed."""
    await _hear(facts, tx)


@on(BillWaived, refs=lambda fact: [obligation(fact.obligation_id)], lane="bulk")
async def note_waivers(facts: Batch[BillWaived], tx: Transaction) -> None:
    """Nothing is due any more."""
    await _hear(facts, tx)


async def _hear(facts: Batch[BillIssued] | Batch[BillWaived], tx: Transaction) -> None:
    known = await store.obligations(tx, [fact.obligation_id for fact in facts])
    for fact in facts:
        match orders.hear(fact, known.get(fact.obligation_id)):
            case orders.Born(due):
                tx.add(store.OBLIGATIONS, due)
            case orders.Changed(due):
                tx.change(store.REBILLED, due)
            case orders.Unchanged():
                pass


@on(BillSettled, refs=lambda fact: [obligation(fact.obligation_id)], lane="bulk")
async def note_settlements(facts: Batch[BillSettled], tx: Transaction) -> None:
    """Billing has closed it: no more money is taken for it."""
    known = await store.obligations(tx, [fact.obligation_id for fact in facts])
    for fact in facts:
        match orders.close(fact, known.get(fact.obligation_id)):
            case orders.Changed(due):
                tx.change(store.HELD, due)
            case orders.Awaited():
                tx.wait(fact, obligation(fact.obligation_id))
            case orders.Unchanged():
                pass


@on(PersonRecorded, refs=lambda fact: [person(fact.person_id)], lane="bulk")
async def keep_people(facts: Batch[PersonRecorded], tx: Transaction) -> None:
    """The latest sealed identity; it stays sealed."""
    for fact in facts:
        tx.upsert(store.LATEST, Person(fact.person_id, fact.for_payment, tx.arrival(fact).sequence))


@on(PersonIdentified, refs=lambda fact: [person(fact.person_id)], lane="bulk")
async def note_identifications(facts: Batch[PersonIdentified], tx: Transaction) -> None:
    """A channel knows a person: it may pay for this one."""
    for fact in facts:
        sequence = tx.arrival(fact).sequence
        tx.upsert(store.KNOWN, Identification(fact.person_id, fact.channel_code, sequence))


# The road through a provider: order, callback, question


@on(StartPayment, refs=lambda command: [obligation(item.obligation_id) for item in command.items])
async def start_payments(commands: Batch[StartPayment], tx: Transaction) -> None:
    """Someone wants to pay: an order locks the obligations and goes to the provider; the answer waits for its
    word."""
    known = await store.obligations(
        tx, [item.obligation_id for command in commands for item in command.items]
    )
    payers = [command.person_id for command in commands]
    identified = await store.identified(tx, [*payers, *(due.person_id for due in known.values())])
    for command in commands:
        match orders.start(
            command, obligations=known, identified=identified.get(partner := tx.arrival(command).partner, ()),
            order_id=OrderId(uuid7()), partner=partner, now=tx.now,
        ):
            case orders.Starts(born, items) as started:
                store.save_started(tx, started)
                tx.defer(command)
                placing = orders.placing(born, items)
                journey = started.locked[0].journey     # a cart of several stands in the trace of its first
                tx.call(placing, number=placing.order_no, journey=journey)
                question = orders.first_question(born)
                tx.at(question.at, question.timer, journey=journey)
            case orders.Refuses(refusal):
                tx.refuse(command, refusal)


@on(OrderPlaced, refs=_of_order)
async def hand_out_pay_links(facts: Batch[OrderPlaced], tx: Transaction) -> None:
    """The provider waits for the payer: whoever asked hears where to pay."""
    known = await store.orders(tx, [fact.order_id for fact in facts])
    for fact in facts:
        placed = known[fact.order_id]
        result = {
            "order_id": placed.order_id,
            "order_no": fact.order_no,
            "amount_fen": placed.amount_fen,
            "pay_url": fact.pay_url,
        }
        tx.answer(RequestKey(placed.partner, placed.request_id), _START, result, key=placed.person_id)


@on(OrderRefused, refs=_of_order)
async def give_up_orders(facts: Batch[OrderRefused], tx: Transaction) -> None:
    """The provider will not take the order: the lock is free, and whoever asked hears so."""
    known = await store.orders(tx, [fact.order_id for fact in facts])
    dues = await store.obligations(tx, [each for fact in facts for each in fact.obligation_ids])
    for fact in facts:
        born = known[fact.order_id]
        match orders.refuse(born, [dues[each] for each in fact.obligation_ids]):
            case orders.Ends() as ended:
                store.save_ended(tx, ended)
            case orders.Unchanged():
                pass
        refusal = refused(Reason.CHANNEL_DOWN, field="provider", got=fact.code)
        tx.answer(RequestKey(born.partner, born.request_id), _START, refusal, key=born.person_id)


@on(ProviderPaid, refs=lambda told: [*_of_order(told), transaction(told.transaction_id)])
async def capture_payments(told: Batch[ProviderPaid], tx: Transaction) -> None:
    """A provider's callback: the payer paid."""
    await _capture(told, tx)


@on(QueryOrder, refs=lambda timer: [order(timer.order_id)])
async def query_orders(timers: Batch[QueryOrder], tx: Transaction) -> None:
    """No callback so far: ask."""
    known = await store.orders(tx, [timer.order_id for timer in timers])
    items = await store.items(tx, known)
    for timer in timers:
        match orders.query(timer, known[timer.order_id], items[timer.order_id]):
            case orders.Asks(question):
                tx.call(question, number=_number(question), journey=tx.arrival(timer).journey)
            case orders.Unchanged():
                pass


def _of_state(state: OrderState) -> list[Ref]:
    """Unpaid orders have no transaction: a ref of nothing would make strangers wait for each other."""
    return [*_of_order(state), *([transaction(state.transaction_id)] if state.transaction_id else [])]


@on(OrderState, refs=_of_state)
async def hear_order_states(states: Batch[OrderState], tx: Transaction) -> None:
    """The provider's answer: money, the end of the order, or the next question later."""
    known = await store.orders(tx, [state.order_id for state in states])
    dues = await store.obligations(tx, [each for state in states for each in state.obligation_ids])
    paid = {state.order_id: captured for state in states if (captured := money.paid(state))}
    await _capture(list(paid.values()), tx)
    for state in [state for state in states if state.order_id not in paid]:
        match orders.unpaid(state, known[state.order_id], [dues[each] for each in state.obligation_ids]):
            case orders.AsksLater(at, timer):
                tx.at(at, timer, journey=tx.arrival(state).journey)
            case orders.Ends() as ended:
                store.save_ended(tx, ended)
            case orders.Unchanged():
                pass


async def _capture(told: Batch[ProviderPaid], tx: Transaction) -> None:
    if not told:
        return
    known = await store.orders(tx, [paid.order_id for paid in told])
    items = await store.items(tx, known)
    dues = await store.obligations(tx, [item.obligation_id for ordered in items.values() for item in ordered])
    receipts = await store.receipts(tx, [(paid.provider, paid.transaction_id) for paid in told])
    for paid in told:
        ordered = items.get(paid.order_id, [])
        captured = money.capture(
            paid,
            receipt=receipts.get((paid.provider, paid.transaction_id)),
            order=known.get(paid.order_id),
            items=ordered,
            obligations={item.obligation_id: dues[item.obligation_id] for item in ordered},
            entry_ids=[uuid7() for _ in ordered] or [uuid7()],
            now=tx.now,
        )
        match captured:
            case books.Posted() as posted:
                _post(tx, posted, born=False)
            case orders.Unchanged():
                pass


def _post(tx: Transaction, posted: books.Posted, *, born: bool) -> None:
    """Write an entry with all that it changes, and say what it settled or left in suspense."""
    store.save_posted(tx, posted, born=born)
    for fact, sequence in posted.facts:
        tx.publish(fact, sequence=sequence)


def _number(question: AskOrder) -> str:
    return f"{question.order_no}.{question.round}"


# The road through a counter: a bank or agency reports money that it took. Behind a parked message of its
# person the chassis answers UNDER_REPAIR before any handler: the report is sent again, and nothing is lost.


@on(
    ReportPayment,
    refs=lambda it: [obligation(it.obligation_id), person(it.person_id), transaction(it.channel_ref)],
)
async def post_reports(commands: Batch[ReportPayment], tx: Transaction) -> None:
    """Taken money settles the bill or stands in suspense; a known payment told otherwise is refused."""
    dues = await store.obligations(tx, [command.obligation_id for command in commands])
    people = await store.people(tx, [command.person_id for command in commands])
    receipts = await store.receipts(tx, [(tx.arrival(it).partner, it.channel_ref) for it in commands])
    for command in commands:
        known = people.get(command.person_id)
        match money.report(
            command,
            channel=(channel := tx.arrival(command).partner),
            receipt=receipts.get((channel, command.channel_ref)),
            due=dues.get(command.obligation_id),
            payer=tx.keys.open(command.payer_saw, Identity, place=command.channel_ref),
            person=tx.keys.open(known.identity, Identity, place=known.person_id) if known else None,
            waited=tx.arrival(command).waited,
            order_id=OrderId(uuid7()),
            entry_id=uuid7(),
            now=tx.now,
        ):
            case books.Posted(receipt) as posted:
                _post(tx, posted, born=True)
                tx.accept(command, **money.answer(receipt))
            case money.Known(receipt):
                tx.accept(command, **money.answer(receipt))
            case money.Conflicts(receipt):
                tx.refuse(command, money.conflict(command, receipt))
            case money.AwaitsBill():
                tx.wait(command, obligation(command.obligation_id))
            case money.AwaitsPerson():
                tx.wait(command, person(command.person_id))
