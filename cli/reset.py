"""`canbao reset`: ends what runs and deletes its data, keys and settings."""

import argparse
import shutil

from cli.place import STACK_FOLDER, is_sandbox, say

HELP = "end what runs and delete its data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None yet."""


def run(_: argparse.Namespace) -> int:
    """0: the next start is a first one. 1: something still runs. 2: the folder is not a sandbox's."""
    from cli.down import end_all  # noqa: PLC0415 -- imported when needed: --help stays instant
    from sandbox.postgres import remove  # noqa: PLC0415 -- as above

    if not is_sandbox():
        say(f"{STACK_FOLDER} holds no sandbox: nothing was deleted")
        return 2
    if code := end_all():
        return code
    remove(STACK_FOLDER)
    shutil.rmtree(STACK_FOLDER, ignore_errors=True)
    say(f"deleted {STACK_FOLDER}")
    return 0
