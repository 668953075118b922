"""Is the command line instant, and does wrong input get one clear line?"""

import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from cli.__main__ import VERBS
from sandbox.processes import ROOT

HELP_SECONDS = 0.3
PRESENT = [verb for verb in VERBS if (ROOT / "cli" / f"{verb}.py").exists()]


def canbao(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The executable itself."""
    return subprocess.run([ROOT / "canbao", *arguments], capture_output=True, text=True, check=False)


def cpu_seconds_of(*arguments: str) -> float:
    """What the executable takes of a processor: its time on a quiet machine, also on a busy one."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    canbao(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [("--help",), ("up", "--help"), ("nonsense",)])
def test_an_answer_that_needs_no_work_is_instant(arguments: tuple[str, ...]) -> None:
    assert min(cpu_seconds_of(*arguments) for _ in range(5)) <= HELP_SECONDS


def test_help_names_every_verb() -> None:
    lines = [line.split() for line in canbao("--help").stdout.splitlines() if line.startswith("  ")]

    assert [words[0] for words in lines] == PRESENT
    assert all(len(words) > 1 for words in lines), "each says what it does"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("--nonsense",),
        ("up", "--nonsense"),
        ("logs", "-n", "many"),
        ("",),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = canbao(*arguments)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("canbao")
    assert not done.stdout


def test_the_overview_is_shown_before_anything_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", PRESENT)
def test_a_verbs_help_needs_nothing_installed(verb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-S", ROOT / "canbao", verb, "--help"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: canbao {verb}")
    assert not done.stderr


def test_the_locks_name_no_address() -> None:
    for lock in ("requirements.lock", "requirements-dev.lock", "sandbox/kafka.lock"):
        assert "://" not in Path(ROOT / lock).read_text(), lock


def test_ctrl_c_while_it_loads_ends_it_quietly() -> None:
    """At any moment; only what Python does before our first line is not ours."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    said = set()
    for wait_ms in range(20, 260, 6):
        begun = subprocess.Popen(
            [ROOT / "canbao", "status"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "CANBAO_DATA": "/tmp/canbao-nowhere"},
        )  # fmt: skip
        with suppress(subprocess.TimeoutExpired):
            begun.wait(wait_ms / 1000)
        begun.send_signal(signal.SIGINT)
        _, err = begun.communicate()
        if f'"{ROOT}/canbao", line 0' in err:
            continue    # Python was about to begin with the first line
        if f'"{ROOT}/canbao"' in err or f'"{ROOT}/cli/' in err or "runpy" in err:
            said.add(f"after {wait_ms} ms: {err}")
        else:
            assert begun.returncode in {3, 130, 1, -signal.SIGINT}

    assert not said
