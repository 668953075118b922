"""Which applicants does a benchmark send? One file for everybody, the same for a seed to the byte."""

from pathlib import Path
from random import Random

import msgspec
from msgspec import Struct

from contracts.enrollment import Identity, Registration
from contracts.policy import in_force
from sandbox.people import REGION, settle

YEAR, SCHEME = 2025, "RESIDENT"
# Per cent of applicants; who owes nothing pays nothing, so the exempt categories are no business
# transaction here.
CATEGORIES = {"": 68, "student": 14, "preschool": 9, "subsistence": 6, "severely_disabled": 3}


CHANNELS = {"wechat": 45, "alipay": 25, "bank": 20, "counter": 10}
DIVISIONS, SKEW = 24, 1.1  # of the province, by Zipf
TWICE, LATE, WRONG = 0.03, 0.01, 0.005


class Applicant(Struct, frozen=True, gc=False):
    """One business transaction to come. categories: claimed and certified. due_fen: what the policy asks of
    them. division, channel: where and how they would come; the measured road is the bank's, and the demo's
    policy has one region, so these are for whoever has more.

    twice: everything is said twice. late: the payment is heard of after all others. wrong_fen: another amount
    arrives first; 0: the right one at once. Only a round of misfortunes heeds these three.
    """

    number: int
    household: int
    division: int
    channel: str
    registration: Registration
    categories: tuple[str, ...]
    due_fen: int
    twice: bool
    late: bool
    wrong_fen: int

    @property
    def identity(self) -> Identity:
        """Whom the bank will identify."""
        return Identity(name=self.registration.name, id_number=self.registration.id_number)


def applicants(count: int, seed: int) -> list[Applicant]:
    """The first `count` of a seed's applicants; the same arguments give the same people."""
    random, fate = Random(seed), Random(f"{seed}, fate")
    keys, weights = list(CATEGORIES), list(CATEGORIES.values())
    zipf = [rank**-SKEW for rank in range(1, DIVISIONS + 1)]
    resident = in_force(REGION, YEAR).resident
    homes: dict[int, int] = {}  # a household lives in one place
    made = []
    for number, who in enumerate(settle(count, random)):
        key = random.choices(keys, weights)[0]
        due_fen = resident.categories[key].due_fen if key else resident.personal_fen
        if who.household not in homes:
            homes[who.household] = fate.choices(range(DIVISIONS), zipf)[0]
        made.append(
            Applicant(
                number=number,
                household=who.household,
                division=homes[who.household],
                channel=fate.choices(list(CHANNELS), list(CHANNELS.values()))[0],
                registration=Registration(
                    id_kind="RESIDENT_ID",
                    name=who.name,
                    id_number=who.id_number,
                    phone=who.phone,
                    email=who.email,
                ),
                categories=(key,) if key else (),
                due_fen=due_fen,
                twice=fate.random() < TWICE,
                late=fate.random() < LATE,
                wrong_fen=due_fen - 1_000 if fate.random() < WRONG else 0,
            )
        )
    return made


def write(path: Path, count: int, seed: int) -> None:
    """A line of JSON for each."""
    path.write_bytes(msgspec.json.Encoder().encode_lines(applicants(count, seed)))


def read(path: Path) -> list[Applicant]:
    """Everybody in the file."""
    return msgspec.json.Decoder(Applicant).decode_lines(path.read_bytes())
