"""How does a child process learn that its parent is gone? By the end of a pipe, on Linux and macOS alike.

Between parent and child stands a small shell whose standard input is a pipe from the parent. When the parent
ends, by SIGKILL too, the kernel closes the pipe and the shell's watcher ends the child: first kindly, then
by force.
"""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from msgspec import Struct

# $1: signal for the pipe's end; $2: tenths of a second until SIGKILL; then the command. A line on the pipe
# names another signal. The watcher survives the shell, so that killing both parent and shell leaves no
# orphan either.
_SHELL = r"""
exec 3<&0
ending=$1 tenths=$2; shift 2
"$@" </dev/null 3<&- & child=$!
{ read -r asked || asked=$ending
  kill -s "$asked" "$child"
  while [ "$tenths" -gt 0 ] && kill -0 "$child"; do sleep 0.1; tenths=$((tenths - 1)); done
  kill -s KILL "$child"
} <&3 >/dev/null 2>&1 & watcher=$!
trap 'kill -s "$ending" "$child" 2>/dev/null' TERM HUP INT
exec 3<&-
while :; do wait "$child"; code=$?; kill -0 "$child" 2>/dev/null || break; done
kill "$watcher" 2>/dev/null
exit "$code"
"""
_LINGER_SECONDS = 5.0


class OsUser(Struct, frozen=True):
    """Whom a child runs as, when the parent is root."""

    name: str
    uid: int
    gid: int


def as_popen(user: OsUser | None) -> dict[str, Any]:
    """The arguments of subprocess for this user; ours when there is none."""
    return {"user": user.uid, "group": user.gid, "extra_groups": []} if user else {}


class Child:
    """A running command that never outlives this process. Whoever lets go of one has stopped it, also one
    that ended by itself: that closes the pipe to it.

    log: where its output is appended; locked until nobody writes there any more. ending: the signal at the
    parent's end and of a plain `stop()`; grace_seconds: how long it then has before SIGKILL. env: its whole
    environment.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str],
        ending: str = "TERM",
        grace_seconds: float = 15.0,
        user: OsUser | None = None,
        cwd: str | Path = "/",
    ) -> None:
        self.grace_seconds = grace_seconds
        with log.open("ab") as out:
            with suppress(OSError):  # no file that can be locked
                fcntl.flock(out, fcntl.LOCK_SH)  # theirs for as long as one of them writes there: still_alive
            self._shell: subprocess.Popen[bytes] = subprocess.Popen(
                [
                    "/bin/sh",
                    "-c",
                    _SHELL,
                    "lifeline",
                    ending,
                    str(int(grace_seconds * 10)),
                    *map(str, command),
                ],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                **as_popen(user),
            )
        self._pid: int | None = None

    @property
    def pid(self) -> int | None:
        """The command's own process id, None once it is gone."""
        if self._pid is None:
            try:
                shell = psutil.Process(self._shell.pid)
                own = shell.cmdline()  # the watcher is a fork of the shell and has its command line
                self._pid = next((c.pid for c in shell.children() if c.cmdline() not in (own, [])), None)
            except psutil.Error:
                return None
        return self._pid if self.poll() is None else None

    @property
    def known_pid(self) -> int | None:
        """The command's process id as it was last known, also once it is gone."""
        return self._pid

    def poll(self) -> int | None:
        """The command's exit code (128 + n when signal n ended it), None while it runs."""
        return self._shell.poll()

    def stop(self, how: str | None = None) -> int:
        """End it and wait; its exit code. how: a signal's name instead of the usual one."""
        self.ask_to_stop(how)
        try:
            return self._shell.wait(self.grace_seconds + _LINGER_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._shell.pid, signal.SIGKILL)
            return self._shell.wait()

    def ask_to_stop(self, how: str | None = None) -> None:
        """Begin its end without waiting for it."""
        pipe = self._shell.stdin
        assert pipe is not None
        try:
            if how:
                pipe.write(how.encode() + b"\n")
            pipe.close()
        except (BrokenPipeError, ValueError):
            pass  # it has ended by itself, or was asked before


def end_with_parent() -> None:
    """End this process when its standard input, a pipe from whoever started it, ends."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def wait_until_gone(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still live when the time is over."""
    end = time.monotonic() + seconds
    alive = list(processes)
    while alive and time.monotonic() < end:
        alive = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        time.sleep(0.005)  # they are nobody's children here: no event
    return alive
