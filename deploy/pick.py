"""Which lines of the hashed lock does an image need? `python pick.py IMAGE` beside images.toml and the lock.

What a package needs itself is read from the lock's own `# via` remarks, so nothing is resolved again: an
image gets exactly the versions and hashes that the tests ran with. Standard library only: it runs before
anything is installed.
"""

import re
import sys
import tomllib
from pathlib import Path

_PIN = re.compile(r"(?m)^([a-z0-9][a-z0-9._-]*)==")
_VIA = re.compile(r"(?m)^    # +(?:via )?([a-z0-9][a-z0-9._-]*)$")


def wanted(images: str, image: str) -> list[str]:
    """The packages that images.toml names for an image, or for "chassis". KeyError: no such image."""
    table = tomllib.loads(images)
    if image == "chassis":
        return list(table["chassis"])
    if image in table["services"]:
        return [*table["chassis"], *table["services"][image]]
    return list(table["tools"][image])


def pick(lock: str, names: list[str]) -> str:
    """The part of the lock with these packages and everything they need. KeyError: one is not locked."""
    starts = [found.start() for found in _PIN.finditer(lock)]
    pins = [lock[start:end] for start, end in zip(starts, [*starts[1:], len(lock)], strict=True)]
    by_name = {pin.partition("==")[0]: pin for pin in pins}
    needs: dict[str, list[str]] = {name: [] for name in by_name}
    for name, pin in by_name.items():
        for parent in set(_VIA.findall(pin)) & set(by_name):
            needs[parent].append(name)
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += needs[name]
    return "".join(by_name[name] for name in sorted(found))


if __name__ == "__main__":
    here = Path(__file__).parent
    asked = wanted((here / "images.toml").read_text(), sys.argv[1])
    sys.stdout.write(pick((here / "requirements.lock").read_text(), asked))
