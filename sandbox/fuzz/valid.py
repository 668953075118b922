"""How does a right command of each type look, whose handling changes as little as possible?"""

from random import Random
from typing import Any

import msgspec

from contracts.enrollment import Identity, Registration
from contracts.message import Sealed
from contracts.partners import PARTNERS
from contracts.topics import OPERATED
from sandbox.blunders import NOBODY
from sandbox.partner import Partner
from sandbox.people import REGION, check_digit

_MONTHS, _DAYS = 12, 28
# What a right command of each type hears: it names nobody whom we know, so nothing comes of it but an answer;
# only a report of money is always taken, and kept in suspense. An empty code: accepted.
HEARS = {
    "enrollment.register_account.v1": ("ID_CHECKSUM",),
    "enrollment.submit_enrollment.v1": ("PERSON_NOT_FOUND",),
    "enrollment.review_decision.v1": ("ENROLLMENT_NOT_FOUND",),
    "billing.query_bill.v1": ("PERSON_NOT_FOUND", "BILL_NOT_FOUND"),
    "payment.start_payment.v1": ("PERSON_NOT_FOUND", "BILL_NOT_FOUND"),
    "payment.report_payment.v1": ("",),
    "any.redrive.v1": ("",),
    "any.resume.v1": ("",),
    "any.advance_clock.v1": ("",),
    "any.republish.v1": ("",),
    "any.reread.v1": ("",),
}


def an_id(random: Random) -> str:
    """In the form of an id of ours, and nobody's."""
    return f"{NOBODY[:24]}a{random.getrandbits(44):011x}"


def right_body(type_name: str, partner: Partner, request_id: str, random: Random) -> dict[str, Any]:
    """A body that keeps the contract, from somebody who may say it. KeyError: no such type."""
    body: dict[str, Any] = {"request_id": request_id}
    match type_name:
        case "enrollment.register_account.v1":
            return body | {"region_code": REGION, "registration": _registration(partner, request_id, random)}
        case "enrollment.submit_enrollment.v1":
            extra: dict[str, Any] = {"categories": ["student"]} if random.random() < 0.5 else {}
            return body | {
                "person_id": an_id(random), "region_code": REGION, "scheme": "RESIDENT",
                "insurance_year": 2025, **extra,
            }
        case "enrollment.review_decision.v1":
            return body | {
                "person_id": an_id(random), "enrollment_id": an_id(random), "decision": "RETURN",
                "officer": "officer-7", "decided_at": partner.now().isoformat(), "reasons": ["PHOTO"],
            }
        case "billing.query_bill.v1":
            return body | {"person_id": an_id(random), "insurance_year": 2025}
        case "payment.start_payment.v1":
            item = {
                "person_id": an_id(random),
                "obligation_id": an_id(random),
                "version": 1,
                "amount_fen": 40_000,
            }
            return body | {"person_id": an_id(random), "provider": "wechat", "items": [item]}
        case "payment.report_payment.v1":
            return body | {
                "person_id": an_id(random), "obligation_id": an_id(random), "insurance_year": 2025,
                "amount_fen": random.randint(1, 40_000), "channel_ref": request_id,
                "paid_at": partner.now().isoformat(), "method": "CASH",
                "payer_saw": _payer(partner, request_id),
            }
        case _:
            order = {"service": random.choice(OPERATED), "operator": "fuzz"}
            return body | order | _ORDERS[type_name]


# Orders that find nothing to do: none parked so, no halt, a clock that is further, nothing said since.
_ORDERS: dict[str, dict[str, Any]] = {
    "any.redrive.v1": {"seqs": [], "reason": "TOO_LARGE", "dry_run": True},
    "any.resume.v1": {},
    "any.advance_clock.v1": {"to": "1999-12-31T00:00:00+08:00"},
    "any.republish.v1": {"since": "2199-12-31T00:00:00+08:00"},
    "any.reread.v1": {"since": "2199-12-31T00:00:00+08:00"},
}


def _registration(partner: Partner, place: str, random: Random) -> Any:
    """Somebody whose ID number has a wrong check digit."""
    born = f"19{random.randint(50, 99)}{random.randint(1, _MONTHS):02}{random.randint(1, _DAYS):02}"
    first_17 = f"{REGION}{born}{random.randint(0, 999):03}"
    wrong = "0" if check_digit(first_17) != "0" else "1"
    sealed: Sealed[Registration] = partner.keys.seal(
        Registration(id_kind="RESIDENT_ID", name="甄无误", id_number=first_17 + wrong, phone="19899999999"),
        reader="enrollment", place=place,
    )
    return msgspec.to_builtins(sealed)


def _payer(partner: Partner, place: str) -> Any:
    sealed: Sealed[Identity] = partner.keys.seal(
        Identity(name="甄无误", id_number="990100198812120018"), reader="payment", place=place
    )
    return msgspec.to_builtins(sealed)


def commands() -> list[tuple[str, str]]:
    """Each partner with each type that it may send."""
    return [(who.code, type_name) for who in PARTNERS.values() for type_name in who.may]
