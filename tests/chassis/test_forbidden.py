"""Is every secret in a partner's body found, under any spelling, and is no honest body refused?"""

import json
import os
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.chassis import forbidden

BOX = b64encode(os.urandom(120)).decode()
CLEAN: dict[str, Any] = {
    "request_id": "bank-20241012-000001", "person_id": "01930f3a-1b2c-7def-8abc-0123456789ab",
    "obligation_id": "01234567-1234-7123-8123-123456789012", "insurance_year": 2025, "amount_fen": 40000,
    "channel_ref": "4200001234202410121234567890", "paid_at": "2024-10-12T09:30:00+08:00", "method": "cash",
    "region_code": "990100", "payer_saw": {"reader": "payment", "key_id": "bank>payment.1", "box": BOX},
}


def body(**more: Any) -> bytes:
    return json.dumps(CLEAN | more, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "Password",
        "PASSWD",
        "pay_password",
        "payPwd",
        "pin",
        "PIN",
        "card_pin",
        "pinBlock",
        "cvv",
        "CVV2",
        "cvn2",
        "code",
        "verification_code",
        "verificationCode",
        "sms_code",
        "smsCode",
        "otp",
        "card_number",
        "cardNo",
        "bank_card_no",
        "card-number",
        "pan",
        "track2",
        "auth_code",
        "ｐｉｎ",
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_secret_field_is_found_under_any_spelling(name: str, ascii_only: bool) -> None:
    deep = json.dumps(CLEAN | {"items": [{}, {name: "1"}]}, ensure_ascii=ascii_only, indent=1).encode()
    expected = name if name.isascii() else "?"

    assert forbidden.find(deep) == f"items.1.{expected}"


def test_an_escaped_letter_hides_nothing() -> None:
    assert forbidden.find(b'{"p\\u0069n":"1"}') == "pin"


@pytest.mark.parametrize("first", ['"note":"13812345678"', '"a":{"pin":"1"}', '"a":[{"cvv":1}],"a":2'])
def test_a_name_that_stands_twice_hides_nothing(first: str) -> None:
    value = b"{%s,%s" % (first.encode(), b'"note":"x","a":1}')

    assert forbidden.find(value) in {"note", "a.pin", "a.0.cvv"}


@pytest.mark.parametrize(
    "text",
    [
        "990100199003078512",
        "11010519491231002X",
        "11010519491231002x",
        "13812345678",
        "+8613812345678",
        "138 1234 5678",
        "6222021234567890128",
        "6222 0212 3456 7890 128",
        "4111111111111111",
        "电话13812345678，请回电",
        "phone=13812345678;",
        "１３８１２３４５６７８",
    ],
)
def test_a_personal_number_in_the_clear_is_found_in_any_text(text: str) -> None:
    assert forbidden.find(body(note=text)) == "note"
    assert forbidden.find(body(items=[{"a": [text]}])) == "items.0.a.0"


@pytest.mark.parametrize("blank", [*" \t\u00a0\u2009\u202f\u3000\u200b\u2060", "  "])
@pytest.mark.parametrize("number", ["13812345678", "990100199003078512"])
def test_a_number_is_found_whatever_blanks_stand_between_its_digits(number: str, blank: str) -> None:
    text = blank.join((number[:3], number[3:7], number[7:]))
    assert forbidden.find(body(remark=f"联系{text}。")) == "remark"


@pytest.mark.parametrize("number", [13812345678, 990100199003078512, 4111111111111111])
def test_a_personal_number_may_stand_as_a_number(number: int) -> None:
    assert forbidden.find(body(contact=number)) == "contact"


def test_a_personal_number_as_a_key_is_found_and_not_repeated_in_the_path() -> None:
    assert forbidden.find(body(people={"13812345678": 1})) == "people.?"


@pytest.mark.parametrize("more", [
    {},
    {"channel_ref": "13812345678"},                         # the partner's own number
    {"channel_ref": "4111111111111111"},                    # … which passes the card's check digit by chance
    # … or an ID number's, with the day of payment inside
    {"channel_ref": "110105202410120024"},
    {"amount_fen": 13812345678},
    {"note": "990100199003078516"},                         # the check digit is wrong
    {"note": "4111111111111112"},
    {"note": "订单2024101212345678901234567890"},
    {"journey": "01234567123471238123123456789012"},
    {"items": [{"obligation_id": "11111111-1111-7111-8111-138123456789"}]},
    {"pinned": True, "passport_kind": "P", "channel_code": "bank", "opinion": "x", "coding": 1},
])
def test_an_honest_body_passes(more: dict[str, Any]) -> None:
    assert forbidden.find(body(**more)) is None


def test_an_id_number_is_no_reference_either() -> None:
    assert forbidden.find(body(request_id="990100199003078512")) == "request_id"


@pytest.mark.parametrize("value", [b"", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":', b'"x"', b"[]", b"1"])
def test_what_is_no_json_and_names_no_secret_is_left_to_others(value: bytes) -> None:
    assert forbidden.find(value) is None


@pytest.mark.parametrize("value", [b'{"pin":"1"', b"13812345678 garbage", b'\xff{"password":1}'])
def test_what_is_no_json_and_looks_secret_is_not_kept(value: bytes) -> None:
    assert forbidden.find(value) == "?"


def test_depth_does_not_break_the_search() -> None:
    assert forbidden.find(b'{"a":' * 900 + b'{"pin":1}' + b"}" * 900) is not None
    assert forbidden.find(b'{"a":' * 100_000 + b'{"pin":1}' + b"}" * 100_000) is not None


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner),
    )
)
@example({"a": "138 1234 5678"})
def test_the_quick_search_never_passes_what_the_exact_one_finds(value: Any) -> None:
    exact = forbidden._search(value)
    if isinstance(value, dict) and exact is not None:
        assert forbidden.find(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")) is not None


@given(st.uuids(), st.binary(min_size=28, max_size=300))
def test_ids_and_boxes_are_never_mistaken(uuid: Any, box: bytes) -> None:
    assert (
        forbidden.find(
            body(person_id=str(uuid), journey=uuid.hex, payer_saw={"box": b64encode(box).decode()})
        )
        is None
    )
