"""What can `canbao` do? Finds the verb, reads its arguments, runs it; wrong input: one line and exit code
2.
"""

# ruff: noqa: E402 -- a Ctrl-C while the rest loads ends us quietly

import os
import signal
import sys


def _end(*_: object) -> None:
    os._exit(130)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # ./canbao has blocked it meanwhile

import argparse
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from cli.place import no_folder

VERBS = (
    "demo",
    "up",
    "down",
    "status",
    "reset",
    "logs",
    "test",
    "bench",
    "torture",
    "simulate",
    "push",
    "fuzz",
    "tail",
    "trace",
    "verify",
    "topics",
    "doctor",
)
FOLDER = Path(__file__).parent


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the long usage is one --help away."""

    def error(self, message: str) -> NoReturn:  # type: ignore[explicit-override]  # typing has it from 3.12 on
        """Exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str]) -> int:
    """The exit code of the verb."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in _present():
        sys.stderr.write(
            f"canbao: there is no {verb!r}; it can {', '.join(_present())} (see canbao --help)\n"
        )
        return 2
    module = _module(verb)
    parser = Parser(prog=f"canbao {verb}", description=module.HELP, allow_abbrev=False)
    module.add_arguments(parser)
    if getattr(module, "TAKES_REST", False):
        args, others = parser.parse_known_args(rest)
        args.rest = others
    else:
        args = parser.parse_intermixed_args(rest)  # options may stand before a file that may be left out
    if wrong := no_folder():
        sys.stderr.write(f"canbao {verb}: {wrong}\n")
        return 2
    return int(module.run(args))


def _said(error: OSError) -> str:
    """What is wrong with which file, in one line."""
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error or type(error).__name__}".replace("\n", " ")


def _present() -> list[str]:
    return [verb for verb in VERBS if (FOLDER / f"{verb}.py").exists()]


def _module(verb: str) -> ModuleType:
    """Verbs import what is heavy inside `run`, so that their own help is there at once too."""
    return importlib.import_module(f"cli.{verb}")


def _help(verb: str) -> str:
    """The verb's HELP, read and not imported: the overview is shown before anything is installed."""
    found = re.search(r'^HELP = "(.*)"$', (FOLDER / f"{verb}.py").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def _overview() -> str:
    lines = [f"  {verb:<8} {_help(verb)}" for verb in _present()]
    return "usage: canbao VERB [arguments]\n\n" + "\n".join(lines) + "\n\ncanbao VERB --help says more.\n"


def _speak_safely() -> None:
    """Whoever started us may have closed our output, or reads less than Unicode."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        getattr(sys, name).reconfigure(errors="backslashreplace")


def _run() -> int:
    """The exit code, whatever ends the verb."""
    try:
        if signal.getsignal(signal.SIGINT) is _end:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the verb may have something to end
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0  # whoever read our output has what he wanted
    except OSError as error:  # a disk that is full, a folder that is not ours: nobody's bug
        sys.stderr.write(f"canbao: {_said(error)}\n")
        return 2
    return code


def _leave(code: int) -> NoReturn:
    """Python flushes once more at its end, and complains when nobody reads."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    _speak_safely()
    _leave(_run())
