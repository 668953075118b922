"""Does an end leave nothing running, and does a start say what it waits for?"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandbox.lifeline import Child
from sandbox.postgres import remove
from sandbox.processes import ROOT
from sandbox.state import read_state, still_alive, wait_for_the_end
from tests.waiting import until

SLOW = "trap 'sleep 0.5; exit' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for a sandbox of its own."""
    made = Path(tempfile.mkdtemp(prefix="canbao-test-", dir="/tmp"))
    made.chmod(0o711)
    yield made / "data"
    canbao(made / "data", "down")
    remove(made / "data")
    shutil.rmtree(made, ignore_errors=True)


def begin(place: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A verb over that folder, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL, text=True, env={**os.environ, "CANBAO_DATA": str(place)},
    )  # fmt: skip


def canbao(place: Path, *arguments: str) -> tuple[int, str]:
    """A verb over that folder: exit code and what it said."""
    verb = begin(place, *arguments)
    out, err = verb.communicate()
    return verb.returncode, out + err


def over(place: Path) -> list[psutil.Process]:
    """Kafka, Postgres, the services and the shells beside them that run over that folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = " ".join(process.info["cmdline"] or [])
        if f"{place}/" in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def test_who_still_ends_is_seen_and_waited_for(tmp_path: Path) -> None:
    slow = Child(["sh", "-c", SLOW], log=tmp_path / "slow.log", env={"PATH": os.environ["PATH"]})
    until(lambda: (tmp_path / "slow.log").read_text() == "ready\n")
    assert still_alive(tmp_path) == ["slow"]
    pid = slow.pid
    assert pid is not None

    slow.ask_to_stop()

    assert still_alive(tmp_path) == ["slow"]
    assert wait_for_the_end(tmp_path, 10) == []
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    slow.stop()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("verb", ["down", "reset"])
def test_nothing_runs_when_a_running_demo_was_ended_by(verb: str, place: Path) -> None:
    demo = begin(place, "demo", "--citizens", "1000", "--json")
    until(lambda: len(over(place)) > 3, "servers", 60)

    code, said = canbao(place, verb)

    left = over(place)
    _, why = demo.communicate()
    assert (code, left) == (0, []), said
    assert place.exists() == (verb == "down")
    assert "canbao demo: told to end" in why
    assert demo.returncode == 2


@pytest.mark.timeout(180)
@pytest.mark.parametrize("words", [("up",), ("demo", "--citizens", "1000", "--json")])
def test_ctrl_c_ends_what_a_verb_has_begun_and_is_exit_code_130(words: tuple[str, ...], place: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    verb = begin(place, *words)
    until(lambda: over(place), "the first server", 60)

    verb.send_signal(signal.SIGINT)

    _, said = verb.communicate()
    assert (verb.returncode, said.splitlines()[-1]) == (130, f"canbao {words[0]}: stopped"), said
    until(lambda: not over(place), "the end of what it had begun")


@pytest.mark.timeout(180)
def test_of_two_that_start_it_at_once_both_see_it_up_and_who_comes_at_its_end_waits(place: Path) -> None:
    first = begin(place, "up")
    until(lambda: (state := read_state(place)) is not None and state.said, "the first words", 30)
    code, starting = canbao(place, "status")
    second = begin(place, "up")
    said = [verb.communicate() for verb in (first, second)]
    assert (code, starting.partition(":")[2][:9]) == (1, " starting"), starting
    assert [first.returncode, second.returncode] == [0, 0], said
    assert "somebody else is starting it already" in said[1][1]
    assert all("payment" in table for table, _ in said)

    state = read_state(place)
    assert state is not None
    os.kill(state.pid, signal.SIGTERM)
    until(lambda: (now := read_state(place)) is not None and now.phase == "stopping", "its end")
    code, again = canbao(place, "up")

    assert code == 0, again
    assert "waiting for its end" in again


@pytest.mark.timeout(180)
def test_two_that_start_it_in_the_same_moment_both_see_it_up(place: Path) -> None:
    verbs = [begin(place, "up"), begin(place, "up")]
    said = [verb.communicate() for verb in verbs]

    assert [verb.returncode for verb in verbs] == [0, 0], said
