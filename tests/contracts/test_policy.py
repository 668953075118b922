"""Is a policy pack refused when it says something that must not be, and does the message say what?"""

from datetime import date
from pathlib import Path

import pytest

from contracts.policy import (
    Policy,
    PolicyError,
    Source,
    in_force,
    is_region,
    load,
    load_packs,
    newest,
    policy_of,
)
from contracts.reasons import Reason

PACK = Path(__file__).resolve().parents[2] / "contracts" / "policy" / "demo-2025.toml"
TEXT = PACK.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("region", "year", "outcome"),
    [
        ("990100", 2025, "demo-2025/1"),
        ("990100", 2026, Reason.YEAR_NOT_OPEN),
        ("999999", 2025, Reason.REGION_UNKNOWN),
    ],
)
def test_a_policy_is_found_by_region_and_year(region: str, year: int, outcome: str | Reason) -> None:
    policy = policy_of(region, year)

    assert (policy.ref if isinstance(policy, Policy) else policy) == outcome


def test_money_buys_cover_as_long_as_its_waiting_period_ends_in_the_year() -> None:
    assert in_force("990100", 2025).last_pay_day == date(2025, 9, 30)


def test_what_was_taken_in_under_a_policy_that_is_gone_is_a_bug() -> None:
    assert is_region("990100")
    assert not is_region("999999")
    with pytest.raises(LookupError, match="YEAR_NOT_OPEN"):
        in_force("990100", 2026)


def test_every_value_says_where_it_comes_from_and_how_sure_we_are() -> None:
    policy = load("demo.toml", TEXT)

    assert policy.resident.personal_fen == 40_000
    assert policy.sources["resident.personal_fen"] == Source("S3:145", "HIGH")
    assert (policy.help.hotline, policy.help.hotline_in_sources) == ("12393", "12333")


@pytest.mark.parametrize(
    ("day", "outcome"),
    [
        (date(2024, 9, 30), False),
        (date(2024, 10, 1), True),
        (date(2025, 3, 31), True),
        (date(2025, 4, 1), False),
    ],
)
def test_both_days_of_a_window_belong_to_it(day: date, outcome: bool) -> None:
    assert in_force("990100", 2025).window.holds(day) is outcome


@pytest.mark.parametrize(
    ("written", "instead", "message"),
    [
        ("value = 40000,", "value = 400.5,",
         "resident.personal_fen: a value has its declared type; expected `int`, got `float`"),
        ("value = 40000,", 'value = "40000",',
         "resident.personal_fen: a value has its declared type; expected `int`, got `str`"),
        ("personal_fen =", "personal_fn =",
         "resident: Object contains unknown field `personal_fn`"),
        ("value = 40000, source = \"S3:145\",", "value = 40000,",
         "resident.personal_fen: every value says where it comes from; "
         "expected { value, source, sure }, got { value, sure }"),
        ("{ value = 40000, source = \"S3:145\", sure = \"HIGH\" }", "40000",
         "resident.personal_fen: every value says where it comes from; "
         "expected { value, source, sure }, got 40000"),
        ('sure = "OURS"', 'sure = "SURELY"',
         "enrollment.flow.sure: Invalid enum value 'SURELY'"),
        ("value = 40000,", "value = -1,",
         "resident.personal_fen: fen, months and years are not negative; expected 0 or more, got -1"),
        ("due_fen = 12000", "due_fen = 40001",
         "resident.categories.subsistence: a category pays at most the personal part; "
         "expected 0 to 40000, got 40001"),
        ("value = 1000,", "value = 41000,",
         "ltc.fen: long-term care is inside the personal part; expected 0 to 40000, got 41000"),
        ("value = true", "value = false", "ltc.included: "),
        ("2025-03-31", "2024-03-31",
         "window.closes: a window opens before it closes; expected >= 2024-10-01, got 2024-03-31"),
        ("value = 3,", "value = -3,",
         "waiting.fixed_months: fen, months and years are not negative; expected 0 or more, got -3"),
        ("REVIEW_THEN_PAY", "PAY_THEN_REVIEW", "enrollment.flow: "),
        ("version = 1", "version", "(whole file): a pack is TOML; expected TOML, got "),
        ("version = 1", "", "(whole file): Object missing required field `version`"),
    ],
)
def test_a_wrong_pack_is_refused_with_its_place_and_rule(written: str, instead: str, message: str) -> None:
    assert written in TEXT

    with pytest.raises(PolicyError) as refusal:
        load("bad.toml", TEXT.replace(written, instead, 1))

    assert str(refusal.value).startswith(f"bad.toml: {message}")


@pytest.mark.parametrize("second", [TEXT, TEXT.replace('id = "demo-2025"', 'id = "other"')])
def test_two_packs_for_one_region_and_year_are_refused(tmp_path: Path, second: str) -> None:
    (tmp_path / "a.toml").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b.toml").write_text(second, encoding="utf-8")

    with pytest.raises(PolicyError, match=r"b\.toml: version: one pack for a region and year"):
        load_packs(tmp_path)


def test_a_new_version_is_in_force_and_the_old_one_stays_for_the_bills_that_name_it(tmp_path: Path) -> None:
    second = TEXT.replace("version = 1", "version = 2").replace("value = 40000,", "value = 42000,")
    (tmp_path / "a.toml").write_text(second, encoding="utf-8")
    (tmp_path / "b.toml").write_text(TEXT, encoding="utf-8")

    packs = load_packs(tmp_path)

    assert {ref: policy.resident.personal_fen for ref, policy in packs.items()} == {
        "demo-2025/1": 40_000, "demo-2025/2": 42_000,
    }
    assert newest(packs.values())["990100", 2025].version == 2
