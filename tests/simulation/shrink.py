"""What is the least that still fails? Actions are taken away while the rest, by their names, fails alike."""

import time
from collections.abc import Callable

from tests.simulation.play import Script
from tests.simulation.runs import Played, Setting, Stage
from tests.simulation.schedule import Action

Actions = list[Action]
HARMLESS = frozenset({"go", "resume", "rebalance", "tick", "thaw"})


def shrink(stage: Stage, setting: Setting, failed: Played, seconds: float = 60.0) -> Played:
    """The shortest run found within that time that fails by the same invariant; the failed one, if replaying
    its names does not fail.
    """
    wanted, end = kind_of(failed.failures), time.monotonic() + seconds

    def fails(actions: Actions) -> Played | None:
        if time.monotonic() > end:
            return None
        played = stage.run(setting, Script(actions))
        return played if wanted & kind_of(played.failures) else None

    best = fails(failed.actions)
    if best is None:
        return failed
    for kind in sorted({action.kind for action in best.actions} - HARMLESS):
        best = fails([action for action in best.actions if action.kind != kind]) or best
    best = fails([action for action in best.actions if action.kind not in HARMLESS]) or best
    return _fewer(best, fails)


def _fewer(best: Played, fails: Callable[[Actions], Played | None]) -> Played:
    """Without ever smaller parts (ddmin)."""
    size = max(1, len(best.actions) // 2)
    while size:
        at = len(best.actions)
        while at > 0:
            left = best.actions[:max(0, at - size)] + best.actions[at:]
            best = fails(left) or best
            at = min(at - size, len(best.actions))
        size //= 2
    return best


def kind_of(failures: list[str]) -> set[str]:
    """By which invariants, or which actor, a run fails."""
    return {" ".join(failure.split()[:1]) for failure in failures}
