"""`canbao up`: Kafka, Postgres, the outside world and the services, in the background."""

import argparse
import subprocess
import sys
import time

from cli.place import ROOT, STACK_FOLDER, say

HELP = "start Kafka, Postgres, the services and the outside world in the background"
_WAIT_SECONDS = 300.0  # the very first start fetches Kafka
_END_SECONDS = 90.0
_LOOK_SECONDS = 0.05    # at what another process writes down: no event


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None yet."""


def run(_: argparse.Namespace) -> int:
    """0: everything answers, also when it did before. 1: it did not come up; the last line says why. 130:
    Ctrl-C, and what was begun has ended.
    """
    try:
        return _up()
    except KeyboardInterrupt:
        sys.stderr.write("canbao up: stopped\n")
        return 130


def _up() -> int:
    from cli.status import show  # noqa: PLC0415 -- imported when needed: --help stays instant
    from sandbox.state import is_up, phase_of  # noqa: PLC0415 -- as above

    if phase_of(STACK_FOLDER) in {"stopping", "stopped", "failed"}:
        say("what runs here is ending: waiting for its end")
        end = time.monotonic() + _END_SECONDS
        while is_up(STACK_FOLDER) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
    if is_up(STACK_FOLDER):
        if phase_of(STACK_FOLDER) == "ready":
            say("already up")
            return show()
        return show() if _follow(None) else 1
    logs = STACK_FOLDER / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sandbox.supervisor", str(STACK_FOLDER)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        return show() if _follow(process) else 1
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def _follow(process: "subprocess.Popen[bytes] | None") -> bool:
    """Say what the supervisor says until it is ready. None: another one's, who was first."""
    from sandbox.state import is_up, read_state  # noqa: PLC0415 -- as above

    told, end = 0, time.monotonic() + _WAIT_SECONDS
    if process is None:
        say("somebody else is starting it already")
    while time.monotonic() < end:
        ended = process.poll() is not None if process else not is_up(STACK_FOLDER)
        if process and ended and is_up(STACK_FOLDER):
            return _follow(None)
        state = read_state(STACK_FOLDER)
        if state and not (state.pid == process.pid if process else state.lives):
            state = None  # what an earlier one left
        for line in state.said[told:] if state else ():
            say(line)
        told = len(state.said) if state else 0
        if state and state.phase == "ready" and not ended:
            return True
        if ended:
            why = state.trouble if state else ""
            say(f"did not come up: {why or 'it was told to end, or see ./canbao logs supervisor'}")
            return False
        time.sleep(_LOOK_SECONDS)
    say(f"is not up after {_WAIT_SECONDS:.0f} s: ./canbao logs supervisor")
    return False
