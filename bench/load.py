"""Which applicants does a benchmark send? The same people, commands and amounts for a seed, to the byte."""

from random import Random

from msgspec import Struct

from contracts.enrollment import Identity, Registration
from contracts.policy import in_force
from sandbox.people import REGION, settle

YEAR, SCHEME = 2025, "RESIDENT"
# Per cent of applicants; who owes nothing pays nothing, so the exempt categories are no business
# transaction here.
CATEGORIES = {"": 68, "student": 14, "preschool": 9, "subsistence": 6, "severely_disabled": 3}


class Applicant(Struct, frozen=True, gc=False):
    """One business transaction to come. categories: claimed and certified. due_fen: what the policy asks of
    them.
    """

    number: int
    registration: Registration
    categories: tuple[str, ...]
    due_fen: int

    @property
    def identity(self) -> Identity:
        """Whom the bank will identify."""
        return Identity(name=self.registration.name, id_number=self.registration.id_number)


def applicants(count: int, seed: int) -> list[Applicant]:
    """The first `count` of a seed's applicants; the same arguments give the same people."""
    random = Random(seed)
    keys, weights = list(CATEGORIES), list(CATEGORIES.values())
    resident = in_force(REGION, YEAR).resident
    made = []
    for number, who in enumerate(settle(count, random)):
        key = random.choices(keys, weights)[0]
        made.append(
            Applicant(
                number,
                Registration(
                    id_kind="RESIDENT_ID",
                    name=who.name,
                    id_number=who.id_number,
                    phone=who.phone,
                    email=who.email,
                ),
                (key,) if key else (),
                resident.categories[key].due_fen if key else resident.personal_fen,
            )
        )
    return made
