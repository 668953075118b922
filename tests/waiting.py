"""How does a test wait? For a condition, with a deadline, never for a time."""

import time
from collections.abc import Callable


def until(holds: Callable[[], object], what: str = "it", seconds: float = 10) -> None:
    """Return once it holds. AssertionError when the time is over."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)
