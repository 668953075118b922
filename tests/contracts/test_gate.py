"""Is what partners built upon still true?"""

import json
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.contracts import FOLDER, Change, compare, findings, freeze, message_types, sample_of, schema_of
from contracts.enrollment import Registration, ReviewDecision, SubmitEnrollment
from contracts.partners import PARTNERS
from services.enrollment.rules import applications, people

BILL = {
    "$ref": "#/$defs/Bill",
    "$defs": {
        "Bill": {
            "type": "object",
            "properties": {
                "fen": {"type": "integer", "minimum": 0, "maximum": 100},
                "status": {"enum": ["DUE", "PAID"]},
                "code": {"type": "string", "pattern": "^[a-z]+$"},
                "lines": {"type": "array", "items": {"$ref": "#/$defs/Line"}},
                "note": {"type": "string", "default": ""},
            },
            "required": ["fen", "status", "code", "lines"],
        },
        "Line": {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]},
    },
}


def altered(*path: str, to: Any) -> dict[str, Any]:
    """BILL with one place changed (None: removed)."""
    schema: dict[str, Any] = json.loads(json.dumps(BILL))
    place = schema["$defs"]
    for step in path[:-1]:
        place = place[step]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return schema


@pytest.mark.parametrize(
    ("new", "path", "as_fact", "as_command"),
    [
        (altered("Bill", "properties", "hint", to={"type": "string"}), "$.hint", "compatible", "compatible"),
        (altered("Bill", "description", to="What is due."), "$", "compatible", "compatible"),
        (altered("Bill", "properties", "note", to=None), "$.note", "breaking", "breaking"),
        (altered("Bill", "properties", "fen", to={"type": "string"}), "$.fen", "breaking", "breaking"),
        (altered("Bill", "properties", "fen", "minimum", to=1), "$.fen", "breaking", "breaking"),
        (altered("Bill", "properties", "fen", "maximum", to=99), "$.fen", "breaking", "breaking"),
        (altered("Bill", "properties", "fen", "maximum", to=101), "$.fen", "breaking", "compatible"),
        (altered("Bill", "properties", "fen", "maximum", to=None), "$.fen", "breaking", "compatible"),
        (altered("Bill", "properties", "status", "enum", to=["DUE"]), "$.status", "breaking", "breaking"),
        (
            altered("Bill", "properties", "status", "enum", to=["DUE", "PAID", "HELD"]),
            "$.status",
            "breaking",
            "compatible",
        ),
        (
            altered("Bill", "properties", "status", "enum", to=["DUE", "GONE"]),
            "$.status",
            "breaking",
            "breaking",
        ),
        (altered("Bill", "properties", "status", to={"type": "string"}), "$.status", "breaking", "breaking"),
        (altered("Bill", "properties", "code", "pattern", to="^[A-Z]+$"), "$.code", "breaking", "breaking"),
        (altered("Bill", "properties", "code", "pattern", to=None), "$.code", "breaking", "compatible"),
        (altered("Bill", "properties", "note", "default", to="none"), "$.note", "breaking", "breaking"),
        (altered("Bill", "required", to=["fen", "status", "code"]), "$.lines", "breaking", "compatible"),
        (
            altered("Bill", "required", to=["fen", "status", "code", "lines", "note"]),
            "$.note",
            "breaking",
            "breaking",
        ),
        (
            altered("Line", "properties", "label", "type", to="integer"),
            "$.lines[].label",
            "breaking",
            "breaking",
        ),
        (
            altered("Line", "properties", "fen", to={"type": "integer"}),
            "$.lines[].fen",
            "compatible",
            "compatible",
        ),
        (
            altered("Line", "properties", "label", "type", to=["string", "null"]),
            "$.lines[].label",
            "breaking",
            "compatible",
        ),
    ],
)
def test_what_is_added_may_stay_and_what_is_taken_breaks(
    new: dict[str, Any], path: str, as_fact: str, as_command: str
) -> None:
    changes = compare(BILL, new)
    assert path in {change.path for change in changes}
    words = {True: "breaking", False: "compatible"}
    assert words[any(change.breaks("fact") for change in changes)] == as_fact
    assert words[any(change.breaks("command") for change in changes)] == as_command


def test_a_field_added_as_required_breaks_readers_of_yesterdays_messages() -> None:
    new = altered("Bill", "properties", "payer", to={"type": "string"})
    new["$defs"]["Bill"]["required"].append("payer")
    assert compare(BILL, new) == [Change(path="$.payer", what="was added as required")]


def test_a_schema_compared_with_itself_has_no_change() -> None:
    for message in message_types().values():
        assert compare(schema_of(message), schema_of(message)) == []


def test_every_contract_is_as_it_was_promised() -> None:
    assert findings() == []


def test_every_sample_says_the_same_after_it_was_read() -> None:
    for message in message_types().values():
        text = json.dumps(sample_of(message))
        read = msgspec.json.decode(text, type=message.struct)
        assert json.loads(msgspec.json.encode(read)) == json.loads(text), message.name


def test_every_frozen_sample_is_the_one_that_would_be_made_today() -> None:
    assert [
        name for name, message in message_types().items()
        if json.loads((FOLDER / "samples" / f"{name}.json").read_text()) != sample_of(message)
    ] == []  # fmt: skip


def test_the_sample_of_an_application_would_be_taken_and_its_review_would_approve_it() -> None:
    types = message_types()
    application = msgspec.convert(sample_of(types["enrollment.submit_enrollment.v1"]), SubmitEnrollment)
    decision = msgspec.convert(sample_of(types["enrollment.review_decision.v1"]), ReviewDecision)
    now = decision.decided_at
    applied = applications.apply(
        application, channel=PARTNERS["wechat"], person_known=True, live=None,
        enrollment_id=decision.enrollment_id, now=now, today=now.date(),
    )  # fmt: skip
    assert isinstance(applied, applications.Applied)
    decided = applications.decide(decision, applied.enrollment, agency=PARTNERS["990100"], now=now)
    assert isinstance(decided, applications.Approved)
    assert (decision.reasons, bool(decision.categories)) == ([], True)


def test_the_sample_of_a_registration_would_be_taken() -> None:
    asked = msgspec.convert(sample_of(message_types()["sealed.registration.v1"]), Registration)
    assert people.register(
        asked, region_code="990100", channel=PARTNERS["wechat"], holder=None, today=date(2024, 11, 5)
    ) == people.Registered(asked)


def test_a_broken_promise_is_found_and_not_overwritten(tmp_path: Path) -> None:
    freeze(tmp_path)
    file = tmp_path / "schemas" / "billing.bill_settled.v1.json"
    promised = json.loads(file.read_text())
    promised["$defs"]["BillSettled"]["properties"]["paid_cash"] = {"type": "boolean"}
    file.write_text(json.dumps(promised))

    assert freeze(tmp_path) == []
    found = findings(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(
        "billing.bill_settled.v1: $.paid_cash was removed. A published type never changes"
    )
    assert "version=2" in found[0]


def test_a_compatible_change_is_asked_to_be_frozen(tmp_path: Path) -> None:
    freeze(tmp_path)
    file = tmp_path / "schemas" / "billing.query_bill.v1.json"
    promised = json.loads(file.read_text())
    promised["$defs"]["QueryBill"]["description"] = "As it was."
    file.write_text(json.dumps(promised))

    assert findings(tmp_path) == [
        "billing.query_bill.v1: compatible change, not frozen. Run: ./canbao contracts freeze"
    ]
    assert freeze(tmp_path) == ["billing.query_bill.v1"]
    assert findings(tmp_path) == []


def test_a_sample_that_cannot_be_read_any_more_is_found(tmp_path: Path) -> None:
    freeze(tmp_path)
    (tmp_path / "samples" / "billing.query_bill.v1.json").write_text('{"request_id": "1"}')
    assert [line.partition(":")[0] for line in findings(tmp_path)] == ["billing.query_bill.v1"]


def test_a_type_cannot_vanish_quietly(tmp_path: Path) -> None:
    freeze(tmp_path)
    (tmp_path / "schemas" / "billing.bill_forgiven.v1.json").write_text("{}")
    assert findings(tmp_path)[0].startswith("billing.bill_forgiven.v1: is frozen but not declared any more")
