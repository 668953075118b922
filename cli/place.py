"""Where does this checkout keep what it runs, and how do its verbs speak to a person?"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STACK_FOLDER = Path(os.environ.get("CANBAO_DATA") or ROOT / ".canbao")


def say(line: str) -> None:
    """Progress goes to standard error: standard output is for results."""
    sys.stderr.write(f"canbao: {line}\n")
    sys.stderr.flush()
