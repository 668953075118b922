"""How is said what came of it? A table for a terminal, JSON, and sections of docs/reliability.md."""

import re
from collections import Counter
from pathlib import Path

from msgspec.json import encode

from tests.faults.plan import ROUNDS, Report

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
_HEAD = """# Reliability, measured

Written by the tools that measure it; each section names the command that repeats it. Services, Kafka and
Postgres are real processes. The payment provider, the SMS gateway and the mail server are simulators that
keep books of their own, and their books are compared with ours.

n clean runs bound the failure rate at about 3/n (95 %): 300 kills without a loss say "fewer than 1 kill in
100 loses anything", not "never".
"""


def as_json(report: Report) -> str:
    """One object in one line."""
    return encode({**_plain(report), "kills": report.kills}).decode() + "\n"


def _plain(report: Report) -> dict[str, object]:
    return {name: getattr(report, name) for name in report.__struct_fields__}


def as_text(report: Report) -> str:
    """For a person at a terminal."""
    lines = [f"{n:>6}  {what}" for what, n in report.faults.items()]
    lines += [f"{n:>6}  … {what}" for what, n in report.points.items()]
    lines.append(
        f"{report.citizens} citizens, {report.payments} payments, {report.facts} facts, {report.kills} kills"
        f" in {report.seconds:.0f} s; quiet {report.heal_seconds:.0f} s after the last fault;"
        f" {report.replayed} records read again"
    )
    if report.missed:
        lines.append(f"not done, nobody came by: {_missed(report)}")
    lines += [f"NOT SO: {wrong}" for wrong in report.wrong] or ["0 lost, 0 doubled, every invariant holds"]
    return "\n".join(lines) + "\n"


def keep(command: str, report: Report) -> None:
    """Write the figures of a run into docs/reliability.md. command: what repeats it."""
    write_section(command, _section(command, report))


_CLEAN = """**0 lost, 0 doubled.** As sets: topics = outboxes, inboxes = what was said to them, receipts and
ledger = the provider's book, SMS and mails = the gateways' books, every citizen's end = the plan. Every
invariant of `./canbao verify` holds. A replay of all facts from offset 0 changed no row."""


def _section(command: str, report: Report) -> str:
    kills, payments = max(1, report.kills), max(1, report.payments)
    rounds = "1 round" if command.endswith("--quick") else f"{ROUNDS} rounds"
    head = (
        f"`./{command}` ({report.rounds} of {rounds}, {report.at}, {report.seconds:.0f} s): {report.citizens}"
        f" citizens,\n{report.payments} payments, {report.facts} facts. {report.kills} kills bound the"
        f" failure rate at {300 / kills:.1f} % a kill, the payments at {300 / payments:.2f} % a payment."
    )
    after = (
        f"After the last fault everything had ended within {report.heal_seconds:.0f} s. {report.replayed}"
        f" records were read\nagain from offset 0; {report.repeats} records stand twice in a topic.\n"
        f"Planned and not done, because nobody came by: {_missed(report)}."
    )
    verdict = "\n".join(f"- **{wrong}**" for wrong in report.wrong) or _CLEAN
    faults, points = _table("fault", report.faults), _table("killed at the point", report.points)
    return "\n\n".join((f"## A city under fire: {command}", head, faults, points, after, verdict))


def _missed(report: Report) -> str:
    """With how often, where there were several rounds."""
    times = Counter(report.missed)
    return "; ".join(f"{what} ({n})" if n > 1 else what for what, n in sorted(times.items())) or "none"


def _table(what: str, rows: dict[str, int]) -> str:
    return "\n".join((f"| {what} | n |", "|---|---|", *(f"| {name} | {n} |" for name, n in rows.items())))


def write_section(name: str, text: str) -> None:
    """Replace one tool's section of the page, or add it."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else _HEAD
    begin, finish = f"<!-- {name} -->", f"<!-- end of {name} -->"
    section = f"{begin}\n{text.strip()}\n{finish}"
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(finish)}", re.DOTALL)
    page = found.sub(lambda _: section, page) if found.search(page) else f"{page.rstrip()}\n\n{section}\n"
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page, encoding="utf-8")
