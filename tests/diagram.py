"""How does a transition table look as a picture? The state diagrams of the READMEs are made here.

`python -m tests.diagram` writes them anew.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from services.billing import rules as billing
from services.enrollment.rules import applications, coverage
from services.notify import rules as notify
from services.payment import rules as payment

ROOT = Path(__file__).resolve().parents[1]
Targets = Mapping[Any, str | Iterable[str]]     # (state, event) -> where it leads

# (service, aggregate) -> its transition table
TABLES: dict[tuple[str, str], Targets] = {
    ("enrollment", "application"): applications.TRANSITIONS,
    ("enrollment", "coverage"): coverage.TRANSITIONS,
    ("billing", "bill"): billing.TRANSITIONS,
    ("payment", "obligation"): payment.DUE,
    ("payment", "order"): payment.ORDER,
    ("payment", "funds"): payment.FUNDS,
    ("notify", "notification"): notify.NOTIFICATION,
}


def diagram(table: Targets) -> str:
    """Mermaid; what leaves a state as it is is not drawn."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for (state, event), targets in table.items():
        reached = [targets] if isinstance(targets, str) else sorted(targets)
        lines += [f"    {_named(state)} --> {target}: {event}" for target in reached if target != state]
    return "\n".join([*lines, "```"])


def drawn(text: str, aggregate: str, table: Targets) -> str:
    """A README's text with this aggregate's diagram as the table says it."""
    mark = f"<!-- states: {aggregate} -->"
    picture = f"{mark}\n{diagram(table)}\n"
    return re.sub(f"{mark}\n.*?```\n", lambda _: picture, text, count=1, flags=re.DOTALL)


def readme(service: str) -> Path:
    """Where the diagram stands."""
    return ROOT / "services" / service / "README.md"


def _named(state: str) -> str:
    return "[*]" if state in ("NONE", "ABSENT") else state


if __name__ == "__main__":
    for (service, aggregate), table in TABLES.items():
        path = readme(service)
        path.write_text(drawn(path.read_text(encoding="utf-8"), aggregate, table), encoding="utf-8")
