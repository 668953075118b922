"""Which rows does billing read and write, by name?"""

from contracts.billing import QueryBill
from contracts.enrollment import EnrollmentApproved
from contracts.payment import PaymentSettled
from services.billing import tables
from services.billing.rules import Bill, Identification
from services.chassis.rows import Rows
from services.chassis.transaction import Transaction

BILLS = Rows(tables.Bill, Bill)
IDENTIFICATIONS = Rows(tables.Identification, Identification)
LATEST = IDENTIFICATIONS.upsert(newer="sequence")
_PAID = BILLS.change("status", "order_id", "paid_at", "sequence")


async def bills_of(tx: Transaction, facts: list[EnrollmentApproved]) -> dict[tuple[str, str, int], Bill]:
    """What these persons owe already: the latest version by person, scheme and year."""
    bills = await BILLS.fetch(tx, person_id=[fact.person_id for fact in facts])
    return {(b.person_id, b.scheme, b.insurance_year): b for b in sorted(bills, key=lambda b: b.version)}


async def bills_asked_for(tx: Transaction, queries: list[QueryBill]) -> dict[tuple[str, int], Bill]:
    """The latest version by person and year."""
    bills = await BILLS.fetch(tx, person_id=[query.person_id for query in queries])
    return {(b.person_id, b.insurance_year): b for b in sorted(bills, key=lambda b: b.version)}


async def identified(tx: Transaction, queries: list[QueryBill]) -> set[tuple[str, str]]:
    """Who is known where: (person_id, channel_code), of the persons asked about."""
    known = await IDENTIFICATIONS.fetch(tx, person_id=[query.person_id for query in queries])
    return {(each.person_id, each.channel_code) for each in known}


async def bills_named(tx: Transaction, facts: list[PaymentSettled]) -> dict[tuple[str, int], Bill]:
    """The versions that these payments were made for, by obligation and version."""
    bills = await BILLS.fetch(tx, obligation_id=[fact.obligation_id for fact in facts])
    return {(bill.obligation_id, bill.version): bill for bill in bills}


def add_identification(tx: Transaction, identification: Identification) -> None:
    """A channel that knows a person from now on."""
    tx.upsert(LATEST, identification)


def add(tx: Transaction, bill: Bill) -> None:
    """A new bill."""
    tx.add(BILLS, bill)


def save_paid(tx: Transaction, bill: Bill) -> None:
    """A bill that was paid."""
    tx.change(_PAID, bill)
