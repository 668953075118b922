"""How much processor time did each part use? Whole process trees, from /proc, in nanoseconds."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

PROC = Path("/proc")
CORES = os.cpu_count() or 1
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_BUSY = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq in the first line of /proc/stat


class Use(Struct, frozen=True):
    """One process as it stands. own_ns: all its threads; reaped_ns: children that ended and were waited
    for.
    """

    pid: int
    parent: int
    own_ns: int
    reaped_ns: int


class Clock(Struct, frozen=True):
    """Everybody's processor time at one instant. busy_ns: all processors together. uses: by process id."""

    at_ns: int
    busy_ns: int
    uses: dict[int, Use]


class Spent(Struct, frozen=True):
    """Between two instants. by_part: nanoseconds by part; foreign_ns: whatever else ran on this machine."""

    wall_ns: int
    by_part: dict[str, int]
    foreign_ns: int

    @property
    def foreign_share(self) -> float:
        """Foreign work as a share of all that the machine could have done."""
        return self.foreign_ns / (self.wall_ns * CORES)


def read_clock(at_ns: int) -> Clock:
    """Now. at_ns: of the caller's clock."""
    busy = _busy_ns()
    uses = {}
    for entry in os.scandir(PROC):
        if entry.name.isdigit() and (use := _use(int(entry.name))) is not None:
            uses[use.pid] = use
    return Clock(at_ns, busy, uses)


def tree_ns(clock: Clock, root: int, *, without: Collection[int] = ()) -> int:
    """Processor time of a process and of all its descendants, living or waited for, since each began.

    without: processes whose own time does not count.
    """
    children: dict[int, list[Use]] = {}
    for use in clock.uses.values():
        children.setdefault(use.parent, []).append(use)
    total, todo = 0, [clock.uses[root]] if root in clock.uses else []
    while todo:
        use = todo.pop()
        total += (0 if use.pid in without else use.own_ns) + use.reaped_ns
        todo += children.get(use.pid, [])
    return total


def spent(
    before: Clock, after: Clock, parts: Mapping[str, Iterable[int]], *, without: Collection[int] = ()
) -> Spent:
    """What each part used. parts: the roots of its process trees. without: processes that count as foreign
    to all.
    """
    by_part = {
        name: sum(
            tree_ns(after, root, without=without) - tree_ns(before, root, without=without) for root in roots
        )
        for name, roots in parts.items()
    }
    busy = after.busy_ns - before.busy_ns
    return Spent(after.at_ns - before.at_ns, by_part, max(0, busy - sum(by_part.values())))


def _use(pid: int) -> Use | None:
    """None: it is gone."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        threads = sum(
            _scheduled_ns(PROC / str(pid) / "task" / thread)
            for thread in os.listdir(PROC / str(pid) / "task")
        )
    except OSError:
        return None
    # Threads that have ended count in the ticks only; the ticks are coarse, so the larger figure is the
    # better one.
    ticks = (int(fields[11]) + int(fields[12])) * _TICK_NS
    return Use(pid, int(fields[1]), max(threads, ticks), (int(fields[13]) + int(fields[14])) * _TICK_NS)


def _scheduled_ns(task: Path) -> int:
    try:
        return int((task / "schedstat").read_text().split()[0])
    except OSError:
        return 0  # this thread ended just now


def _busy_ns() -> int:
    """Time that anything ran on any processor. Sampled by the kernel's ticks: exact to 1 or 2 % over
    seconds.
    """
    fields = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(fields[i]) for i in _BUSY) * _TICK_NS
