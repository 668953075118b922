"""`canbao down`: ends what `up` started; data stay."""

import argparse
import os
import signal
import time

from cli.place import STACK_FOLDER, say

HELP = "end what up started; data stay"
_WAIT_SECONDS = 90.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None yet."""


def run(_: argparse.Namespace) -> int:
    """0: nothing runs any more. 1: it does not end."""
    return end_all()


def end_all() -> int:
    """Tell the supervisor to end, and wait until its folder is free."""
    import psutil  # noqa: PLC0415 -- imported when needed: --help stays instant

    from sandbox.state import is_up, read_state  # noqa: PLC0415 -- as above

    if not is_up(STACK_FOLDER):
        say("nothing runs here")
        return 0
    state = read_state(STACK_FOLDER)
    if state is None:
        say(f"another program holds {STACK_FOLDER}")
        return 1
    try:
        os.kill(state.pid, signal.SIGTERM)
    except ProcessLookupError:
        say(f"{STACK_FOLDER} is held by another program, a demo perhaps: end that one")
        return 1
    end = time.monotonic() + _WAIT_SECONDS
    while is_up(STACK_FOLDER) or psutil.pid_exists(state.pid):
        if time.monotonic() > end:
            say(f"process {state.pid} does not end; kill -9 {state.pid} ends it and all it started")
            return 1
        time.sleep(0.05)
    say("down")
    return 0
