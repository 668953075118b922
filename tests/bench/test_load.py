"""Are a benchmark's applicants the same for everybody, and does each make a whole transaction?"""

from collections import Counter
from pathlib import Path

import pytest

from bench.load import applicants, read, write
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


def test_everybody_reads_the_same_file_to_the_byte(tmp_path: Path) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    write(one, 300, seed=7)
    write(other, 300, seed=7)

    assert one.read_bytes() == other.read_bytes()
    assert read(one) == applicants(300, seed=7)


def test_places_channels_and_misfortunes_have_their_shares() -> None:
    people = applicants(20_000, seed=7)
    places = Counter(one.division for one in people)
    channels = Counter(one.channel for one in people)
    homes: dict[int, set[int]] = {}
    for one in people:
        homes.setdefault(one.household, set()).add(one.division)

    assert places[0] / places[9] == pytest.approx(10**1.1, rel=0.25)
    assert channels["wechat"] / len(people) == pytest.approx(0.45, abs=0.02)
    assert sum(one.twice for one in people) / len(people) == pytest.approx(0.03, abs=0.005)
    assert sum(one.late for one in people) / len(people) == pytest.approx(0.01, abs=0.003)
    assert sum(one.wrong_fen > 0 for one in people) / len(people) == pytest.approx(0.005, abs=0.002)
    assert all(len(where) == 1 for where in homes.values())
    assert all(0 <= one.wrong_fen < one.due_fen for one in people)
