"""Does what dies come back, and does nothing stay when all shall end?"""

import asyncio
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from sandbox.ports import Ports, write_private
from sandbox.postgres import remove
from sandbox.processes import ROOT, Process
from sandbox.state import AlreadyUp, answers, hold, is_up
from sandbox.supervisor import FENCED, Keeper, pause_seconds
from tests.waiting import until


@pytest.mark.parametrize(
    ("failures", "code", "seconds"),
    [
        (1, FENCED, 0.0),  # another held its name for a moment: at once
        (2, FENCED, 0.0),
        (3, FENCED, 0.5),  # it does not get better: like any other
        (4, FENCED, 1.0),
        (1, 1, 0.5),
        (1, 0, 0.5),  # nobody told it to end
        (2, 137, 1.0),
        (5, 1, 8.0),
        (50, 1, 30.0),  # never longer
    ],
)
def test_who_keeps_dying_waits_longer_each_time(failures: int, code: int, seconds: float) -> None:
    assert pause_seconds(failures, code) == seconds


async def test_a_killed_process_comes_back_where_it_was(tmp_path: Path) -> None:
    ports = Ports(tmp_path)
    said: list[str] = []
    settings = tmp_path / "mail.toml"
    write_private(settings, msgspec.toml.encode({"listen": ports.door("smtp"), "http": ports.door("mail")}))
    keeper = Keeper(
        Process(
            name="mail",
            module="sandbox.simulators.mail",
            settings=settings,
            door=ports.door("smtp"),
            takes_argument=True,
        ),
        tmp_path / "mail.log",
        said.append,
    )
    keeper.start()
    try:
        first = await running_pid(keeper)

        os.kill(first, signal.SIGKILL)

        assert await running_pid(keeper, other_than=first) != first
        assert keeper.seen().restarts == 1
        (line,) = said
        assert re.fullmatch(rf"mail \(process {first}\) was ended by SIGKILL after \d+ s; .* in 0.5 s", line)
    finally:
        await keeper.stop()
    assert not await answers(keeper.process.door, "")


async def test_a_process_that_died_before_it_is_stopped_leaves_no_pipe(tmp_path: Path) -> None:
    settings = tmp_path / "none.toml"
    keeper = Keeper(
        Process(
            name="none", module="sandbox.none", settings=settings, door="127.0.0.1:9", takes_argument=True
        ),
        tmp_path / "none.log",
    )
    keeper.start()
    async with asyncio.timeout(15):
        while keeper.seen().phase != "waiting":
            await asyncio.sleep(0.02)

    await keeper.stop()

    assert keeper.pid is None
    del keeper
    gc.collect()  # a pipe that is still open would say so now, and warnings are errors here


async def running_pid(keeper: Keeper, other_than: int = 0) -> int:
    """Its process id once it answers."""
    async with asyncio.timeout(15):
        while (pid := keeper.pid) in (None, other_than) or not await keeper.answers():
            await asyncio.sleep(0.02)
    assert pid is not None
    return pid


def test_a_folder_has_one_supervisor(tmp_path: Path) -> None:
    with hold(tmp_path):
        assert is_up(tmp_path)
        with pytest.raises(AlreadyUp):
            hold(tmp_path)

    assert not is_up(tmp_path)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for a sandbox of its own."""
    path = Path(tempfile.mkdtemp(prefix="canbao-test-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    canbao(path, "down")
    remove(path)
    shutil.rmtree(path, ignore_errors=True)


def test_up_brings_everything_and_a_killed_supervisor_takes_everything_along(place: Path) -> None:
    assert canbao(place, "up").returncode == 0
    state = status(place)
    assert {row["name"] for row in state["processes"]} >= {
        "kafka",
        "postgres",
        "enrollment",
        "billing",
        "payment",
    }
    assert all(row["answers"] for row in state["processes"])
    assert canbao(place, "up").returncode == 0, "up again changes nothing"
    assert status(place)["supervisor"] == state["supervisor"]
    processes = [psutil.Process(row["pid"]) for row in state["processes"]]

    os.kill(state["supervisor"], signal.SIGKILL)

    until(lambda: not any(process.is_running() for process in processes), "the end of everything", 30)
    assert canbao(place, "status").returncode == 3


@pytest.mark.timeout(120)
def test_a_server_that_was_killed_is_shown_as_starting_and_then_as_young(place: Path) -> None:
    assert canbao(place, "up").returncode == 0
    (before,) = [row for row in status(place)["processes"] if row["name"] == "kafka"]
    seen = []

    os.kill(before["pid"], signal.SIGKILL)
    killed = time.time()

    def is_back() -> bool:
        (row,) = [row for row in status(place)["processes"] if row["name"] == "kafka"]
        seen.append((time.time() - killed, row))
        return bool(row["restarts"])

    until(is_back, "kafka", 30)
    now = seen[-1][1]
    assert (now["phase"], now["left"]) == ("running", 128 + signal.SIGKILL)
    assert now["seconds"] <= seen[-1][0] + 1
    late = [row for after, row in seen[:-1] if after > 1.5]
    assert not [row for row in late if row["answers"] or row["phase"] == "running"]
    assert "kafka was ended by SIGKILL after" in canbao(place, "logs", "supervisor").stdout


def canbao(place: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A verb over that folder."""
    env = {**os.environ, "CANBAO_DATA": str(place), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments], env=env, capture_output=True, text=True, check=False
    )


def status(place: Path) -> Any:
    """What `canbao status --json` says."""
    return json.loads(canbao(place, "status", "--json").stdout)
