"""Are a benchmark's applicants the same for everybody, and does each make a whole transaction?"""

from bench.load import applicants
from services.enrollment.rules import people


def test_a_seed_always_brings_the_same_people_with_the_same_amounts() -> None:
    assert applicants(500, seed=7) == applicants(500, seed=7)


def test_another_seed_brings_other_people() -> None:
    some, others = applicants(50, seed=7), applicants(50, seed=8)

    assert {one.registration.id_number for one in some}.isdisjoint(
        one.registration.id_number for one in others
    )


def test_everybody_owes_something_because_who_owes_nothing_pays_nothing() -> None:
    assert {one.due_fen for one in applicants(2_000, seed=7)} == {40_000, 20_000, 12_000}


def test_everybody_can_be_registered() -> None:
    for one in applicants(500, seed=7):
        number = one.registration.id_number
        assert number[17] == people.check_digit(number[:17])
        assert people.is_name(one.registration.name)
