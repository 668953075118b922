"""What does somebody at a terminal see of the demo? Bars while it runs, one table at the end."""

import re
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from msgspec import Struct
from msgspec.json import encode
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from contracts.reasons import RETRYABLE, Reason
from sandbox.expected import Difference

STAGES = ("registered", "submitted", "reviewed", "billed", "paid", "settled", "covered", "notified")
_ZH = {
    "registered": "注册",
    "submitted": "参保登记",
    "reviewed": "经办审核",
    "billed": "核定缴费单",
    "paid": "缴费",
    "settled": "入账",
    "covered": "待遇生效",
    "notified": "通知",
    "approved": "审核通过",
    "waived": "免缴",
    "suspense": "待处理款项",
    "parked": "待修复消息",
    "forged": "伪造签名",
}
MOST_LISTED = 5
MARKS_IN_A_LINE = 10  # so that the line fits in 80 columns
COMMAND_COLUMNS = 74  # the same, indented by 4 and with a backslash at the end


class Screen:
    """Live progress on a terminal, a line every few seconds elsewhere, nothing when quiet. Use as `with`.

    targets: what each stage reaches; counts: asked for what it has reached, several times a second.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.console = Console(stderr=True)
        if not self.console.is_terminal:
            self.console.width = 140  # a log has no edge; ids stay whole
        self.quiet = quiet
        self._live: Live | None = None
        self._tasks: dict[str, Any] = {}
        self._said_at = 0.0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """No more bars."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """One line about what happens now."""
        if not self.quiet:
            self.console.print(text, highlight=False)

    def show(self, counts: dict[str, int], targets: dict[str, int]) -> None:
        """Draw where everything stands."""
        if self.quiet:
            return
        if not self.console.is_terminal:
            if time.monotonic() - self._said_at > 5:
                self._said_at = time.monotonic()
                sys.stderr.write(
                    "  ".join(f"{stage} {counts.get(stage, 0)}/{targets.get(stage, 0)}" for stage in STAGES)
                    + "\n"
                )
            return
        if self._live is None:
            self._tasks = {
                stage: self._bars.add_task(f"{stage:<11}{_ZH[stage]}", total=targets.get(stage, 0))
                for stage in STAGES
            }
            self._live = Live(self._bars, console=self.console, refresh_per_second=8)
            self._live.start()
        for stage, task in self._tasks.items():
            self._bars.update(task, completed=counts.get(stage, 0))


class Report(Struct, kw_only=True):
    """The demo's result, as `--json` prints it. Money in fen; seconds: from the first command to the last
    comparison.
    """

    citizens: int
    approved: int
    billed: int
    waived: int
    paid: int
    settled: int
    covered: int
    notified: int
    by_mail: int
    by_nobody: int
    asked_after: int
    refused: dict[str, int]
    parked: int
    forged: int
    suspense: int
    ledger_sum_fen: int
    journey: str
    seconds: float
    first_settled_seconds: float
    differences: list[Difference]
    invariants: dict[str, bool] = {}

    @property
    def expected_equal(self) -> bool:
        """Everything came out as planned."""
        return not self.differences


def final(
    report: Report,
    timeline: list[Any],
    console_url: str,
    commands: list[tuple[str, str]],
    out: Callable[[Any], None],
) -> None:
    """The table, the invariants, one citizen's timeline, where the console is, and what to try next."""
    out(_table(report))
    out(
        "every outcome as planned ✓"
        if report.expected_equal
        else "[red]outcomes differ from the plan ✗[/red]"
    )
    say_differences(report, out)
    if report.invariants:
        out("invariants 不变量 (./canbao verify says each in words):")
    marks = [f"{name} {'✓' if holds else '✗'}" for name, holds in report.invariants.items()]
    for start in range(0, len(marks), MARKS_IN_A_LINE):
        out("  " + "  ".join(marks[start : start + MARKS_IN_A_LINE]))
    for part in timeline:
        out(part)
    if console_url:
        out(f"console: {console_url}")
    out("try next:")
    for command, what in commands:
        out(Text(f"  {what}:", no_wrap=True))
        for line in fitted(command):
            out(Text(f"    {line}", no_wrap=True))


def _table(report: Report) -> Table:
    """What came out, in numbers."""
    table = Table(
        title=f"canbao demo: {report.citizens:,} citizens in {report.seconds:.1f} s", show_header=False
    )
    for name in ("approved", "billed", "waived", "paid", "settled", "covered", "notified"):
        table.add_row(f"{name} {_ZH[name]}", f"{getattr(report, name):,}")
    table.add_row("  by SMS / mail / nobody; SMS asked after", _roads(report))
    for name in ("suspense", "parked", "forged"):
        table.add_row(f"{name} {_ZH[name]}", f"{getattr(report, name):,}")
    for label, count in refusals(report.refused):
        table.add_row(f"{label} {Reason[label.rpartition(' ')[2]].zh}", f"{count:,}")
    table.add_row("ledger sum 总账合计", f"{report.ledger_sum_fen / 100:.2f} yuan")
    table.add_row("first settled payment after 首笔入账", f"{report.first_settled_seconds:.1f} s")
    return table


def _roads(report: Report) -> str:
    by_sms = report.notified - report.by_mail
    return f"{by_sms:,} / {report.by_mail:,} / {report.by_nobody:,}; {report.asked_after:,}"


def refusals(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Answers that say no for good, then those that say "try again": somebody asked too early."""
    rows = [(Reason[reason] in RETRYABLE, reason, count) for reason, count in counts.items()]
    return [
        (f"{'told to try again' if early else 'refused'} {reason}", count)
        for early, reason, count in sorted(rows)
    ]


def fitted(command: str) -> list[str]:
    """The command in lines that fit and can be pasted together: each but the last ends with a backslash."""
    lines = [""]
    for word in re.split(r" (?=--)", command):  # an option stays with its value
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if len(longer) > COMMAND_COLUMNS:
            lines[-1] += " \\"
            longer = f"  {word}"
            lines.append(longer)
        lines[-1] = longer
    return lines


def say_differences(report: Report, out: Callable[[Any], None]) -> None:
    """What came out otherwise than planned, a few members of each set."""
    for difference in report.differences:
        for what, members in (("missing", difference.missing), ("too many", difference.surplus)):
            if members:
                more = f" … and {len(members) - MOST_LISTED} more" if len(members) > MOST_LISTED else ""
                out(f"  {difference.what}, {what}: {', '.join(members[:MOST_LISTED])}{more}")


def one_line(report: Report) -> str:
    """The report as one JSON object."""
    names = (
        "citizens", "approved", "billed", "waived", "paid", "settled", "covered", "notified",
        "refused", "parked", "forged", "suspense", "ledger_sum_fen",
        "expected_equal", "invariants", "journey", "seconds",
    )  # fmt: skip
    return encode({name: getattr(report, name) for name in names}).decode()
