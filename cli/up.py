"""`canbao up`: Kafka, Postgres, the outside world and the services, in the background."""

import argparse
import subprocess
import sys
import time

from cli.place import ROOT, STACK_FOLDER, say

HELP = "start Kafka, Postgres, the services and the outside world in the background"
_WAIT_SECONDS = 300.0  # the very first start fetches Kafka
_LOOK_SECONDS = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None yet."""


def run(_: argparse.Namespace) -> int:
    """0: everything answers, also when it did before. 1: it did not come up; the last line says why."""
    from cli.status import show  # noqa: PLC0415 -- imported when needed: --help stays instant
    from sandbox.state import is_up  # noqa: PLC0415 -- as above

    if is_up(STACK_FOLDER):
        say("already up")
        return show()
    logs = STACK_FOLDER / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (STACK_FOLDER / "state.json").unlink(missing_ok=True)
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


def _follow(process: "subprocess.Popen[bytes]") -> bool:
    """Say what the supervisor says until it is ready."""
    from sandbox.state import read_state  # noqa: PLC0415 -- as above

    told, end = 0, time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < end:
        ended = process.poll() is not None
        state = read_state(STACK_FOLDER)
        for line in state.said[told:] if state else ():
            say(line)
        told = len(state.said) if state else 0
        if state and state.phase == "ready":
            return True
        if ended:
            say(f"did not come up: {state.trouble if state else 'see ./canbao logs supervisor'}")
            return False
        time.sleep(_LOOK_SECONDS)
    say(f"is not up after {_WAIT_SECONDS:.0f} s: ./canbao logs supervisor")
    return False
