"""Does nothing outlive its parent, however that one ends?"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandbox.lifeline import Child
from tests.waiting import until

ENV = {"PATH": os.environ["PATH"]}
PARENT = """
import os, sys, time
from pathlib import Path
from sandbox.lifeline import Child
child = Child(["sleep", "1000"], log=Path(os.devnull), env={"PATH": os.environ["PATH"]})
while child.pid is None:
    time.sleep(0.01)
print(child.pid, child._shell.pid, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def family() -> Iterator[tuple["subprocess.Popen[str]", psutil.Process, psutil.Process]]:
    """A parent of its own, its child and the shell between them."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child, shell = map(psutil.Process, map(int, parent.stdout.readline().split()))
    yield parent, child, shell
    parent.kill()
    parent.wait()
    parent.stdout.close()


def test_a_child_ends_when_its_parent_is_killed(
    family: tuple["subprocess.Popen[str]", psutil.Process, psutil.Process],
) -> None:
    parent, child, shell = family

    parent.kill()

    until(lambda: not child.is_running() and not shell.is_running())


def test_a_child_ends_when_its_parent_and_the_shell_between_them_are_killed(
    family: tuple["subprocess.Popen[str]", psutil.Process, psutil.Process],
) -> None:
    parent, child, shell = family

    shell.kill()
    parent.kill()

    until(lambda: not child.is_running())


def test_who_does_not_listen_to_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    deaf = Child(
        ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"],
        log=tmp_path / "log",
        env=ENV,
        grace_seconds=0.3,
    )
    until(lambda: (tmp_path / "log").read_text() == "deaf\n")

    assert deaf.stop() == 128 + signal.SIGKILL


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 75", 75), ("kill -9 $$", 137)])
def test_the_exit_code_comes_through(tmp_path: Path, command: str, code: int) -> None:
    child = Child(["sh", "-c", command], log=tmp_path / "log", env=ENV)

    until(lambda: child.poll() is not None)

    assert child.stop() == code
