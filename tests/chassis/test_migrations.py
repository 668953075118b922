"""Can yesterday's code run on tomorrow's shape? Expand → migrate → contract, held by reading every
revision."""

import ast
import re
from pathlib import Path

import pytest

from services.chassis.migrate import ROOT, history
from services.chassis.provision import SCHEMAS

PHASES = ("expand", "migrate", "contract")
ADVICE = (
    "code that is still running needs what this takes away: do it in a later release, in a revision that says"
    ' phase = "contract"'
)
# What breaks a member that still runs the version before.
_TIGHTENING_CALLS = frozenset(
    {"drop_table", "drop_column", "drop_constraint", "rename_table", "alter_column", "drop_index"}
)
_TIGHTENING_SQL = re.compile(
    r"\b(drop\s+(table|column|constraint|view|function|type|default)|rename|set\s+not\s+null|truncate"
    r"|alter\s+column\s+\S+\s+(set\s+data\s+)?type)\b",
    re.IGNORECASE,
)


def offences(source: str) -> list[str]:
    """What a revision does that its phase does not allow."""
    tree = ast.parse(source)
    phase = next(
        (
            node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and any(isinstance(target, ast.Name) and target.id == "phase" for target in node.targets)
        ),
        None,
    )
    if phase not in PHASES:
        return [f"says phase = {phase!r}; one of {', '.join(PHASES)} is needed"]
    if phase == "contract":
        return []
    found = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _TIGHTENING_CALLS
        ):
            found.append(f"{node.func.attr} in a phase {phase}: {ADVICE}")
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and (match := _TIGHTENING_SQL.search(node.value))
        ):
            found.append(f"{match.group()!r} in a phase {phase}: {ADVICE}")
    return found


def revisions() -> list[Path]:
    return sorted(
        file for service in SCHEMAS for file in (ROOT / "services" / service / "migrations").glob("*.py")
    )


@pytest.mark.parametrize("file", revisions(), ids=lambda file: f"{file.parts[-3]}-{file.stem}")
def test_a_revision_takes_nothing_away_before_the_contract_phase(file: Path) -> None:
    assert offences(file.read_text()) == []


@pytest.mark.parametrize("service", SCHEMAS)
def test_a_history_is_one_line_that_begins_with_the_engines_tables(service: str) -> None:
    scripts = history(service)
    assert len(scripts.get_heads()) == 1
    first = (ROOT / "services" / service / "migrations" / "0001_first.py").read_text()
    assert f'engine_ddl("{service}")' in first


@pytest.mark.parametrize(
    ("phase", "step", "refused"),
    [
        ("expand", 'op.add_column("bill", column)', False),
        ("expand", 'op.execute("create table billing.hold (id uuid primary key)")', False),
        ("expand", 'op.drop_column("bill", "note")', True),
        ("expand", 'op.alter_column("bill", "note", new_column_name="remark")', True),
        ("expand", 'op.execute("alter table billing.bill drop column note")', True),
        ("expand", 'op.execute("alter table billing.bill rename to bills")', True),
        ("expand", 'op.execute("alter table billing.bill alter column note set not null")', True),
        ("expand", 'op.execute("alter table billing.bill alter column fen type numeric")', True),
        ("migrate", 'op.execute("update billing.bill set remark = note where remark is null")', False),
        ("migrate", 'op.drop_table("bill")', True),
        ("contract", 'op.drop_column("bill", "note")', False),
        ("later", 'op.add_column("bill", column)', True),
    ],
)
def test_only_a_contract_revision_may_drop_rename_or_tighten(phase: str, step: str, refused: bool) -> None:
    source = f'revision = "0009"\nphase = "{phase}"\n\ndef upgrade() -> None:\n    {step}\n'
    assert bool(offences(source)) == refused


def test_a_revision_without_a_phase_is_refused() -> None:
    assert offences('revision = "0009"\n') == [
        "says phase = None; one of expand, migrate, contract is needed"
    ]
