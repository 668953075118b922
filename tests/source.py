"""What stands in the source? Files and their syntax trees, read once for all checks of tests/test_tidy.py."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

Kind = TypeVar("Kind", bound=ast.AST)
ROOT = Path(__file__).parent.parent
FOLDERS = ("contracts", "services", "cli", "sandbox", "bench", "tests")


@cache
def files(*folders: str) -> tuple[Path, ...]:
    """All Python files of these folders (of all, if none is named), relative to the root."""
    found = (path for folder in folders or FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return tuple(sorted(path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts))


@cache
def lines(path: Path) -> tuple[str, ...]:
    """The lines of a file."""
    return tuple((ROOT / path).read_text(encoding="utf-8").splitlines())


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file's syntax tree."""
    return tuple(ast.walk(ast.parse("\n".join(lines(path)), str(path))))


def each(path: Path, kind: type[Kind]) -> Iterator[Kind]:
    """The nodes of one kind."""
    return (node for node in nodes(path) if isinstance(node, kind))
