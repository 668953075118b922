"""Does each verb answer nonsense with one line and an exit code, never with a traceback?"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.processes import ROOT

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
NOBODY = "127.0.0.1:1"  # a port where nobody listens


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A verb over a folder where nothing has run. FILE, BYTES, EMPTY and FOLDER stand for such paths."""
    (tmp_path / "file").write_text("{\n")
    (tmp_path / "bytes").write_bytes(bytes(range(256)))
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    paths = {word: str(tmp_path / word.lower()) for word in ("FILE", "BYTES", "EMPTY", "FOLDER")}

    def run(*words: str, stdin: bytes = b"", **env: str) -> "subprocess.CompletedProcess[bytes]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CANBAO_")}
        return subprocess.run(
            [sys.executable, "-m", "cli", *(paths.get(word, word) for word in words)],
            input=stdin,
            capture_output=True,
            cwd=ROOT,
            check=False,
            timeout=50,
            env={
                **clean,
                "CANBAO_DATA": str(tmp_path / "data"),
                **{n: paths.get(v, v) for n, v in env.items()},
            },
        )

    return run


def one_line(done: "subprocess.CompletedProcess[bytes]", *codes: int) -> None:
    said = done.stderr.decode()
    assert "Traceback" not in said, said
    assert done.returncode in codes, said
    assert said.count("\n") == 1, said
    assert said.startswith("canbao")
    assert not done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "nope",
        "--version",
        "DEMO",
        "'demo '",
        "démö",
        "''",
        "contracts",
        "demo --citizens x",
        "demo --citizens -1",
        "demo --citizens 0",
        "demo --citizens 1e3",
        "demo --citizens 99999999999999999999",
        "demo --seed --json",
        "demo extra",
        "demo --citizen 5",
        "up now",
        "down --force",
        "status --yaml",
        "reset --yes",
        "logs -n x",
        "logs -n -5",
        "logs a b",
        "bench",
        "bench x",
        "bench pipeline --rounds 1",
        "simulate --seeds 0",
        "simulate --seeds -1",
        "push",
        "push nobody",
        "push 微信",
        "push wechat /nonexistent",
        "push wechat FOLDER",
        "push wechat FILE",
        "push wechat BYTES",
        "push wechat EMPTY",
        "push wechat --repeat 3 FILE",
        "push wechat --repeat 0",
        "push wechat --repeat 1.5",
        "push wechat --delay nan EMPTY",
        "push wechat --delay inf EMPTY",
        "push wechat --delay -1",
        "push wechat --wait 0",
        "push wechat --tamper all",
        "push wechat a b",
        "tail",
        "tail nope",
        "tail billing.bills --from yesterday",
        "tail billing.bills --from -1",
        "tail billing.bills --from ²",
        "tail billing.bills --from 2026-11-23T09:00",
        "tail billing.bills --filter x",
        "tail billing.bills --filter =x",
        "tail billing.bills --count -1",
        "tail billing.bills --count 0",
        "tail billing.bills --no-follow",
        "tail billing.bills --from end --no-follow",
        "tail billing.bills --count many",
        "trace",
        "trace ''",
        "trace 'a b'",
        "trace 王芳",
        "trace 990100199203152625",
        "trace x y",
        "trace x --xml",
        "verify x",
        "topics",
        "topics drop",
        "topics plan --kafka ://",
        "topics plan --kafka FTP://a:b@c:1",
        "doctor x",
    ],
)
def test_nonsense_is_one_line_and_exit_code_2(run: Run, line: str) -> None:
    one_line(run(*shlex.split(line)), 2)


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"\n\n",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b'{"type": 1, "body": {}}',
        b'{"type": "nope", "body": {}}',
        b'{"type": "billing.bill_issued.v1", "body": {}}',
        b'{"type": "enrollment.register_account.v1", "body": {}, "x": 1}',
        b"[" * 100_000,
    ],
)
def test_input_that_is_no_command_is_one_line(run: Run, stdin: bytes) -> None:
    one_line(run("push", "wechat", stdin=stdin), 2)


@pytest.mark.parametrize(
    "line",
    [
        "tail billing.bills", "trace x", "trace x --follow", "verify", "status", "fuzz", "logs",
        "logs payment", "topics plan", "topics apply",
    ],
)  # fmt: skip
def test_where_nothing_runs_each_verb_says_so(run: Run, line: str) -> None:
    done = run(*shlex.split(line))
    one_line(done, 3 if line == "status" else 1)
    assert b"./canbao up starts it" in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("logs paymnet", b"there is payment"),
        ("logs ../../etc/passwd", b"there is payment"),
        ("logs payment -n 0", b"-n 0: expected 1 line or more"),
    ],
)
def test_what_no_log_can_answer_is_wrong_input(run: Run, tmp_path: Path, line: str, said: bytes) -> None:
    (tmp_path / "data" / "logs").mkdir(parents=True)
    (tmp_path / "data" / "logs" / "payment.log").touch()
    done = run(*shlex.split(line))
    one_line(done, 2)
    assert said in done.stderr


@pytest.mark.parametrize("line", ["status", "up", "demo", "reset", "doctor", "verify", "push wechat FILE"])
def test_a_data_folder_that_is_a_file_is_one_line(run: Run, line: str) -> None:
    one_line(run(*shlex.split(line), CANBAO_DATA="FILE"), 2)


@pytest.mark.parametrize("line", ["up", "demo --citizens 1"])
def test_a_data_folder_that_cannot_be_made_is_one_line(run: Run, line: str) -> None:
    one_line(run(*shlex.split(line), CANBAO_DATA="/proc/nowhere"), 2)


@pytest.mark.parametrize("line", ["reset", "demo --citizens 1"])
def test_a_folder_that_is_no_sandbox_is_never_emptied(run: Run, tmp_path: Path, line: str) -> None:
    one_line(run(*shlex.split(line), CANBAO_DATA=str(tmp_path)), 2)
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize("address", [NOBODY, "nonsense"])
def test_a_named_broker_that_is_none_is_one_line(run: Run, address: str) -> None:
    one_line(run("topics", "plan", CANBAO_KAFKA=address), 2)


def test_a_named_database_that_is_none_is_one_line(run: Run) -> None:
    one_line(run("demo", "--json", CANBAO_KAFKA=NOBODY, CANBAO_DATABASE_URL="nonsense"), 2)


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        ("doctor > /dev/full", (2,)),
        ("--help > /dev/full", (2,)),
        ("status --json >&-", (3,)),
        ("status >&- 2>&-", (3,)),
        ("trace x >&-", (1,)),
        ("push wechat <&-", (2,)),
        ("push wechat </dev/zero", (2,)),
        ("push wechat /dev/zero", (2,)),
        ("doctor | head -1", (0, 1)),
        ("--help | true", (0,)),
        (r"trace $'\xff'", (2,)),
    ],
)
def test_closed_full_and_foreign_pipes_are_no_traceback(
    tmp_path: Path, line: str, codes: tuple[int, ...]
) -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m cli {line}"],
        capture_output=True,
        cwd=ROOT,
        check=False,
        timeout=50,
        env={**os.environ, "CANBAO_DATA": str(tmp_path)},
    )
    assert done.returncode in codes, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") <= 1
