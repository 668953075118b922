"""What does push say of what nobody can answer? Who set it aside and why, at once; or nothing is sent."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from services.chassis.ids import uuid7
from tests.story.conftest import Lived

QUERY = "billing.query_bill.v1"
REGISTER = {
    "region_code": "990100",
    "registration": {
        "id_kind": "RESIDENT_ID", "name": "李娜", "id_number": "990100199203152625", "phone": "19900000001",
    },
}  # fmt: skip


def written(folder: Path, type_name: str, **body: Any) -> str:
    """A file with one command."""
    file = folder / "commands"
    file.write_text(json.dumps({"type": type_name, "body": body}), encoding="utf-8")
    return str(file)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("field", [{"request_id": "a b"}, {"request_id": 5}, {"note": "x" * 3_000_000}])
def test_what_breaks_the_contract_is_said_to_be_parked_at_once(
    lived: Lived, tmp_path: Path, field: dict[str, Any]
) -> None:
    file = written(tmp_path, QUERY, person_id=uuid7(), insurance_year=2025, **field)
    began = time.monotonic()
    done = lived.canbao("push", "bank", file)
    told = json.loads(done.stdout)
    assert (told["outcome"], told.get("reason"), done.returncode) == ("PARKED", "SCHEMA_INVALID", 1)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("partner", ["operators", "990100"])
def test_who_may_not_send_a_sealed_type_is_told_so(lived: Lived, tmp_path: Path, partner: str) -> None:
    done = lived.canbao("push", partner, written(tmp_path, "enrollment.register_account.v1", **REGISTER))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{partner} may not send enrollment.register_account.v1" in done.stderr


@pytest.mark.parametrize("service", ["biling", ["billing"]])
def test_an_order_for_no_service_is_not_sent(lived: Lived, tmp_path: Path, service: Any) -> None:
    order = written(tmp_path, "any.resume.v1", service=service, operator="me")
    done = lived.canbao("push", "operators", order)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "enrollment, billing, payment, notify" in done.stderr
