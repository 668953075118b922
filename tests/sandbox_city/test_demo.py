"""Does a whole city come out as planned, through real Kafka, real Postgres and every service?"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.postgres import remove

ROOT = Path(__file__).resolve().parents[2]
PROMISED = {
    "citizens", "approved", "billed", "waived", "paid", "settled", "covered", "notified", "refused", "parked",
    "forged", "suspense", "ledger_sum_fen", "expected_equal", "invariants", "journey", "seconds",
}  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="canbao-demo-", dir="/tmp"))
    made.chmod(0o711)  # the user that root lends to Postgres must pass through
    yield made / "data"
    remove(made / "data")
    shutil.rmtree(made, ignore_errors=True)


def canbao(folder: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments], cwd=ROOT, input=text, capture_output=True, text=True,
        timeout=240, check=False, env=os.environ | {"CANBAO_DATA": str(folder)},
    )  # fmt: skip


@pytest.mark.timeout(300)
def test_a_city_of_a_hundred_comes_out_as_planned(folder: Path) -> None:
    ended = canbao(folder, "demo", "--citizens", "100", "--seed", "11", "--json")
    report = json.loads(ended.stdout.splitlines()[-1])

    assert report.keys() == PROMISED
    assert report["expected_equal"], ended.stderr
    assert all(report["invariants"].values()), report["invariants"]
    assert (report["parked"], report["forged"], report["ledger_sum_fen"]) == (50, 20, 0)
    assert report["settled"] > 80
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "text", "says"),
    [
        (("demo", "--citizens", "0"), "", "expected 1 to"),
        (("demo", "--citizens", "many"), "", "invalid int value"),
        (("push", "nobody"), "", "no such channel"),
        (("push", "bank"), "garbage", "line 1: not JSON"),
        (("push", "bank"), '{"type": "billing.bill_issued.v1", "body": {}}', "no such command"),
        (("push", "bank"), '{"type": "billing.query_bill.v1", "body": {}, "hue": 1}', "unknown field hue"),
        (("push", "bank", "/nowhere.ndjson"), "", "No such file"),
        (("push", "bank", "--repeat", "0"), "", "at least 1"),
        (("push", "bank", "--tamper", "everything"), "", "invalid choice"),
        (("push", "bank"), "", "nothing runs here"),
        (("tail", "nowhere"), "", "no such topic"),
        (("tail", "operators", "--from", "yesterday"), "", "ISO instant"),
        (("tail", "operators", "--from", "2026-11-23T09:00"), "", "with its zone"),
        (("tail", "operators", "--filter", "reason"), "", "expected K=V"),
        (("tail", "operators"), "", "nothing runs here"),
    ],
)
def test_what_makes_no_sense_gets_one_clear_line(
    tmp_path: Path, arguments: tuple[str, ...], text: str, says: str
) -> None:
    ended = canbao(tmp_path, *arguments, text=text)

    assert ended.returncode == 2
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
