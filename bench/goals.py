"""What did we set out to reach, and by how much does it fall short?"""

from collections.abc import Mapping
from typing import Any, NamedTuple

Figures = Mapping[str, Any]  # of one measurement
_DIGITS = range(3, 9)  # as many as tell a figure that falls short from its bound


class Goal(NamedTuple):
    """of: the measurement and the path to its figure. at_least: or else at most."""

    what: str
    of: tuple[str, ...]
    bound: float
    at_least: bool = False
    unit: str = ""


class Reached(NamedTuple):
    """value: None: not measured."""

    goal: Goal
    value: float | None

    @property
    def met(self) -> bool:
        """Whether it is within its bound."""
        if self.value is None:
            return False
        return self.value >= self.goal.bound if self.goal.at_least else self.value <= self.goal.bound

    @property
    def text(self) -> str:
        """A line for people."""
        goal, value = self.goal, self.value
        bound = f"{'≥' if goal.at_least else '≤'} {goal.bound:g}{goal.unit}"
        if value is None:
            return f"– {goal.what}: not measured, {bound} wanted"
        if self.met:
            return f"✓ {goal.what}: {value:.3g}{goal.unit}, {bound} wanted"
        shown = next((text for n in _DIGITS if float(text := f"{value:.{n}g}") != goal.bound), f"{value}")
        short = f"{abs(value - goal.bound):.3g}{goal.unit} short"
        return f"✗ {goal.what}: {shown}{goal.unit}, {bound} wanted; {short}"


_END_TO_END = ("latency", "levels")
GOALS = (
    Goal("roofline fraction, CPU of raw ÷ ours", ("pipeline", "roofline_fraction"), 0.75, at_least=True),
    Goal("WAL, ours ÷ raw's", ("exact", "wal_ratio"), 1.05),
    Goal("processors at 50 BT/s", ("latency", "cores_at_50"), 0.5),
    Goal(
        "throughput with tracing ÷ without", ("drills", "tracing_on_by_off", "bt_per_s"), 0.97, at_least=True
    ),
    Goal("CPU over large tables ÷ small ones", ("flatness", "cpu_ratio"), 1.10),
    Goal("end to end, p50 at 10 % of the maximum", (*_END_TO_END, "10%", "e2e_ms", "p50"), 100, unit=" ms"),
    Goal("end to end, p99 at 50 % of the maximum", (*_END_TO_END, "50%", "e2e_ms", "p99"), 300, unit=" ms"),
    Goal("a killed worker is back after", ("drills", "killed", "seconds"), 5, unit=" s"),
    Goal("peak memory of a service's process", ("latency", "most_pss_mb"), 250, unit=" MB"),
    Goal("peak memory with a backlog ÷ without", ("drills", "drain", "pss_ratio"), 1.10),
)


def reached(measured: Mapping[str, Figures]) -> list[Reached]:
    """Every goal, with what was measured. measured: figures by measurement."""
    return [Reached(goal, _figure(measured, goal.of)) for goal in GOALS]


def _figure(measured: Mapping[str, Figures], path: tuple[str, ...]) -> float | None:
    here: Any = measured
    for step in path:
        if step not in here:
            return None
        here = here[step]
    return float(here)
