"""`canbao test`: the whole proof, or the part that is named."""

import argparse
import os
from pathlib import Path

HELP = "run the tests; further arguments go to pytest"
TAKES_REST = True
ROOT = Path(__file__).resolve().parent.parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """pytest reads its own."""
    parser.usage = "canbao test [pytest arguments]"


def run(args: argparse.Namespace) -> int:
    """pytest's exit code."""
    import pytest  # noqa: PLC0415 -- imported when needed: --help stays instant

    os.chdir(ROOT)
    return int(pytest.main(args.rest))
