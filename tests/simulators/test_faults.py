"""Does the fault menu hand out the same bad days to everybody who asks with the same seed?"""

import pytest

from sandbox.simulators.faults import Faults, check_faults

KEYS = [f"order-{n}" for n in range(10_000)]


def test_the_same_seed_gives_the_same_faults() -> None:
    one, same, other = (Faults(seed=seed, rates={"lost": 0.01}) for seed in (7, 7, 8))

    assert [one.of(key) for key in KEYS] == [same.of(key) for key in KEYS]
    assert [one.of(key) for key in KEYS] != [other.of(key) for key in KEYS]


def test_a_rate_is_a_share_of_the_requests() -> None:
    drawn = [Faults(rates={"lost": 0.01, "late": 0.03}).of(key) for key in KEYS]

    assert 70 <= drawn.count("lost") <= 130
    assert 240 <= drawn.count("late") <= 360


def test_who_tries_again_gets_through() -> None:
    menu = Faults(rates={"lost": 1.0})

    assert [menu.of("a", tried=n) for n in range(3)] == ["lost", "ok", "ok"]


def test_a_named_key_always_meets_its_fault() -> None:
    menu = Faults(named={"13900000001": "bad_number"})

    assert [menu.of("out-1", tried=n, names=("13900000001",)) for n in range(3)] == ["bad_number"] * 3
    assert menu.of("out-1", names=("13900000002",)) == "ok"


@pytest.mark.parametrize("rates", [{"lost": -0.1}, {"lost": 0.6, "late": 0.6}])
def test_rates_that_are_no_shares_are_refused(rates: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        Faults(rates=rates)


def test_a_fault_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="earthquake; known: lost"):
        check_faults(Faults(named={"a": "earthquake"}), frozenset({"lost"}))
