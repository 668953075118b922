"""Which bugs are planted to see whether they are found? Patches of source text, applied in a check's process
only.

Each of `bugs.toml` replaces one passage of one file, when a process that was told so imports it.
"""

import importlib.abc
import importlib.machinery
import sys
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import msgspec
from msgspec import Struct
from typing_extensions import override

ROOT = Path(__file__).resolve().parents[2]


class Bug(Struct, frozen=True, kw_only=True):
    """file: below the checkout; old stands there exactly once. breaks: which promise goes with it.

    by: whose it is to find it: "city" (the real services and a city) or "toy" (handlers that fail). under:
    fields of the plan that shall find it: which faults, how often; empty: a city under no fire finds it.
    """

    name: str
    breaks: str
    file: str
    old: str
    new: str
    by: str = "city"
    under: dict[str, Any] = {}

    @property
    def module(self) -> str:
        """By which name it is imported."""
        return self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def patched(self) -> str:
        """The file with the bug in it. AssertionError: the passage is not there, or there twice."""
        source = (ROOT / self.file).read_text(encoding="utf-8")
        assert source.count(self.old) == 1, (
            f"{self.name}: {self.file} has {source.count(self.old)} times {self.old!r}"
        )
        return source.replace(self.old, self.new)


@cache
def all_bugs() -> dict[str, Bug]:
    """By name, in the order of the file."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    found = msgspec.convert(tomllib.loads(text)["bug"], list[Bug])
    return {bug.name: bug for bug in found}


class _Planted(SourceFileLoader):
    def __init__(self, bug: Bug, path: str) -> None:
        super().__init__(bug.module, path)
        self._bug = bug

    @override
    def get_code(self, fullname: str) -> CodeType:
        """Compiled anew each time: a bug never enters a cache."""
        return compile(self._bug.patched(), self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, bug: Bug) -> None:
        self._bug = bug

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Ours only for the module of the bug."""
        if fullname != self._bug.module:
            return None
        spec = PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Planted(self._bug, spec.origin)
        return spec


def plant(name: str) -> None:
    """In this process, before the module is imported. AssertionError: it was imported already."""
    bug = all_bugs()[name]
    assert bug.module not in sys.modules, f"{bug.module} is imported already"
    sys.meta_path.insert(0, _Finder(bug))
