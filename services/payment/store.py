"""Which rows does payment read and write, and how?"""

from collections.abc import Iterable

from services.chassis.rows import Rows
from services.chassis.transaction import Transaction
from services.payment import rules, tables
from services.payment.rules import Item, Obligation, Order, Person, Receipt
from services.payment.rules.books import Posted
from services.payment.rules.orders import Ends, Starts

OBLIGATIONS = Rows(tables.Obligation, rules.Obligation)
REBILLED = OBLIGATIONS.change("version", "due_fen", "status")
HELD = OBLIGATIONS.change("status", "order_id", "locked_until")
IDENTIFICATIONS = Rows(tables.Identification, rules.Identification)
KNOWN = IDENTIFICATIONS.upsert(newer="sequence")
PEOPLE = Rows(tables.Person, rules.Person)
LATEST = PEOPLE.upsert(newer="sequence")
ORDERS = Rows(tables.Order, rules.Order)
MOVED = ORDERS.change("status", "channel_ref", "paid_at", "sequence")
ITEMS = Rows(tables.OrderItem, rules.Item)
ITEM_ENDED = ITEMS.change("status")
RECEIPTS = Rows(tables.Receipt, rules.Receipt)
LEDGER = Rows(tables.Ledger, rules.Leg)
FUNDS = Rows(tables.Funds, rules.Funds)


async def obligations(tx: Transaction, ids: Iterable[str]) -> dict[str, Obligation]:
    """By obligation id; those we have heard of."""
    return {due.obligation_id: due for due in await OBLIGATIONS.fetch(tx, obligation_id=list(ids))}


async def people(tx: Transaction, ids: Iterable[str]) -> dict[str, Person]:
    """By person id, sealed."""
    return {person.person_id: person for person in await PEOPLE.fetch(tx, person_id=list(ids))}


async def identified(tx: Transaction, person_ids: Iterable[str]) -> dict[str, set[str]]:
    """Whom of these each channel has identified, by channel code."""
    known: dict[str, set[str]] = {}
    for each in await IDENTIFICATIONS.fetch(tx, person_id=list(person_ids)):
        known.setdefault(each.channel_code, set()).add(each.person_id)
    return known


async def orders(tx: Transaction, ids: Iterable[str]) -> dict[str, Order]:
    """By order id."""
    return {order.order_id: order for order in await ORDERS.fetch(tx, order_id=list(ids))}


async def items(tx: Transaction, order_ids: Iterable[str]) -> dict[str, list[Item]]:
    """By order id, each list in the order's own sequence."""
    found: dict[str, list[Item]] = {}
    for item in sorted(await ITEMS.fetch(tx, order_id=list(order_ids)), key=lambda item: item.item):
        found.setdefault(item.order_id, []).append(item)
    return found


async def receipts(tx: Transaction, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Receipt]:
    """By (channel_code, channel_ref)."""
    channels, refs = zip(*keys, strict=True)
    found = await RECEIPTS.fetch(tx, channel_code=list(channels), channel_ref=list(refs))
    return {(receipt.channel_code, receipt.channel_ref): receipt for receipt in found}


def save_started(tx: Transaction, started: Starts) -> None:
    """A new order, its items, and the locks it takes."""
    tx.add(ORDERS, started.order)
    for item in started.items:
        tx.add(ITEMS, item)
    for due in started.locked:
        tx.change(HELD, due)


def save_ended(tx: Transaction, ended: Ends) -> None:
    """An order that is over without money, and the locks it leaves."""
    tx.change(MOVED, ended.order)
    for due in ended.freed:
        tx.change(HELD, due)


def save_posted(tx: Transaction, posted: Posted, *, born: bool) -> None:
    """Money in the books. born: its order and items are new with it (a counter's report makes its own)."""
    tx.add(RECEIPTS, posted.receipt)
    for leg in posted.legs:
        tx.add(LEDGER, leg)
    for funds in posted.funds:
        tx.add(FUNDS, funds)
    for due in posted.obligations:
        tx.change(HELD, due)
    if posted.order is not None:
        tx.add(ORDERS, posted.order) if born else tx.change(MOVED, posted.order)
    for item in posted.items:
        tx.add(ITEMS, item) if born else tx.change(ITEM_ENDED, item)
