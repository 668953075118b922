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
    """Tell the supervisor to end, and wait until all that it started has ended too."""
    from sandbox.state import is_up, still_alive, wait_for_the_end  # noqa: PLC0415 -- imported when needed: --help stays instant

    held = is_up(STACK_FOLDER)
    if not held and not still_alive(STACK_FOLDER):
        say("nothing runs here")
        return 0
    if held and (wrong := _end_supervisor()):
        say(wrong)
        return 1
    if left := wait_for_the_end(STACK_FOLDER):
        say(f"does not end: {', '.join(left)}")
        return 1
    say("down")
    return 0


def _end_supervisor() -> str:
    """What is in the way, or nothing: it is gone and its folder is free."""
    import psutil  # noqa: PLC0415 -- as above

    from sandbox.lifeline import wait_until_gone  # noqa: PLC0415 -- as above
    from sandbox.state import is_up, read_state  # noqa: PLC0415 -- as above

    state = read_state(STACK_FOLDER)
    if state is None:
        return f"another program holds {STACK_FOLDER}"
    try:
        supervisor = psutil.Process(state.pid)
        os.kill(state.pid, signal.SIGTERM)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return f"{STACK_FOLDER} is held by another program, a demo perhaps: end that one"
    end = time.monotonic() + _WAIT_SECONDS
    left = wait_until_gone([supervisor], _WAIT_SECONDS)
    while is_up(STACK_FOLDER) and time.monotonic() < end:
        time.sleep(0.05)    # another process lets go of a lock: no event
    if left or is_up(STACK_FOLDER):
        return f"process {state.pid} does not end; kill -9 {state.pid} ends it and all it started"
    return ""
