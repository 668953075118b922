"""What runs over a folder? Its supervisor writes it down; whoever asks reads it without loading what runs."""

import asyncio
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
from msgspec import Struct

Phase = Literal["starting", "running", "waiting", "stopped"]
Course = Literal["starting", "ready", "stopping", "stopped", "failed"]

_TRIES = 5
END_SECONDS = 60.0  # longer than any process is given to end before it is killed


class AlreadyUp(RuntimeError):
    """Another supervisor holds this folder, or what it started has not ended."""


class Seen(Struct, frozen=True, kw_only=True):
    """One process as the others may know it. since: system clock, seconds. left: its last exit code."""

    name: str
    phase: Phase
    pid: int | None
    restarts: int
    since: float
    door: str = ""
    path: str = ""
    left: int | None = None


class State(Struct, frozen=True, kw_only=True):
    """What state.json says. phase: ready once every process has answered. said: progress. trouble: why it
    ended.
    """

    pid: int
    phase: Course
    said: list[str]
    processes: list[Seen]
    trouble: str = ""

    @property
    def lives(self) -> bool:
        """Whether who wrote it still lives."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


def hold(folder: Path) -> IO[str]:
    """The folder's lock, until it is closed or this process ends. AlreadyUp: somebody else has it."""
    held = (folder / "lock").open("a")
    for _ in range(_TRIES):
        if not _is_locked(held):
            return held
        time.sleep(0.01)  # who only looks whether it is free has it for a moment
    held.close()
    raise AlreadyUp(f"a sandbox already runs over {folder}: ./canbao down ends it")


def _is_locked(file: IO[Any]) -> bool:
    """Whether somebody else has its lock; else it is ours until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def is_up(folder: Path) -> bool:
    """Whether a supervisor holds this folder."""
    try:
        held = (folder / "lock").open()
    except FileNotFoundError:
        return False
    with held:
        return _is_locked(held)


def phase_of(folder: Path) -> Course | None:
    """How far its supervisor is; None: none holds the folder. One that has not said so yet is starting."""
    state, up = read_state(folder), is_up(folder)
    return (state.phase if state and state.lives else "starting") if up else None


def still_alive(folder: Path) -> list[str]:
    """Whose processes over this folder have not ended yet, whoever started them: they hold their logs."""
    alive = []
    for log in sorted((*folder.glob("*.log*"), *(folder / "logs").glob("*.log*"))):
        with suppress(FileNotFoundError), log.open() as file:
            if _is_locked(file):
                alive.append(log.name.partition(".")[0])
    return alive


def wait_for_the_end(folder: Path, seconds: float = END_SECONDS) -> list[str]:
    """Wait until all that ran over this folder has ended; who has not when the time is over."""
    end = time.monotonic() + seconds
    while (left := still_alive(folder)) and time.monotonic() < end:
        time.sleep(0.02)  # they are not our children: no event
    return left


def read_state(folder: Path) -> State | None:
    """What the folder's last supervisor wrote; None when there was none."""
    try:
        return msgspec.json.decode((folder / "state.json").read_bytes(), type=State)
    except FileNotFoundError:
        return None


async def answers(door: str, path: str) -> bool:
    """Whether somebody answers at host:port, with a 200 if a path is given."""
    host, _, port = door.rpartition(":")
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                if not path:
                    return True
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {door}\r\nConnection: close\r\n\r\n".encode())
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):  # ValueError: there is no port in it
        return False
