"""`canbao logs NAME`: what a process of the sandbox wrote."""

import argparse
import sys
import time
from collections import deque

from cli.place import STACK_FOLDER, say

HELP = "print a process's log"
_LOOK_SECONDS = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "name", nargs="?", help="kafka, postgres, supervisor, a service or a simulator; none: list them"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on as it grows, until Ctrl-C")
    parser.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="the last N lines (100)")


def run(args: argparse.Namespace) -> int:
    """0: printed. 1: nothing has run here. 2: there is no such log."""
    if args.lines < 1:
        say(f"-n {args.lines}: expected 1 line or more")
        return 2
    logs = {path.stem: path for path in (*STACK_FOLDER.glob("*.log"), *(STACK_FOLDER / "logs").glob("*.log"))}
    if not logs:
        say("nothing has run here: ./canbao up starts it")
        return 1
    if args.name not in logs:
        unknown = f"there is no log of {args.name!r}; " if args.name else ""
        say(f"{unknown}there is {', '.join(sorted(logs))}")
        return 2 if args.name else 0
    with logs[args.name].open(errors="replace") as file:
        sys.stdout.writelines(deque(file, maxlen=min(args.lines, sys.maxsize)))
        while args.follow:
            sys.stdout.write(file.read())
            sys.stdout.flush()
            time.sleep(_LOOK_SECONDS)   # until Ctrl-C; a file that grows raises no event everywhere
    return 0
