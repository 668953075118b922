"""Where does this checkout keep what it runs, and how do its verbs speak to a person?"""

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.stack import Stack

ROOT = Path(__file__).resolve().parent.parent
STACK_FOLDER = Path(os.environ.get("CANBAO_DATA") or ROOT / ".canbao")

NOTHING_RUNS = "nothing runs here: ./canbao up starts it"


class NothingRuns(Exception):
    """No Kafka or no Postgres answers where the last stack of this folder had them."""

    def __init__(self) -> None:
        super().__init__(NOTHING_RUNS)


def no_folder() -> str:
    """Why the data cannot stand where they should, or nothing."""
    there = next(path for path in (STACK_FOLDER, *STACK_FOLDER.absolute().parents) if path.exists())
    return "" if there.is_dir() else f"the data cannot stand in {STACK_FOLDER}: {there} is no folder"


def is_sandbox() -> bool:
    """Whether what stands in the folder is a sandbox's, or nothing at all: only that may be deleted."""
    try:
        there = {path.name for path in STACK_FOLDER.iterdir()}
    except FileNotFoundError:
        return True
    marks = {"ports.json", "secrets.json", "stack.toml", "state.json"}
    bare = {"postgres", "socket"}  # without a file: made by somebody who only looked, or was stopped at once
    if any(path.is_file() for name in bare for path in (STACK_FOLDER / name).rglob("*")):
        bare = set()
    return there <= {"bench", "lock", "logs", "torture"} | bare or not there.isdisjoint(marks)


async def running_stack() -> "Stack":
    """The stack, once it has answered. Raises NothingRuns: known before a client is made that would
    complain.
    """
    from sandbox.stack import Stack  # noqa: PLC0415 -- imported when needed: --help stays instant
    from sandbox.state import answers  # noqa: PLC0415 -- as above

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the verb says itself what is wrong
    try:
        stack = Stack.recall(STACK_FOLDER)
    except FileNotFoundError:
        raise NothingRuns from None
    doors = (stack.kafka_bootstrap.partition(",")[0], f"{stack.pg_host}:{stack.pg_port}")
    if not all(await asyncio.gather(*(answers(door, "") for door in doors))):
        raise NothingRuns
    return stack


def say(line: str) -> None:
    """Progress goes to standard error: standard output is for results."""
    sys.stderr.write(f"canbao: {line}\n")
    sys.stderr.flush()
