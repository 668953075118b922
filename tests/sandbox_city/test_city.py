"""Is the city the same for the same seed, lawful in form, with the promised share of trouble?"""

import re
from collections import Counter
from datetime import date

import pytest

from sandbox import expected, mischief
from sandbox.city import CHANNEL_SHARES, CHANNELS, City, Conduct, Line, Step, plan
from sandbox.expected import Reach
from sandbox.people import REGION, check_digit
from sandbox.simulators.sms import FAULTS


@pytest.fixture(scope="module")
def city() -> City:
    return plan(10_000, seed=7)


def test_the_same_seed_makes_the_same_city_and_another_seed_another() -> None:
    assert plan(300, seed=7) == plan(300, seed=7)
    assert plan(300, seed=7) != plan(300, seed=8)


@pytest.mark.parametrize(
    ("first_17", "digit"),
    [("11010519491231002", "X"), ("44052418800101001", "4")],  # the two examples of the standard GB 11643
)
def test_the_check_digit_is_the_standards(first_17: str, digit: str) -> None:
    assert check_digit(first_17) == digit


def test_every_identity_number_is_unique_well_formed_and_nobodys(city: City) -> None:
    numbers = [citizen.who.id_number for citizen in city.citizens]

    assert len(set(numbers)) == len(numbers)
    for number, citizen in zip(numbers, city.citizens, strict=True):
        assert number.startswith(REGION)
        assert number[17] == check_digit(number[:17])
        assert date.fromisoformat(number[6:14]) == citizen.who.born < date(2024, 12, 20)


def test_phones_are_eleven_digits_and_children_are_reached_through_their_elders(city: City) -> None:
    phones_of_household: dict[int, set[str]] = {}
    for citizen in city.citizens:
        assert re.fullmatch(r"1[3-9]\d{9}", citizen.who.phone)
        if citizen.who.age >= 14:
            phones_of_household.setdefault(citizen.who.household, set()).add(citizen.who.phone)
    for citizen in city.citizens:
        if citizen.who.age < 14:
            assert citizen.who.phone in phones_of_household[citizen.who.household]


def test_households_have_one_to_six_members(city: City) -> None:
    sizes = Counter(Counter(citizen.who.household for citizen in city.citizens).values())

    assert set(sizes) == {1, 2, 3, 4, 5, 6}


def test_names_include_rare_characters_and_names_with_a_middle_dot(city: City) -> None:
    names = [citizen.who.name for citizen in city.citizens]

    assert any("·" in name for name in names)
    assert any(ord(letter) > 0xFFFF for name in names for letter in name)


def test_channels_share_the_city_as_promised(city: City) -> None:
    counts = Counter(citizen.channel for citizen in city.citizens)

    for channel, share in zip(CHANNELS, CHANNEL_SHARES, strict=True):
        assert abs(counts[channel] / len(city.citizens) - share / 100) < 0.02


def test_trouble_comes_in_the_promised_amounts(city: City) -> None:
    conducts = Counter(citizen.conduct for citizen in city.citizens)

    assert conducts[Conduct.LATE_CALLBACK] == 100
    assert conducts[Conduct.WRONG_AMOUNT] == 50
    assert conducts[Conduct.TWICE] == 50
    assert conducts[Conduct.LOST_CALLBACK] == 10
    said_twice = sum(len(citizen.says_twice) for citizen in city.citizens)
    assert abs(said_twice / (len(Step) * len(city.citizens)) - 0.03) < 0.005
    assert len(city.garbage) == 50
    assert len(city.forgeries) == 20
    assert set(mischief.KINDS) == {piece.kind for piece in city.garbage}


def test_sms_fail_in_the_promised_amounts_and_some_of_those_concerned_have_no_mail(city: City) -> None:
    faults = Counter(city.sms_faults.values())
    refused = [citizen for citizen in city.citizens if citizen.line is Line.REFUSED]

    assert faults == {"bad_number": 120, "answer_lost": 100}
    assert all(fault in FAULTS for fault in faults)
    assert sum(bool(citizen.who.email) for citizen in refused) >= 100
    assert sum(not citizen.who.email for citizen in refused) >= 20
    assert {citizen.line for citizen in plan(100, seed=7).citizens} == set(Line)


def test_who_shares_a_phone_shares_its_fate(city: City) -> None:
    lines: dict[str, set[Line]] = {}
    for citizen in city.citizens:
        lines.setdefault(citizen.who.phone, set()).add(citizen.line)

    assert all(len(fates) == 1 for fates in lines.values())


def test_only_those_who_owe_something_pay_and_a_wrong_amount_is_never_the_right_one(city: City) -> None:
    for citizen, outcome in zip(city.citizens, city.expected, strict=True):
        if citizen.pays_fen:
            assert citizen.decision == "APPROVE"
            assert outcome.due_fen > 0
            assert (citizen.pays_fen == outcome.due_fen) is (citizen.conduct is not Conduct.WRONG_AMOUNT)
        assert citizen.also_at != citizen.channel


@pytest.mark.parametrize(
    ("certified", "due_fen"),
    [
        ((), 40_000),  # G1
        (("extremely_poor",), 0),  # G2
        (("subsistence",), 12_000),  # G3
        (("severely_disabled",), 20_000),  # G4
        (("subsistence", "severely_disabled"), 12_000),  # G5: the lowest wins
        (("student", "orphan"), 0),
    ],
)
def test_the_amounts_are_those_of_the_sources(certified: tuple[str, ...], due_fen: int) -> None:
    assert expected.due_fen(certified) == due_fen


@pytest.mark.parametrize(
    ("decision", "certified", "paid", "settled", "suspense", "covered", "told"),
    [
        ("APPROVE", (), [40_000], 40_000, (), True, 3),
        ("APPROVE", (), [], 0, (), False, 1),
        ("APPROVE", (), [39_999], 0, ((39_999, "AMOUNT_MISMATCH"),), False, 2),
        ("APPROVE", (), [40_000, 40_000], 40_000, ((40_000, "PAID_TWICE"),), True, 4),
        ("APPROVE", ("orphan",), [], 0, (), True, 2),
        ("RETURN", (), [], 0, (), False, 1),
        ("REJECT", (), [], 0, (), False, 1),
    ],
)
def test_what_a_citizen_may_expect(
    decision: str,
    certified: tuple[str, ...],
    paid: list[int],
    settled: int,
    suspense: tuple[tuple[int, str], ...],
    covered: bool,
    told: int,
) -> None:
    outcome = expected.outcome(decision=decision, certified=certified, paid_fen=paid)

    assert (outcome.settled_fen, outcome.suspense, outcome.covered, len(outcome.told)) == (
        settled,
        suspense,
        covered,
        told,
    )


@pytest.mark.parametrize(
    ("reach", "by_sms", "by_mail", "by_nobody", "texted", "mailed", "asked_after"),
    [
        (Reach(phone="1"), 2, 0, 0, 2, 0, 0),
        (Reach(phone="1", email="a@b"), 2, 0, 0, 2, 0, 0),
        (Reach(phone="1", email="a@b", refuses=True), 0, 2, 0, 0, 2, 0),
        (Reach(phone="1", refuses=True), 0, 0, 2, 0, 0, 0),
        (Reach(phone="1", breaks=True), 2, 0, 0, 2, 0, 2),
    ],
)
def test_by_which_road_a_citizen_is_told(
    reach: Reach, by_sms: int, by_mail: int, by_nobody: int, texted: int, mailed: int, asked_after: int
) -> None:
    waived = expected.outcome(decision="APPROVE", certified=("orphan",), paid_fen=[])

    told = expected.picture([waived], [reach])

    assert (told.by_sms.total(), told.by_mail.total(), told.by_nobody.total()) == (by_sms, by_mail, by_nobody)
    assert (told.texted.total(), told.mailed.total()) == (texted, mailed)
    assert told.asked_after.total() == asked_after
    assert told.told == by_sms + by_mail


def test_a_difference_names_who_is_missing_and_who_is_too_many() -> None:
    planned = expected.Picture(approved={1, 2}, by_sms=Counter({(1, "bill_issued"): 1}))
    seen = expected.Picture(approved={2, 3}, by_sms=Counter({(1, "bill_issued"): 2}))

    assert expected.differences(planned, seen) == [
        expected.Difference(what="approved", missing=("1",), surplus=("3",)),
        expected.Difference(what="by_sms", missing=(), surplus=("(1, 'bill_issued')",)),
    ]
    assert expected.differences(planned, planned) == []


def test_a_city_of_one_is_a_plain_story_with_all_the_mischief(city: City) -> None:
    village = plan(1, seed=7)

    assert len(village.citizens) == 1
    assert len(village.garbage) == len(city.garbage)
    assert len(village.forgeries) == len(city.forgeries)
