"""Who may register?"""

from datetime import date

import pytest

from contracts.partners import PARTNERS, Partner
from contracts.reasons import Reason, Refused
from services.enrollment.rules.people import (
    Holder,
    Registered,
    check_digit,
    is_name,
    masked,
    normalised,
    register,
)
from tests.people import LI_NA

TODAY = date(2024, 12, 20)
ELSEWHERE = Partner(code="wechat", kind="channel", name_zh="", may=(), regions=("330100",))
HOLDER = Holder("p-1", "李娜")
NUMBER = LI_NA.id_number[:17]


@pytest.mark.parametrize(
    ("change", "region", "channel", "holder", "outcome"),
    [
        ({},                                   "990100", "wechat",  None,                   ""),
        ({"email": "li@na.example"},           "990100", "counter", None,                   ""),
        ({},                                   "999999", "wechat",  None,                   "REGION_UNKNOWN"),
        ({},                                   "990100", ELSEWHERE, None,                   "CHANNEL_NOT_ENABLED"),
        ({"id_kind": "PASSPORT"},              "990100", "wechat",  None,                   "ID_KIND_UNSUPPORTED"),
        ({"id_number": NUMBER + "0"},          "990100", "wechat",  None,                   "ID_CHECKSUM"),
        ({"id_number": NUMBER},                "990100", "wechat",  None,                   "ID_CHECKSUM"),
        ({"id_number": "1" * 15},              "990100", "wechat",  None,                   "ID_CHECKSUM"),
        ({"id_number": "９" + NUMBER[1:] + "8"}, "990100", "wechat", None,                   "ID_CHECKSUM"),
        ({"id_number": "99010020241221001"},   "990100", "wechat",  None,                   "ID_BIRTH_DATE"),
        ({"id_number": "99010019900230001"},   "990100", "wechat",  None,                   "ID_BIRTH_DATE"),
        ({"name": "李4"},                      "990100", "wechat",  None,                   "NAME_INVALID"),
        ({"phone": "1990000000a"},             "990100", "wechat",  None,                   "PHONE_INVALID"),
        ({"phone": "199000000010"},            "990100", "wechat",  None,                   "PHONE_INVALID"),
        ({"phone": "12900000001"},             "990100", "wechat",  None,                   "PHONE_INVALID"),
        ({"name": "李妮"},                     "990100", "wechat",  HOLDER,                 "NAME_MISMATCH"),
        ({},                                   "990100", "wechat",  HOLDER,                 "ACCOUNT_EXISTS"),
    ],
)
def test_one_account_for_a_real_identity(change, region, channel, holder, outcome) -> None:  # type: ignore[no-untyped-def]
    fields = {name: getattr(LI_NA.registration, name) for name in LI_NA.registration.__struct_fields__} | change
    if outcome == "ID_BIRTH_DATE":
        fields["id_number"] += check_digit(fields["id_number"])
    claim = type(LI_NA.registration)(**fields)
    partner = channel if isinstance(channel, Partner) else PARTNERS[channel]

    result = register(claim, region_code=region, channel=partner, holder=holder, today=TODAY)

    assert result == Registered(claim) if outcome == "" else isinstance(result, Refused)
    if isinstance(result, Refused):
        assert result.code == outcome
        assert claim.id_number not in str(result)
        assert claim.name not in str(result)


def test_who_has_an_account_hears_which_one() -> None:
    result = register(LI_NA.registration, region_code="990100", channel=PARTNERS["bank"], holder=HOLDER, today=TODAY)

    assert isinstance(result, Refused)
    assert (result.code, result.expected) == (Reason.ACCOUNT_EXISTS.name, "p-1")


@pytest.mark.parametrize(
    ("first_17", "digit"),
    [
        ("11010519491231002", "X"),      # the example of GB 11643-1999
        ("44052418800101001", "4"),      # the other one
        ("99010019900307242", "8"),
    ],
)
def test_the_check_digit_is_iso_7064(first_17: str, digit: str) -> None:
    assert check_digit(first_17) == digit


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("李娜", True),
        ("欧阳娜娜", True),
        ("阿依古丽·买买提", True),
        ("王〇", True),                   # 〇 is a numeral to Unicode and a character in names
        ("㑇𠅤𫖯", True),                 # beyond the first plane
        ("李", False),
        ("李·", False),
        ("·李娜", False),
        ("李 娜", False),
        ("李娜2", False),
        ("李娜!", False),
        ("娜" * 51, False),
    ],
)
def test_a_name_is_letters_with_single_dots_between_parts(name: str, outcome: bool) -> None:
    assert is_name(name) is outcome


def test_people_are_equal_however_a_keyboard_writes_them() -> None:
    written = type(LI_NA.registration)(
        id_kind="RESIDENT_ID", name=" 阿依古丽•买买提", id_number="11010519491231002x ", phone=" 19900000004")

    clean = normalised(written)

    assert (clean.name, clean.id_number, clean.phone) == ("阿依古丽·买买提", "11010519491231002X", "19900000004")


def test_a_masked_name_shows_its_first_character() -> None:
    assert masked("阿依古丽") == "阿***"
