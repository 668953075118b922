"""Who may register?"""

from datetime import date

import pytest
from msgspec.structs import replace

from contracts.enrollment import Registration
from contracts.partners import PARTNERS, Partner
from contracts.reasons import Reason, Refused
from services.enrollment.rules.people import (
    Holder,
    Identification,
    Recognised,
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
WECHAT = PARTNERS["wechat"]
HOLDER = Holder("p-1", "李娜", ("wechat",))
FIRST_17 = LI_NA.id_number[:17]


def checked(first_17: str) -> str:
    """An identity number with its check digit."""
    return first_17 + check_digit(first_17)


@pytest.mark.parametrize(
    ("change", "region", "channel", "holder", "outcome"),
    [
        ({}, "990100", WECHAT, None, ""),
        ({"email": "li@na.example"}, "990100", WECHAT, None, ""),
        ({}, "999999", ELSEWHERE, None, "REGION_UNKNOWN"),
        ({"id_kind": "PASSPORT"}, "990100", ELSEWHERE, None, "CHANNEL_NOT_ENABLED"),
        ({"id_kind": "PASSPORT", "id_number": "1"}, "990100", WECHAT, None, "ID_KIND_UNSUPPORTED"),
        ({"id_number": FIRST_17 + "0"}, "990100", WECHAT, None, "ID_CHECKSUM"),
        ({"id_number": FIRST_17}, "990100", WECHAT, None, "ID_CHECKSUM"),
        ({"id_number": "1" * 15}, "990100", WECHAT, None, "ID_CHECKSUM"),
        ({"id_number": "９" + FIRST_17[1:] + "8"}, "990100", WECHAT, None, "ID_CHECKSUM"),
        ({"id_number": checked("99010020241221001")}, "990100", WECHAT, None, "ID_BIRTH_DATE"),  # tomorrow
        ({"id_number": checked("99010019900230001")}, "990100", WECHAT, None, "ID_BIRTH_DATE"),
        ({"name": "李4", "phone": ""}, "990100", WECHAT, HOLDER, "NAME_INVALID"),
        ({"phone": "1990000000a"}, "990100", WECHAT, HOLDER, "PHONE_INVALID"),
        ({"phone": "199000000010"}, "990100", WECHAT, None, "PHONE_INVALID"),
        ({"phone": "12900000001"}, "990100", WECHAT, None, "PHONE_INVALID"),
        ({"name": "李妮"}, "990100", WECHAT, HOLDER, "NAME_MISMATCH"),
        ({}, "990100", WECHAT, HOLDER, "ACCOUNT_EXISTS"),
    ],
)
def test_one_account_for_a_real_identity(
    change: dict[str, str], region: str, channel: Partner, holder: Holder | None, outcome: str
) -> None:
    claim = replace(LI_NA.registration, **change)

    result = register(claim, region_code=region, channel=channel, holder=holder, today=TODAY)

    if isinstance(result, Registered):
        assert (outcome, result.registration) == ("", claim)
    else:
        assert isinstance(result, Refused)
        assert result.code == outcome
        assert claim.id_number not in str(result)
        assert claim.name not in str(result)


def test_who_has_an_account_hears_which_one() -> None:
    result = register(LI_NA.registration, region_code="990100", channel=WECHAT, holder=HOLDER, today=TODAY)

    assert isinstance(result, Refused)
    assert (result.code, result.expected) == (Reason.ACCOUNT_EXISTS.name, "p-1")


def test_another_channel_that_names_number_and_name_knows_the_person_from_now_on() -> None:
    bank = PARTNERS["bank"]

    result = register(LI_NA.registration, region_code="990100", channel=bank, holder=HOLDER, today=TODAY)

    assert isinstance(result, Recognised)
    assert result.identification == Identification("p-1", "bank", 2)
    assert (result.refusal.code, result.refusal.expected) == (Reason.ACCOUNT_EXISTS.name, "p-1")
    again = HOLDER.known_to("bank")
    assert isinstance(
        register(LI_NA.registration, region_code="990100", channel=bank, holder=again, today=TODAY), Refused
    )


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


@pytest.mark.parametrize("dot", [*"·•‧∙・･．."])
def test_people_are_equal_however_a_keyboard_writes_them(dot: str) -> None:
    written = Registration(
        id_kind="RESIDENT_ID", name=f" 阿依古丽{dot}买买提",
        id_number="11010519491231002x ", phone=" 19900000004",
    )

    clean = normalised(written)

    assert (clean.name, clean.id_number) == ("阿依古丽·买买提", "11010519491231002X")
    assert clean.phone == "19900000004"


def test_a_masked_name_shows_its_first_character() -> None:
    assert masked("阿依古丽") == "阿***"
