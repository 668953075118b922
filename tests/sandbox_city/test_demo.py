"""Does a whole city come out as planned, through real Kafka, real Postgres and every service?"""

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from sandbox.postgres import remove
from sandbox.show import Report, final, fitted, refusals
from sandbox.stack import PLAIN, Stack

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
        (("tail", "nowhere"), "", "no such topic"),
        (("tail", "operators", "--from", "yesterday"), "", "ISO instant"),
        (("tail", "operators", "--from", "2026-11-23T09:00"), "", "with its zone"),
        (("tail", "operators", "--filter", "reason"), "", "expected K=V"),
    ],
)
def test_what_makes_no_sense_gets_one_clear_line(
    tmp_path: Path, arguments: tuple[str, ...], text: str, says: str
) -> None:
    ended = canbao(tmp_path, *arguments, text=text)

    assert ended.returncode == 2
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("verb", [("push", "bank"), ("tail", "operators"), ("trace", "1" * 32), ("verify",)])
@pytest.mark.parametrize("was_there", [False, True])
def test_where_nothing_runs_one_line_says_so(
    tmp_path: Path, verb: tuple[str, ...], *, was_there: bool
) -> None:
    if was_there:
        Stack(
            kafka_admin="127.0.0.1:1", kafka_bootstrap="127.0.0.1:1", kafka_security=PLAIN,
            pg_admin_dsn="", pg_host="127.0.0.1", pg_port=1, secrets={"auditor": "x"},
        ).remember(tmp_path)  # fmt: skip

    wish = '{"type": "billing.query_bill.v1", "body": {}}' if verb[0] == "push" else ""
    ended = canbao(tmp_path, *verb, text=wish)

    assert ended.returncode == 1
    assert ended.stderr == f"canbao {verb[0]}: nothing runs here: ./canbao up starts it\n"
    assert not ended.stdout


def test_the_table_fits_in_80_columns_and_says_in_one_line_who_was_told_by_which_road() -> None:
    report = Report(
        citizens=10_000, approved=9_830, billed=9_643, waived=187, paid=9_547, settled=9_507, covered=9_694,
        notified=29_187, by_mail=325, by_nobody=99, asked_after=315, suspense=100, parked=50, forged=20,
        refused={"IDEMPOTENCY_CONFLICT": 1, "PERSON_NOT_FOUND": 4_200}, ledger_sum_fen=0, journey="1" * 32,
        seconds=55.5, first_settled_seconds=4.5, differences=[], invariants={"I1": True},
    )  # fmt: skip
    screen = Console(width=80, file=io.StringIO())

    final(report, [], "", [], screen.print)

    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert any("by SMS / mail / nobody" in line and "28,862 / 325 / 99; 315" in line for line in lines)
    assert sum("│" in line for line in lines) == 15, "a row each"


def test_what_to_try_next_fits_in_80_columns_and_can_be_pasted() -> None:
    command = "./canbao tail payment.payments --from beginning --no-follow --filter reason=PAID_TWICE"

    lines = fitted(command)

    assert max(map(len, lines)) <= 76
    assert "".join(f"{line}\n" for line in lines).replace("\\\n", "").split() == command.split()


@pytest.mark.timeout(300)
def test_somebody_who_starts_with_up_can_apply_and_pay_times_are_the_sandboxs(folder: Path) -> None:
    register = (
        '{"type": "enrollment.register_account.v1", "body": {"region_code": "990100", "registration":'
        ' {"id_kind": "RESIDENT_ID", "name": "李娜", "id_number": "990100199203152625",'
        ' "phone": "19900000001"}}}'
    )
    up = canbao(folder, "up")
    try:
        assert up.returncode == 0, up.stderr
        assert "2024-12-20 09:0" in up.stderr
        answers = said(canbao(folder, "push", "wechat", "--repeat", "2", text=register))
        person_id = answers[0]["result"]["person_id"]
        apply = {
            "person_id": person_id, "region_code": "990100", "scheme": "RESIDENT", "insurance_year": 2025,
            "categories": [],
        }  # fmt: skip
        command = json.dumps({"type": "enrollment.submit_enrollment.v1", "body": apply})
        forged = canbao(folder, "push", "wechat", "--tamper", "body", "--repeat", "2", text=command)
        (applied,) = said(canbao(folder, "push", "wechat", text=command))
        advance = {"service": "payment", "operator": "me", "to": "2025-02-01T00:00:00+08:00"}
        order = json.dumps({"type": "any.advance_clock.v1", "body": advance})
        (advanced,) = said(canbao(folder, "push", "operators", text=order))
        plan = canbao(folder, "topics", "plan", "--json")
        assert canbao(folder, "down").returncode == 0
        again = canbao(folder, "up")
    finally:
        canbao(folder, "reset")

    assert [answer["result"]["person_id"] for answer in answers] == [person_id] * 2, "each gets its answer"
    assert applied["outcome"] == "ACCEPTED"
    assert [(line["outcome"], line["service"]) for line in said(forged)] == [("PARKED", "enrollment")] * 2
    assert forged.returncode == 0
    assert advanced["outcome"] == "ACCEPTED"
    assert json.loads(plan.stdout)["equal"], "the stack of CANBAO_DATA"
    assert "2025-02-01 00:0" in again.stderr, "it goes on where it was"


@pytest.mark.timeout(300)
def test_a_demo_at_a_terminal_is_seen_by_status_until_it_is_told_to_end(folder: Path) -> None:
    master, slave = pty.openpty()
    demo = subprocess.Popen(
        [sys.executable, "-m", "cli", "demo", "--citizens", "3"], cwd=ROOT, stdin=slave, stdout=slave,
        stderr=slave, env=os.environ | {"CANBAO_DATA": str(folder), "TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(slave)
    try:
        seen = b""
        while b"Ctrl-C ends it" not in seen:
            seen += os.read(master, 65536)  # OSError: it has ended before
        status = canbao(folder, "status")
        assert b"console:" in seen
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
    finally:
        demo.kill()
        demo.wait()
        os.close(master)

    assert status.returncode == 0, status.stderr
    assert "payment     running" in status.stdout


@pytest.mark.timeout(200)
def test_a_demo_that_does_not_stay_names_no_address_where_nothing_runs(folder: Path) -> None:
    ended = canbao(folder, "demo", "--citizens", "3")

    assert ended.returncode == 0
    assert "./canbao up" in ended.stdout + ended.stderr
    assert "http://" not in ended.stdout + ended.stderr


def said(ended: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The lines of a push."""
    assert ended.stdout, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_answers_that_say_try_again_stand_apart_from_those_that_say_no() -> None:
    assert refusals({"BILL_NOT_FOUND": 480, "ID_CHECKSUM": 1, "ALREADY_ENROLLED": 2}) == [
        ("refused ALREADY_ENROLLED", 2),
        ("refused ID_CHECKSUM", 1),
        ("told to try again BILL_NOT_FOUND", 480),
    ]
