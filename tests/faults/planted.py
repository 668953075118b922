"""Which of several protections is left alone in the engine, and which wait is cut short? In this process
only.
"""

from collections.abc import Callable

from services.chassis import calls, database
from services.chassis import lane as lane_module
from services.chassis.lane import Lane


def _only(*reasons: str) -> Callable[[], None]:
    """All tripwires are cut but those that give such a reason."""

    def cut() -> None:
        lost = Lane.lost

        def sometimes(lane: Lane, why: str) -> None:
            if why.startswith(reasons):
                lost(lane, why)

        Lane.lost = sometimes  # type: ignore[method-assign,assignment]

    return cut


def _short_idle() -> None:
    """A silent session ends after 3 s instead of 10."""
    for module in (calls, database, lane_module):
        module.IDLE_SECONDS = 3.0  # type: ignore[attr-defined]


PLANTS: dict[str, Callable[[], None]] = {
    "short_idle": _short_idle,
    "only_listener": _only("the connection ended"),
    "only_beat": _only("frozen or closed", "the beat failed"),
    "only_batch": _only("ConnectionDoesNotExist", "InterfaceError", "InternalClientError", "Connection"),
}


def plant(names: str) -> None:
    """Do that to this process: names apart by blanks; "" does nothing."""
    for name in names.split():
        PLANTS[name]()
