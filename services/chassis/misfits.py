"""What in a message fits its contract's types and still no row, and which field is meant?"""

import re
from typing import Any

from msgspec import Struct, to_builtins

_FIRST_YEAR, _LAST_YEAR = 1990, 2200
# What Postgres takes in no text; and what the `$` of our patterns lets pass, as Python reads it.
_UNWRITABLE = re.compile(rb'\\u0000|\\(?:n|u000[aA])"')


def misfit(message: Struct, instants: tuple[str, ...], value: bytes) -> str:
    """What is wrong with a decoded message, in the decoder's own form; empty: nothing. instants: its fields
    that hold one. value: its bytes.
    """
    for name in instants:
        if not _FIRST_YEAR <= getattr(message, name).year <= _LAST_YEAR:
            return f"an instant between {_FIRST_YEAR} and {_LAST_YEAR} - at `$.{name}`"
    if b"\\" in value and _UNWRITABLE.search(value):
        return f"a NUL character, or a line break behind a text - at `${_unwritable(to_builtins(message))}`"
    return ""


def path(error: str) -> str:
    """Which field the decoder means: items[0].version. Empty: none that it could name."""
    what, _, place = error.partition(" - at `$")
    missing = what.partition("required field `")[2].rstrip("`")
    return (place.rstrip("`") + (missing and f".{missing}")).removeprefix(".")


def _unwritable(item: Any) -> str:
    """The path of the first such text; empty: it stands in no field of the contract."""
    inner = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    for step, value in inner:
        here = f"[{step}]" if isinstance(step, int) else f".{step}"
        if isinstance(value, str) and ("\0" in value or value.endswith("\n")):
            return here
        if found := _unwritable(value):
            return here + found
    return ""
