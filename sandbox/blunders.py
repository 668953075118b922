"""Which authentic commands are refused by an answer, and for which reason? One of each, about one citizen."""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from sandbox.people import REGION, check_digit

REGISTER = "enrollment.register_account.v1"
SUBMIT = "enrollment.submit_enrollment.v1"
START = "payment.start_payment.v1"
NOBODY = "01900000-0000-7000-8000-000000000000"


class Blunder(Struct, frozen=True, kw_only=True):
    """One command that must be refused for this reason.

    channel: who sends it; empty: the channel of the citizen it is about, to which alone that one exists.
    changed: fields of the body, inside: of the sealed registration, amount_fen: of the order's item.
    reuses_id: under a request id that said something else before.
    """

    label: str
    channel: str
    reason: str
    type: str
    changed: dict[str, Any] = {}
    inside: dict[str, str] = {}
    amount_fen: int | float = 40_000
    reuses_id: bool = False


def _id_number(birth: str, *, wrong: bool = False) -> str:
    first_17 = f"{REGION}{birth}999"
    right = check_digit(first_17)
    return first_17 + (("0" if right != "0" else "1") if wrong else right)


_REGISTRATION = {"id_kind": "RESIDENT_ID", "name": "甄无误", "id_number": _id_number("19850203"),
                 "phone": "19899999999", "email": ""}

BLUNDERS = (
    Blunder(label="wrong check digit", channel="wechat", reason="ID_CHECKSUM", type=REGISTER,
            inside={"id_number": _id_number("19850203", wrong=True)}),
    Blunder(label="born next year", channel="alipay", reason="ID_BIRTH_DATE", type=REGISTER,
            inside={"id_number": _id_number("20250820")}),
    Blunder(label="phone with letters", channel="bank", reason="PHONE_INVALID", type=REGISTER,
            inside={"phone": "199oooo1234"}),
    Blunder(label="no such region", channel="counter", reason="REGION_UNKNOWN", type=REGISTER,
            changed={"region_code": "999999"}),
    Blunder(label="applies for another channel's citizen", channel="alipay", reason="PERSON_NOT_FOUND",
            type=SUBMIT),
    Blunder(label="pays for another channel's citizen", channel="alipay", reason="PERSON_NOT_FOUND",
            type=START),
    Blunder(label="nobody applies", channel="wechat", reason="PERSON_NOT_FOUND", type=SUBMIT,
            changed={"person_id": NOBODY}),
    Blunder(label="unknown scheme", channel="", reason="SCHEME_UNKNOWN", type=SUBMIT,
            changed={"scheme": "LOTTERY"}),
    Blunder(label="year not open", channel="", reason="YEAR_NOT_OPEN", type=SUBMIT,
            changed={"insurance_year": 2019}),
    Blunder(label="unknown category", channel="", reason="CATEGORY_UNKNOWN", type=SUBMIT,
            changed={"categories": ["astronaut"]}),
    Blunder(label="same request id, other body", channel="", reason="IDEMPOTENCY_CONFLICT", type=SUBMIT,
            changed={"submitted_by": "somebody-else"}, reuses_id=True),
    Blunder(label="a bank starts an online payment", channel="bank", reason="NOT_PERMITTED", type=START),
    Blunder(label="float money", channel="wechat", reason="SCHEMA_INVALID", type=START, amount_fen=400.5),
    Blunder(label="negative money", channel="alipay", reason="SCHEMA_INVALID", type=START, amount_fen=-1),
    Blunder(label="pays an unknown bill", channel="", reason="BILL_NOT_FOUND", type=START),
)


def body_of(
    blunder: Blunder, *, request_id: str, person_id: str, seal: Callable[[dict[str, str], str], Any]
) -> bytes:
    """The body of a blunder. person_id: somebody registered. seal: closes a registration for its place."""
    match blunder.type:
        case "enrollment.register_account.v1":
            sealed = seal({**_REGISTRATION, **blunder.inside}, request_id)
            body: dict[str, Any] = {"region_code": REGION, "registration": sealed}
        case "enrollment.submit_enrollment.v1":
            body = {"person_id": person_id, "region_code": REGION, "scheme": "RESIDENT",
                    "insurance_year": 2025}
        case _:
            item = {"person_id": person_id, "obligation_id": NOBODY, "version": 1,
                    "amount_fen": blunder.amount_fen}
            body = {"person_id": person_id, "provider": "wechat", "items": [item]}
    return msgspec.json.encode({"request_id": request_id, **body, **blunder.changed})
