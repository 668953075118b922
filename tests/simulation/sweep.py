"""Is there one fault, or one freeze, at one gate, that breaks it? Each in turn, in a fair schedule."""

from collections.abc import Iterator

from tests.simulation import trouble
from tests.simulation.play import Anchored, fair
from tests.simulation.runs import SWEPT, Played, Stage
from tests.simulation.schedule import Anchor, member_of

_QUIET = (".operators", "console.")     # nothing is decided there: their gates are swept by the seeds
TIMES = 1       # the first time that somebody stands there


def deviations(clean: Played) -> list[Anchor]:
    """All of them, first visits first. clean: a run without any."""
    return sorted(_places(clean), key=lambda anchor: anchor.nth)


def _places(clean: Played) -> Iterator[Anchor]:
    crashed = set()
    for (actor, label), times in clean.visits.items():
        if any(part in actor for part in _QUIET):
            continue
        of_member = member_of(actor).rpartition(".")[2].isdigit()
        for nth in range(1, min(times, TIMES) + 1):
            for fault in clean.faults_at.get((actor, label), ()):
                yield Anchor(fault, actor, label, nth)
            if not of_member:
                continue
            yield Anchor(trouble.FREEZE, actor, label, nth)
            road = actor.rpartition(".")[2]
            if (road, label) not in crashed or nth > 1:     # one of two members like each other is enough
                crashed.add((road, label))
                yield Anchor(trouble.CRASH, actor, label, nth)
                yield Anchor(trouble.ZOMBIE, actor, label, nth)
                yield Anchor(trouble.STOP, actor, label, nth)


def sweep(stage: Stage, share: int = 1) -> Iterator[tuple[str, Played]]:
    """The clean run, then those with one deviation each. share: only each so-many-th."""
    clean = stage.run(SWEPT, fair)
    yield "nothing", clean
    for at, deviation in enumerate(deviations(clean)):
        if at % share == 0:
            yield str(deviation), stage.run(SWEPT, Anchored([deviation]))
