"""What does billing do when something arrives?"""

from typing import Any

from contracts.billing import BillIssued, BillSettled, BillWaived, QueryBill
from contracts.enrollment import EnrollmentApproved, PersonIdentified
from contracts.payment import PaymentSettled
from contracts.policy import in_force
from contracts.reasons import Refused
from services.billing import rules, store
from services.billing.rules import Assessment, Bill
from services.chassis.ids import uuid7
from services.chassis.refs import Refs
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.transaction import Transaction

on = Subscriptions("billing")
# One ref for all that a person owes: bills of one year, and what is paid for them, follow one another.
person = Refs("billing").by_uuid("person")


@on(PersonIdentified, refs=lambda fact: [person(fact.person_id)], lane="bulk")
async def note_identifications(facts: Batch[PersonIdentified], tx: Transaction) -> None:
    """A channel knows a person: it may ask what is due."""
    for fact in facts:
        sequence = tx.arrival(fact).sequence
        store.add_identification(tx, rules.Identification(fact.person_id, fact.channel_code, sequence))


@on(EnrollmentApproved, refs=lambda fact: [person(fact.person_id)], lane="bulk")
async def issue_bills(facts: Batch[EnrollmentApproved], tx: Transaction) -> None:
    """Everyone approved owes this year's premium."""
    known = await store.bills_of(tx, facts)
    for fact in facts:
        bill = known.get((fact.person_id, fact.scheme, fact.insurance_year))
        match rules.assess(fact, bill, obligation_id=uuid7(), now=tx.now):
            case rules.Due(bill, assessment):
                store.add(tx, bill)
                tx.publish(_issued(bill, assessment), sequence=bill.sequence)
            case rules.Waived(bill):
                store.add(tx, bill)
                tx.publish(_waived(bill), sequence=bill.sequence)
            case rules.AlreadyBilled():
                pass


@on(PaymentSettled, refs=lambda fact: [person(fact.person_id)], lane="money")
async def settle_bills(facts: Batch[PaymentSettled], tx: Transaction) -> None:
    """Money was posted to an obligation: its bill is paid."""
    bills = await store.bills_named(tx, facts)
    for fact in facts:
        match rules.settle(fact, bills.get((fact.obligation_id, fact.version))):
            case rules.Settled(bill):
                store.save_paid(tx, bill)
                tx.publish(_settled(bill, fact), sequence=bill.sequence)
            case rules.Awaits():
                tx.wait(fact, person(fact.person_id))
            case rules.Unchanged():
                pass


@on(QueryBill, refs=lambda query: [], lane="money")
async def answer(queries: Batch[QueryBill], tx: Transaction) -> None:
    """Somebody asks what a person owes. It changes nothing, so it waits for nobody."""
    bills = await store.bills_asked_for(tx, queries)
    known = await store.identified(tx, queries)
    for query in queries:
        bill = bills.get((query.person_id, query.insurance_year))
        match rules.show(bill, identified=(query.person_id, tx.arrival(query).partner) in known):
            case rules.Shown(bill, assessment):
                tx.accept(query, obligation_id=bill.obligation_id, version=bill.version, status=bill.status,
                          due_fen=bill.due_fen, closes_on=bill.closes_on, lines=assessment.lines,
                          explanation=assessment.explanation)
            case Refused() as refusal:
                tx.refuse(query, refusal)


def _case(bill: Bill) -> dict[str, Any]:
    """What every fact about a bill carries."""
    return {
        "journey": bill.enrollment_id.replace("-", ""), "region_code": bill.region_code,
        "person_id": bill.person_id, "enrollment_id": bill.enrollment_id,
        "obligation_id": bill.obligation_id, "version": bill.version,
    }


def _issued(bill: Bill, assessment: Assessment) -> BillIssued:
    return BillIssued(
        **_case(bill), scheme=bill.scheme, insurance_year=bill.insurance_year, category=bill.category,
        item=in_force(bill.region_code, bill.insurance_year).resident.item, lines=assessment.lines,
        due_fen=bill.due_fen, subsidy_fen=bill.subsidy_fen, closes_on=bill.closes_on, policy=bill.policy,
        explanation=assessment.explanation,
    )


def _waived(bill: Bill) -> BillWaived:
    return BillWaived(
        **_case(bill), scheme=bill.scheme, insurance_year=bill.insurance_year, category=bill.category,
        subsidy_fen=bill.subsidy_fen, policy=bill.policy, waived_at=bill.issued_at,
    )


def _settled(bill: Bill, fact: PaymentSettled) -> BillSettled:
    return BillSettled(**_case(bill), order_id=fact.order_id, paid_fen=fact.amount_fen, paid_at=fact.paid_at)
