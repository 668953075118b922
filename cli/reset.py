"""`canbao reset`: ends what runs and deletes its data, keys and settings."""

import argparse

from cli.place import STACK_FOLDER, is_sandbox, say

HELP = "end what runs and delete its data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None yet."""


def run(_: argparse.Namespace) -> int:
    """0: the next start is a first one. 1: something still runs. 2: the folder is not a sandbox's."""
    from cli.down import end_all  # noqa: PLC0415 -- imported when needed: --help stays instant
    from sandbox.state import AlreadyUp  # noqa: PLC0415 -- as above

    if not is_sandbox():
        say(f"{STACK_FOLDER} holds no sandbox: nothing was deleted")
        return 2
    if code := end_all():
        return code
    try:
        delete_all()
    except AlreadyUp as trouble:
        say(str(trouble))
        return 1
    say(f"deleted {STACK_FOLDER}")
    return 0


def delete_all() -> None:
    """Everything that stands in the folder, and what lies elsewhere for it. AlreadyUp: somebody uses it."""
    import shutil  # noqa: PLC0415 -- as above

    from sandbox.postgres import remove  # noqa: PLC0415 -- as above
    from sandbox.state import AlreadyUp, hold, wait_for_the_end  # noqa: PLC0415 -- as above

    STACK_FOLDER.mkdir(parents=True, exist_ok=True)
    with hold(STACK_FOLDER):
        if left := wait_for_the_end(STACK_FOLDER):
            raise AlreadyUp(f"still runs over {STACK_FOLDER}: {', '.join(left)}")
        for path in STACK_FOLDER.iterdir():  # the marks stay until the end, should somebody stop us here
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
        remove(STACK_FOLDER)
        shutil.rmtree(STACK_FOLDER, ignore_errors=True)
