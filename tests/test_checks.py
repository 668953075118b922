"""Do the outside checks pass: linter, types, imports, declared dependencies? And can each import contract
fail at all?
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.source import ROOT, files

BIN = Path(sys.executable).parent
IMPORT_CONTRACTS = [
    c["name"]
    for c in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
]


def run(*command: str, at: Path = ROOT) -> tuple[int, str]:
    """Exit code and all that a tool says, without colours."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "PYTHONPATH": str(at)}
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=at,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", [
    ("ruff", "check", "--output-format=concise"),
    ("mypy",),
    ("lint-imports", "--no-cache"),
    ("deptry", ".", "--no-ansi"),
], ids=lambda command: command[0])
def test_the_check_finds_nothing(command: tuple[str, ...]) -> None:
    code, said = run(*command)

    assert code == 0, said


@pytest.mark.timeout(300)
def test_every_branch_of_every_rule_is_taken_by_a_row_of_a_table(tmp_path: Path) -> None:
    # tests of these need servers
    others = (
        "handlers",
        "gateway",
        "callbacks",
        "counter",
        "locks",
        "journeys",
        "page",
        "api",
        "store",
        "read_model",
    )
    folders = {path.parts[1] for path in files("services") if len(path.parts) > 2} - {"chassis"}
    tables = [str(path) for path in files(*(f"tests/{name}" for name in sorted(folders)))
              if path.name.startswith("test_") and not path.stem.endswith(others)]
    data = f"--data-file={tmp_path / 'coverage'}"

    code, said = run("coverage", "run", data, "-m", "pytest", "-q", "--noconftest", *tables)
    assert code == 0, said

    code, said = run("coverage", "report", data)
    assert code == 0, said


TOOLS, SAME_FILES, PURE, TABLES, CONTRACTS, SHELL = range(6)
BREAKS = [     # (which contract, file, what stands in it)
    (TOOLS, "services/billing/store.py", "import services.payment.store"),
    (TOOLS, "services/chassis/refs.py", "import services.billing.rules"),
    (TOOLS, "services/notify/store.py", "import sandbox.people"),
    (TOOLS, "contracts/billing.py", "import services.chassis.ids"),
    (SAME_FILES, "services/billing/store.py", "import services.billing.handlers"),
    (SAME_FILES, "services/payment/gateway/__init__.py", "import services.payment.store"),
    (SAME_FILES, "services/enrollment/utils.py", ""),
    (PURE, "services/billing/rules.py", "import services.chassis.ids"),
    (PURE, "services/notify/rules/words.py", "import time"),
    (TABLES, "services/enrollment/handlers.py", "import services.enrollment.tables"),
    (TABLES, "services/payment/gateway/__init__.py", "import services.payment.tables"),
    (TABLES, "sandbox/city.py", "import services.billing.tables"),
    (CONTRACTS, "contracts/reasons.py", "import sqlmodel"),
    (CONTRACTS, "contracts/policy/__init__.py", "import asyncio"),
    (SHELL, "services/payment/handlers.py", "import asyncpg"),
    (SHELL, "services/notify/gateway.py", "import aiokafka"),
]


@pytest.mark.parametrize(("contract", "file", "line"), BREAKS)
def test_an_import_contract_notices_when_it_is_broken(
    tmp_path: Path, contract: int, file: str, line: str
) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("contracts", "services", "sandbox", "bench", "cli"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.json", "*.md")
        )
    with (tmp_path / file).open("a", encoding="utf-8") as target:
        target.write(f"\n{line}\n")

    code, said = run("lint-imports", "--no-cache", "--no-logo", at=tmp_path)

    assert code != 0
    assert f"{IMPORT_CONTRACTS[contract]} BROKEN" in " ".join(said.split())


def test_every_import_contract_was_broken_once_above() -> None:
    assert {contract for contract, _, _ in BREAKS} == set(range(len(IMPORT_CONTRACTS)))
