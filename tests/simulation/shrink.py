"""What is the least that still fails? Faults are taken away, then steps, while the rest fails alike."""

import time
from collections.abc import Callable

from msgspec.structs import replace

from tests.simulation.play import Anchored, Script
from tests.simulation.runs import Played, Setting, Stage
from tests.simulation.schedule import Action, Anchor

HARMLESS = frozenset({"go", "resume", "rebalance", "heir", "tick", "thaw"})


def shrink(stage: Stage, setting: Setting, failed: Played, seconds: float = 60.0) -> Played:
    """The least run found within that time that fails by the same invariant: few faults, each at its place in
    the fair schedule, or else the steps that were taken. The failed one itself, if nothing fails again.
    """
    wanted, end = kind_of(failed.failures), time.monotonic() + seconds

    def by_faults(anchors: list[Anchor]) -> Played | None:
        played = stage.run(setting, Anchored(anchors))
        # no actions: it is played again by its anchors
        return replace(played, actions=[]) if wanted & kind_of(played.failures) else None

    def by_steps(actions: list[Action]) -> Played | None:
        if time.monotonic() > end:
            return None
        played = stage.run(setting, Script(actions))
        return played if wanted & kind_of(played.failures) else None

    best = by_faults(failed.anchors)
    if best is not None:
        return _fewer_faults(best, by_faults, end)
    best = by_steps(failed.actions)
    return _fewer_steps(best, by_steps) if best is not None else failed


def _fewer_faults(best: Played, fails: Callable[[list[Anchor]], Played | None], end: float) -> Played:
    at = len(best.anchors) - 1
    while at >= 0 and time.monotonic() < end:
        best = fails(best.anchors[:at] + best.anchors[at + 1:]) or best
        at = min(at, len(best.anchors)) - 1
    return best


def _fewer_steps(best: Played, fails: Callable[[list[Action]], Played | None]) -> Played:
    """Without whole kinds of fault, then without ever smaller parts (ddmin)."""
    for kind in sorted({action.kind for action in best.actions} - HARMLESS):
        best = fails([action for action in best.actions if action.kind != kind]) or best
    size = max(1, len(best.actions) // 2)
    while size:
        at = len(best.actions)
        while at > 0:
            best = fails(best.actions[:max(0, at - size)] + best.actions[at:]) or best
            at = min(at - size, len(best.actions))
        size //= 2
    return best


def kind_of(failures: list[str]) -> set[str]:
    """By which invariants, or which actor, a run fails."""
    return {failure.split(maxsplit=1)[0] for failure in failures}
