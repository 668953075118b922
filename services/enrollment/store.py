"""Which rows does enrollment read and write, by name?"""

from collections.abc import Iterable
from datetime import datetime

from contracts.enrollment import Registration, SubmitEnrollment
from contracts.message import Sealed
from services.chassis.rows import Rows
from services.chassis.transaction import Transaction
from services.enrollment import tables
from services.enrollment.rules import applications, coverage, people
from services.enrollment.rules.applications import Enrollment
from services.enrollment.rules.coverage import Coverage

PEOPLE = Rows(tables.Person, people.Person)
IDENTIFICATIONS = Rows(tables.Identification, people.Identification)
ENROLLMENTS = Rows(tables.Enrollment, applications.Enrollment)
COVERAGES = Rows(tables.Coverage, coverage.Coverage)

_RESUBMITTED = ENROLLMENTS.change(
    "status", "scheme", "categories", "channel_code", "submitted_by", "submitted_at",
    "decided_by", "decided_at", "reasons", "sequence",
)
_DECIDED = ENROLLMENTS.change("status", "categories", "decided_by", "decided_at", "reasons", "sequence")
_COVERED = COVERAGES.change("status", "approved_at", "paid_at", "late", "starts_on", "ends_on", "sequence")
# As the index says it, or the planner does not see that the index holds all of it.
_LIVE = ENROLLMENTS.select + " where person_id = any($1::uuid[]) and status <> 'REJECTED'"


async def holders_of(tx: Transaction, indexes: list[bytes]) -> dict[bytes, people.Holder]:
    """Who has these identities already, with the name as registered, and the channels that know so."""
    found = await PEOPLE.fetch(tx, identity_index=indexes)
    channels = await channels_of(tx, [person.person_id for person in found]) if found else {}
    return {
        person.identity_index: people.Holder(
            person.person_id, _name_of(tx, person), tuple(channels.get(person.person_id, ()))
        )
        for person in found
    }


def add_person(
    tx: Transaction, registration: Registration, *, person_id: str, index: bytes, region_code: str,
    level: str, now: datetime,
) -> None:
    """Keep a new person, sealed for ourselves at the person_id."""
    sealed: Sealed[Registration] = tx.keys.seal(registration, reader="enrollment", place=person_id)
    tx.add(PEOPLE, people.Person(
        person_id=person_id, identity_index=index, region_code=region_code, level=level,
        key_id=sealed.key_id, box=sealed.box, recorded_at=now, sequence=1,
    ))


async def channels_of(tx: Transaction, person_ids: Iterable[str]) -> dict[str, list[str]]:
    """Which channels have identified these persons, by person_id."""
    channels: dict[str, list[str]] = {}
    for known in await IDENTIFICATIONS.fetch(tx, person_id=list(person_ids)):
        channels.setdefault(known.person_id, []).append(known.channel_code)
    return channels


def add_identification(tx: Transaction, identification: people.Identification) -> None:
    """A channel that knows a person from now on."""
    tx.add(IDENTIFICATIONS, identification)


async def live_of(tx: Transaction, commands: list[SubmitEnrollment]) -> dict[tuple[str, int], Enrollment]:
    """The applications of these persons that were not rejected, by person and year."""
    rows = await tx.fetch(_LIVE, [command.person_id for command in commands])
    return {(live.person_id, live.insurance_year): live for live in map(ENROLLMENTS.of, rows)}


async def enrollments_by_id(tx: Transaction, ids: Iterable[str]) -> dict[str, Enrollment]:
    """Applications by their id."""
    return {found.enrollment_id: found for found in await ENROLLMENTS.fetch(tx, enrollment_id=list(ids))}


async def coverages_of(tx: Transaction, enrollments: Iterable[Enrollment]) -> dict[str, Coverage]:
    """The cover of each application, by enrollment_id; status NONE where nothing stands yet."""
    covers = {enrollment.enrollment_id: coverage.uncovered(enrollment) for enrollment in enrollments}
    for cover in await COVERAGES.fetch(tx, enrollment_id=list(covers)):
        covers[cover.enrollment_id] = cover
    return covers


async def coverages_by_id(tx: Transaction, ids: list[str]) -> dict[str, Coverage]:
    """Covers by enrollment_id; also those of which nothing stands yet, if the application is known."""
    covers = {cover.enrollment_id: cover for cover in await COVERAGES.fetch(tx, enrollment_id=ids)}
    unborn = [enrollment_id for enrollment_id in ids if enrollment_id not in covers]
    for enrollment in await ENROLLMENTS.fetch(tx, enrollment_id=unborn):
        covers[enrollment.enrollment_id] = coverage.uncovered(enrollment)
    return covers


def add_enrollment(tx: Transaction, enrollment: Enrollment) -> None:
    """A new application."""
    tx.add(ENROLLMENTS, enrollment)


def save_resubmission(tx: Transaction, enrollment: Enrollment) -> None:
    """A returned application that was handed in again."""
    tx.change(_RESUBMITTED, enrollment)


def save_decision(tx: Transaction, enrollment: Enrollment) -> None:
    """What the agency decided."""
    tx.change(_DECIDED, enrollment)


def add_coverage(tx: Transaction, cover: Coverage) -> None:
    """Cover to which something happened for the first time."""
    tx.add(COVERAGES, cover)


def save_coverage(tx: Transaction, cover: Coverage) -> None:
    """Cover that waits or runs now."""
    tx.change(_COVERED, cover)


def _name_of(tx: Transaction, person: people.Person) -> str:
    sealed: Sealed[Registration] = Sealed(reader="enrollment", key_id=person.key_id, box=person.box)
    return tx.keys.open(sealed, Registration, place=person.person_id).name
