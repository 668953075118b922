"""What does enrollment do when something arrives? Given, when, then on a real Postgres."""

from asyncio import gather
from datetime import date
from typing import Any

import pytest
from msgspec import Struct
from msgspec.json import decode
from msgspec.structs import replace

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
)
from services.enrollment import store
from services.enrollment.rules.applications import Enrollment
from services.enrollment.rules.coverage import Coverage
from services.enrollment.rules.people import Identification, Person
from tests.ground import Database
from tests.people import AGENCY, AYGUL, LI_NA, REGION, ZHAO_XIAOYU, Citizen, instant
from tests.world import NOON, World, accepted, keyring, reason_of, refused, world_of

DECIDED = instant("2024-12-20T11:00+08:00")
TERM: dict[str, Any] = {"starts_on": date(2025, 1, 1), "ends_on": date(2025, 12, 31)}


def account(world: World, who: Citizen) -> Person:
    """A registered person."""
    sealed = world.seal(who.registration, by="enrollment", place=who.person_id)
    index = world.keys.blind("identity", who.id_number)
    return Person(
        person_id=who.person_id, identity_index=index, region_code=REGION,
        level="REAL_NAME", key_id=sealed.key_id, box=sealed.box, recorded_at=instant(NOON), sequence=1)


async def registered(world: World, who: Citizen) -> None:
    """Somebody who has an account, known to one channel."""
    await world.given(store.PEOPLE, account(world, who))
    await world.given(store.IDENTIFICATIONS, Identification(who.person_id, "wechat", 1))


def application(who: Citizen, status: str = "SUBMITTED") -> Enrollment:
    """An application of the day before; decided an hour ago, if it is."""
    decided = None if status == "SUBMITTED" else DECIDED
    return Enrollment(
        enrollment_id=who.enrollment_id, person_id=who.person_id, region_code=REGION, scheme="RESIDENT",
        insurance_year=2025, status=status, categories=[], channel_code="wechat", submitted_by="self",
        submitted_at=instant("2024-12-19T10:00+08:00"), decided_by="officer-7" if decided else None,
        decided_at=decided, reasons=[], sequence=2 if decided else 1)


def pending(who: Citizen, *, approved: bool = False, paid: bool = False) -> Coverage:
    """Cover of which one half is there."""
    return Coverage(
        enrollment_id=who.enrollment_id, person_id=who.person_id, region_code=REGION, scheme="RESIDENT",
        insurance_year=2025, status="PENDING", approved_at=DECIDED if approved else None,
        paid_at=instant("2024-12-21T09:30+08:00") if paid else None, late=False, starts_on=None, ends_on=None,
        sequence=0)


def case(who: Citizen) -> dict[str, Any]:
    """What every fact about an application carries."""
    return {"journey": who.journey, "region_code": REGION, "person_id": who.person_id,
            "enrollment_id": who.enrollment_id, "scheme": "RESIDENT", "insurance_year": 2025}


def registers(
    world: World, who: Citizen, request_id: str = "register", by: str = "wechat"
) -> RegisterAccount:
    """A registration, sealed by the channel."""
    return who.registers(world.seal(who.registration, by=by, place=request_id), request_id=request_id)


# Registration


async def test_who_registers_gets_an_account_and_others_get_sealed_copies(world: World) -> None:
    await world.when(registers(world, AYGUL))

    [result], [fact, identified] = map(accepted, world.answers), world.published
    assert isinstance(fact, PersonRecorded)
    person_id = result["person_id"]
    assert identified == PersonIdentified(region_code=REGION, person_id=person_id, channel_code="wechat")
    assert (fact.person_id, fact.region_code, fact.name_masked) == (person_id, REGION, "阿" + "*" * 7)
    assert keyring("payment").open(fact.for_payment, Identity, place=person_id) == Identity(
        name=AYGUL.name, id_number=AYGUL.id_number)
    assert keyring("notify").open(fact.for_notify, Contact, place=person_id) == Contact(
        name=AYGUL.name, phone=AYGUL.phone, email=AYGUL.email)
    [kept] = await world.kept(store.PEOPLE, person_id=person_id)
    assert AYGUL.id_number not in repr(kept)
    assert AYGUL.name not in repr(kept)


async def test_one_identity_has_one_account_at_whichever_channel(world: World) -> None:
    await registered(world, LI_NA)

    await world.when(registers(world, LI_NA, by="bank"), by="bank")

    [refusal] = map(refused, world.answers)
    assert (refusal.code, refusal.expected) == ("ACCOUNT_EXISTS", LI_NA.person_id)
    assert world.published == [LI_NA.identified("bank")]
    await world.when(registers(world, LI_NA, "again", by="bank"), by="bank")
    assert world.published == []


async def test_another_channels_person_is_nobody_until_the_channel_has_identified_him(world: World) -> None:
    await registered(world, LI_NA)

    await world.when(LI_NA.submits(), by="alipay")
    assert [reason_of(answer) for answer in world.answers] == ["PERSON_NOT_FOUND"]

    await world.when(registers(world, LI_NA, by="alipay"), by="alipay")
    await world.when(LI_NA.submits(), by="alipay")
    assert [reason_of(answer) for answer in world.answers] == [""]


async def test_two_channels_that_identify_a_person_at_the_same_time_are_both_said(
    world: World, database: Database
) -> None:
    await registered(world, LI_NA)
    async with world_of("enrollment", database) as other:
        await gather(
            world.when(registers(world, LI_NA, by="bank"), by="bank"),
            other.when(registers(other, LI_NA, by="alipay"), by="alipay"),
        )

    known = await world.kept(store.IDENTIFICATIONS, person_id=LI_NA.person_id)
    assert sorted(each.channel_code for each in known) == ["alipay", "bank", "wechat"]
    assert sorted(each.sequence for each in known) == [1, 2, 3]


async def test_two_registrations_of_one_identity_in_one_batch_are_one(world: World) -> None:
    await world.when(registers(world, LI_NA, "a"), registers(world, LI_NA, "b"))

    assert [reason_of(answer) for answer in world.answers] == ["", "ACCOUNT_EXISTS"]
    assert [type(fact) for fact in world.published] == [PersonRecorded, PersonIdentified]


async def test_two_registrations_of_one_identity_at_the_same_time_are_one(
    world: World, database: Database
) -> None:
    async with world_of("enrollment", database) as other:
        await gather(world.when(registers(world, LI_NA, "a")), other.when(registers(other, LI_NA, "b")))

    index = world.keys.blind("identity", LI_NA.id_number)
    assert len(await world.kept(store.PEOPLE, identity_index=index)) == 1
    answers = [decode(row[0]) for row in await world.db.fetch("select answer from request")]
    assert sorted(answer["outcome"] for answer in answers) == ["ACCEPTED", "REJECTED"]


async def test_another_name_for_a_known_identity_is_refused(world: World) -> None:
    await registered(world, LI_NA)
    impostor = Citizen(number=9, name="李妮", id_number=LI_NA.id_number, phone=LI_NA.phone)

    await world.when(registers(world, impostor))

    assert [reason_of(answer) for answer in world.answers] == ["NAME_MISMATCH"]


async def test_the_same_registration_twice_is_one_account_and_one_answer_twice(world: World) -> None:
    await world.when(registers(world, LI_NA))
    [first] = world.answers

    await world.when(registers(world, LI_NA))      # sealed anew: other bytes, the same wish

    assert world.answers == [first]
    assert world.published == []


# Application


async def test_who_is_registered_applies(world: World) -> None:
    await registered(world, LI_NA)

    await world.when(LI_NA.submits("student"))

    [result], [fact] = map(accepted, world.answers), world.published
    assert isinstance(fact, EnrollmentSubmitted)
    assert result == {"enrollment_id": fact.enrollment_id, "status": "SUBMITTED"}
    assert (fact.person_id, fact.categories, fact.channel_code) == (LI_NA.person_id, ["student"], "wechat")
    assert fact.journey == fact.enrollment_id.replace("-", "")
    [kept] = await world.kept(store.ENROLLMENTS, enrollment_id=fact.enrollment_id)
    assert (kept.status, kept.sequence, kept.submitted_at) == ("SUBMITTED", 1, fact.submitted_at)


async def test_who_is_not_registered_is_asked_to_try_again(world: World) -> None:
    await world.when(LI_NA.submits())

    [refusal] = map(refused, world.answers)
    assert (refusal.code, refusal.retryable) == ("PERSON_NOT_FOUND", True)


async def test_two_applications_of_one_person_in_one_batch_are_one(world: World) -> None:
    await registered(world, LI_NA)

    await world.when(LI_NA.submits(request_id="a"), LI_NA.submits(request_id="b"))

    assert [reason_of(answer) for answer in world.answers] == ["", "ALREADY_ENROLLED"]
    assert len(world.published) == 1


async def test_outside_the_window_nobody_applies(world: World) -> None:
    await registered(world, LI_NA)
    await world.at("2025-04-01T00:00+08:00")

    await world.when(LI_NA.submits())

    assert [reason_of(answer) for answer in world.answers] == ["WINDOW_CLOSED"]


async def test_a_returned_application_is_handed_in_again(world: World) -> None:
    await registered(world, LI_NA)
    await world.given(store.ENROLLMENTS, application(LI_NA, "RETURNED"))

    await world.when(LI_NA.submits("student"))

    [fact] = world.published
    assert isinstance(fact, EnrollmentSubmitted)
    assert fact.enrollment_id == LI_NA.enrollment_id
    [kept] = await world.kept(store.ENROLLMENTS, enrollment_id=LI_NA.enrollment_id)
    assert (kept.status, kept.decided_by, kept.sequence) == ("SUBMITTED", None, 3)


async def test_who_was_rejected_applies_anew(world: World) -> None:
    await registered(world, LI_NA)
    await world.given(store.ENROLLMENTS, application(LI_NA, "REJECTED"))

    await world.when(LI_NA.submits())

    statuses = [kept.status for kept in await world.kept(store.ENROLLMENTS, person_id=LI_NA.person_id)]
    assert sorted(statuses) == ["REJECTED", "SUBMITTED"]


# Review


async def test_an_approval_is_said_and_cover_is_pending(world: World) -> None:
    await world.given(store.ENROLLMENTS, application(LI_NA))

    await world.when(LI_NA.decided("APPROVE", "subsistence"), by=AGENCY)

    assert world.published == [EnrollmentApproved(
        **case(LI_NA), categories=["subsistence"], decided_at=DECIDED)]
    [cover] = await world.kept(store.COVERAGES, enrollment_id=LI_NA.enrollment_id)
    assert cover == pending(LI_NA, approved=True)


@pytest.mark.parametrize(
    ("decision", "kind", "status"),
    [("RETURN", EnrollmentReturned, "RETURNED"), ("REJECT", EnrollmentRejected, "REJECTED")],
)
async def test_who_is_not_approved_hears_why(
    world: World, decision: str, kind: type[Struct], status: str
) -> None:
    await world.given(store.ENROLLMENTS, application(LI_NA))

    await world.when(LI_NA.decided(decision, reasons=("DOC_MISSING",)), by=AGENCY)

    assert world.published == [kind(
        **case(LI_NA), reasons=["DOC_MISSING"], decided_at=DECIDED)]
    assert [result["status"] for result in map(accepted, world.answers)] == [status]
    assert await world.kept(store.COVERAGES, enrollment_id=LI_NA.enrollment_id) == []


async def test_a_case_is_decided_once(world: World) -> None:
    await world.given(store.ENROLLMENTS, application(LI_NA))

    first, second = LI_NA.decided("APPROVE", request_id="a"), LI_NA.decided("REJECT", request_id="b")
    await world.when(first, second, by=AGENCY)

    assert [reason_of(answer) for answer in world.answers] == ["", "CASE_STATE"]


# Coverage


async def test_who_pays_in_december_is_covered_from_new_year(world: World) -> None:
    await world.given(store.ENROLLMENTS, application(LI_NA, "APPROVED"))
    await world.given(store.COVERAGES, pending(LI_NA, approved=True))

    await world.when(LI_NA.bill_settled(at="2024-12-20T09:30+08:00"))
    assert world.published == [CoverageWaiting(
        **case(LI_NA), **TERM, because="在集中征缴期内参保，无待遇等待期，自2025年1月1日起享受待遇")]

    await world.later("2024-12-31T23:59+08:00")
    assert world.published == []
    await world.later("2025-01-01T00:00+08:00")

    assert world.published == [CoverageActivated(**case(LI_NA), **TERM)]
    [kept] = await world.kept(store.COVERAGES, enrollment_id=LI_NA.enrollment_id)
    assert (kept.status, kept.sequence) == ("ACTIVE", 2)


async def test_who_pays_in_february_is_covered_at_once(world: World) -> None:
    await world.given(store.ENROLLMENTS, application(LI_NA, "APPROVED"))
    await world.given(store.COVERAGES, pending(LI_NA, approved=True))
    await world.at("2025-02-10T10:00+08:00")

    await world.when(LI_NA.bill_settled(at="2025-02-10T09:30+08:00"))

    assert world.published == [CoverageActivated(
        **case(LI_NA), starts_on=date(2025, 2, 10), ends_on=date(2025, 12, 31))]


async def test_who_owes_nothing_is_covered_without_a_payment(world: World) -> None:
    await world.given(store.ENROLLMENTS, application(ZHAO_XIAOYU, "APPROVED"))
    await world.given(store.COVERAGES, pending(ZHAO_XIAOYU, approved=True))

    await world.when(ZHAO_XIAOYU.bill_waived())

    assert [type(fact) for fact in world.published] == [CoverageWaiting]


async def test_money_before_approval_gives_no_coverage_yet(world: World) -> None:
    await world.given(store.ENROLLMENTS, application(LI_NA))

    await world.when(LI_NA.bill_settled(at="2024-12-21T09:30+08:00"))
    assert await world.kept(store.COVERAGES, enrollment_id=LI_NA.enrollment_id) == [pending(LI_NA, paid=True)]
    assert world.published == []

    await world.when(LI_NA.decided("APPROVE"), by=AGENCY)
    assert [type(fact) for fact in world.published] == [EnrollmentApproved, CoverageWaiting]


async def test_money_for_an_application_we_have_not_heard_of_waits_for_it(world: World) -> None:
    await registered(world, LI_NA)
    await world.when(LI_NA.bill_settled())
    assert await world.parked() == [("AWAITS", "AWAITS_GROUND")]

    await world.given(store.ENROLLMENTS, application(LI_NA))
    await world.when(LI_NA.decided("APPROVE"), by=AGENCY)

    assert [type(fact) for fact in world.published] == [EnrollmentApproved, CoverageWaiting]
    assert await world.parked() == []


async def test_the_same_settlement_twice_is_one(world: World) -> None:
    await world.given(store.ENROLLMENTS, application(LI_NA, "APPROVED"))
    await world.given(store.COVERAGES, pending(LI_NA, approved=True))

    await world.when(LI_NA.bill_settled(), LI_NA.bill_settled())

    assert [type(fact) for fact in world.published] == [CoverageWaiting]


async def test_a_thousand_settlements_are_one_batch(world: World) -> None:
    crowd = [replace(LI_NA, number=number) for number in range(1000)]
    await world.given(store.ENROLLMENTS, *(application(who, "APPROVED") for who in crowd))
    await world.given(store.COVERAGES, *(pending(who, approved=True) for who in crowd))

    await world.when(*(who.bill_settled() for who in crowd))
    assert len(world.published) == 1000
    await world.later("2025-01-01T00:00+08:00")

    assert [type(fact) for fact in world.published] == [CoverageActivated] * 1000
