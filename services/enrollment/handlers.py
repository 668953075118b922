"""What does enrollment do when something arrives?"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from contracts.billing import BillSettled, BillWaived
from contracts.enrollment import (
    Contact,
    CoverageActivated,
    CoverageWaiting,
    EnrollmentApproved,
    EnrollmentRejected,
    EnrollmentReturned,
    EnrollmentSubmitted,
    Identity,
    PersonIdentified,
    PersonRecorded,
    RegisterAccount,
    Registration,
    ReviewDecision,
    SubmitEnrollment,
)
from contracts.message import PersonId
from contracts.partners import PARTNERS
from contracts.reasons import Refused
from services.chassis.ids import uuid7
from services.chassis.refs import Refs
from services.chassis.subscriptions import Batch, Subscriptions
from services.chassis.transaction import Transaction
from services.enrollment import store
from services.enrollment.rules import applications, coverage, people
from services.enrollment.rules.applications import Enrollment
from services.enrollment.rules.coverage import Coverage

on = Subscriptions("enrollment")
# One ref for all that concerns a person: an application handed in again and the decision about it meet here.
person = Refs("enrollment").by_uuid("person")


class BeginCoverage(Struct, frozen=True, kw_only=True):
    """The first day of cover has come (timer)."""

    enrollment_id: str
    person_id: str


@on(RegisterAccount, refs=lambda command: [], lane="money")
async def register(commands: Batch[RegisterAccount], tx: Transaction) -> None:
    """A channel vouches for a person. Who it is stands sealed inside: two births meet at the unique index."""
    opened = [tx.keys.open(c.registration, Registration, place=c.request_id) for c in commands]
    claims = [people.normalised(registration) for registration in opened]
    indexes = [tx.keys.blind("identity", claim.id_number) for claim in claims]
    holders = await store.holders_of(tx, indexes)
    for command, claim, index in zip(commands, claims, indexes, strict=True):
        channel = PARTNERS[tx.arrival(command).partner]
        match people.register(
            claim, region_code=command.region_code, channel=channel, holder=holders.get(index), today=tx.today
        ):
            case people.Registered(registration):
                person_id = uuid7()
                holders[index] = people.Holder(person_id, registration.name, (channel.code,))
                store.add_person(tx, registration, person_id=person_id, index=index, level=command.level,
                                 region_code=command.region_code, now=tx.now)
                tx.publish(_recorded(tx, registration, person_id, command.region_code), sequence=1)
                _identify(tx, command, people.Identification(person_id, channel.code, 1))
                tx.accept(command, person_id=person_id)
            case people.Recognised(identification, refusal):
                holders[index] = holders[index].known_to(channel.code)
                _identify(tx, command, identification)
                tx.refuse(command, refusal)
            case Refused() as refusal:
                tx.refuse(command, refusal)


@on(SubmitEnrollment, refs=lambda command: [person(command.person_id)], lane="money")
async def take_in(commands: Batch[SubmitEnrollment], tx: Transaction) -> None:
    """A person applies, or hands in again what was returned."""
    known = await store.channels_of(tx, (command.person_id for command in commands))
    live = await store.live_of(tx, commands)
    for command in commands:
        channel = PARTNERS[tx.arrival(command).partner]
        match applications.apply(
            command, channel=channel, person_known=channel.code in known.get(command.person_id, ()),
            live=live.get((command.person_id, command.insurance_year)), enrollment_id=uuid7(),
            now=tx.now, today=tx.today,
        ):
            case applications.Applied(enrollment):
                store.add_enrollment(tx, enrollment)
                tx.publish(_submitted(enrollment), sequence=enrollment.sequence)
                tx.accept(command, enrollment_id=enrollment.enrollment_id, status=enrollment.status)
            case applications.Resubmitted(enrollment):
                store.save_resubmission(tx, enrollment)
                tx.publish(_submitted(enrollment), sequence=enrollment.sequence)
                tx.accept(command, enrollment_id=enrollment.enrollment_id, status=enrollment.status)
            case Refused() as refusal:
                tx.refuse(command, refusal)


@on(ReviewDecision, refs=lambda command: [person(command.person_id)], lane="money")
async def review(commands: Batch[ReviewDecision], tx: Transaction) -> None:
    """The agency of the insured place decides; with an approval, cover may begin that was paid before."""
    enrollments = await store.enrollments_by_id(tx, (command.enrollment_id for command in commands))
    covers = await store.coverages_of(tx, enrollments.values())
    for command in commands:
        match applications.decide(
            command, enrollments.get(command.enrollment_id),
            agency=PARTNERS[tx.arrival(command).partner], now=tx.now,
        ):
            case applications.Approved(enrollment):
                _decide(tx, command, enrollment, EnrollmentApproved(
                    **_case(enrollment), categories=enrollment.categories, decided_at=command.decided_at))
                cover = covers[enrollment.enrollment_id]
                _cover(tx, coverage.approve(cover, approved_at=command.decided_at, today=tx.today))
            case applications.Returned(enrollment):
                _decide(tx, command, enrollment, EnrollmentReturned(
                    **_case(enrollment), reasons=enrollment.reasons, decided_at=command.decided_at))
            case applications.Rejected(enrollment):
                _decide(tx, command, enrollment, EnrollmentRejected(
                    **_case(enrollment), reasons=enrollment.reasons, decided_at=command.decided_at))
            case Refused() as refusal:
                tx.refuse(command, refusal)


@on(BillSettled, refs=lambda fact: [person(fact.person_id)], lane="money")
@on(BillWaived, refs=lambda fact: [person(fact.person_id)], lane="money")
async def start_coverage(facts: Sequence[BillSettled | BillWaived], tx: Transaction) -> None:
    """Paid, or nothing due: cover begins or waits, if the agency has approved."""
    covers = await store.coverages_by_id(tx, [fact.enrollment_id for fact in facts])
    for fact in facts:
        match coverage.pay(fact, covers.get(fact.enrollment_id), today=tx.today):
            case coverage.Awaits():
                tx.wait(fact, person(fact.person_id))
            case outcome:
                _cover(tx, outcome)


@on(BeginCoverage, refs=lambda timer: [person(timer.person_id)], lane="money")
async def begin_coverage(timers: Batch[BeginCoverage], tx: Transaction) -> None:
    """The first day of cover."""
    covers = await store.coverages_by_id(tx, [timer.enrollment_id for timer in timers])
    for timer in timers:
        _cover(tx, coverage.begin(covers[timer.enrollment_id], today=tx.today))


def _identify(tx: Transaction, command: RegisterAccount, identification: people.Identification) -> None:
    """Save and publish that a channel knows a person."""
    store.add_identification(tx, identification)
    fact = PersonIdentified(
        region_code=command.region_code, person_id=PersonId(identification.person_id),
        channel_code=identification.channel_code,
    )
    tx.publish(fact, sequence=identification.sequence)


def _decide(tx: Transaction, command: ReviewDecision, enrollment: Enrollment, fact: Struct) -> None:
    """Save, publish and answer a decision."""
    store.save_decision(tx, enrollment)
    tx.publish(fact, sequence=enrollment.sequence)
    tx.accept(command, enrollment_id=enrollment.enrollment_id, status=enrollment.status)


def _cover(tx: Transaction, outcome: coverage.Outcome) -> None:
    """Save and publish what became of cover."""
    match outcome:
        case coverage.Pending(cover):
            store.add_coverage(tx, cover)
        case coverage.Waits(cover, begins_at, because):
            store.save_coverage(tx, cover)
            fact = CoverageWaiting(**_case(cover), **_term(cover), because=because)
            tx.publish(fact, sequence=cover.sequence)
            timer = BeginCoverage(enrollment_id=cover.enrollment_id, person_id=cover.person_id)
            tx.at(begins_at, timer, journey=fact.journey)
        case coverage.Starts(cover):
            store.save_coverage(tx, cover)
            tx.publish(CoverageActivated(**_case(cover), **_term(cover)), sequence=cover.sequence)
        case coverage.Unchanged():
            pass


def _case(about: Enrollment | Coverage) -> dict[str, Any]:
    """What every fact about an application or its cover carries."""
    return {
        "journey": about.enrollment_id.replace("-", ""), "region_code": about.region_code,
        "person_id": about.person_id, "enrollment_id": about.enrollment_id,
        "scheme": about.scheme, "insurance_year": about.insurance_year,
    }


def _term(cover: Coverage) -> dict[str, Any]:
    return {"starts_on": cover.starts_on, "ends_on": cover.ends_on}


def _submitted(enrollment: Enrollment) -> EnrollmentSubmitted:
    return EnrollmentSubmitted(
        **_case(enrollment), channel_code=enrollment.channel_code, categories=enrollment.categories,
        submitted_at=enrollment.submitted_at,
    )


def _recorded(
    tx: Transaction, registration: Registration, person_id: str, region_code: str
) -> PersonRecorded:
    """The sealed copies of a person, one for each service that needs one, with no more than it needs."""
    identity = Identity(name=registration.name, id_number=registration.id_number)
    contact = Contact(name=registration.name, phone=registration.phone, email=registration.email)
    return PersonRecorded(
        person_id=PersonId(person_id), region_code=region_code, name_masked=people.masked(registration.name),
        for_payment=tx.keys.seal(identity, reader="payment", place=person_id),
        for_notify=tx.keys.seal(contact, reader="notify", place=person_id),
    )
