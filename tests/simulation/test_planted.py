"""Would the simulation notice? A protection is taken out of the engine, and then a run fails that held."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from typing_extensions import override

from tests.simulation import plants, trouble
from tests.simulation.citizens import ONLINE
from tests.simulation.city import City
from tests.simulation.play import Anchored, fair
from tests.simulation.report import keep, recall
from tests.simulation.runs import SWEPT, Played, Setting, Stage
from tests.simulation.schedule import Action, Anchor
from tests.simulation.shrink import kind_of, shrink
from tests.source import ROOT

Plant = Callable[[pytest.MonkeyPatch], None]
THREE = Setting("three", (ONLINE, ONLINE, ONLINE), {"enrollment": 2, "console": 0})
NOT_SENT = Anchor("not sent", "billing.0.relay.send", "send", 1)
FOUND: list[tuple[Plant, Setting, Anchor]] = [
    (plants.relay_forgets_first, SWEPT, NOT_SENT),
    (plants.relay_by_highest, THREE, Anchor("freeze", "enrollment.0.money", "commit", 1)),
    (plants.offsets_first, SWEPT, Anchor("crash", "billing.1.money", "commit", 1)),
    (plants.stops_untold, SWEPT, Anchor("stop", "billing.1.money.offsets", "flush", 1)),
    (plants.clings, SWEPT, Anchor("failover", "all", "", 150)),
    (plants.door_keeps, SWEPT, Anchor("crowded", "payment", "", 300)),
    (plants.parking_gives_up, SWEPT, Anchor("no room", "billing enrollment.enrollment_approved.v1", "", 1)),
    (plants.relay_waits_little, SWEPT, Anchor("black hole", "billing.0.relay.send", "send", 1)),
]
EAGER_SEEDS = 5
pytestmark = pytest.mark.timeout(1800)     # as in test_simulation


@pytest.mark.parametrize(("plant", "setting", "deviation"), FOUND, ids=[f[0].__name__ for f in FOUND])
def test_a_planted_bug_is_found_by_one_deviation(
    stage: Stage, plant: Plant, setting: Setting, deviation: Anchor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not stage.run(setting, Anchored([deviation])).failures
    plant(monkeypatch)
    assert stage.run(setting, Anchored([deviation])).failures


def test_an_inbox_that_is_not_asked_is_found_by_a_seed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    plants.inbox_unasked(monkeypatch)
    assert any(stage.seed(seed).failures for seed in range(EAGER_SEEDS))


def _places(played: Played) -> Counter[str]:
    """How much was said in each partition of what enrollment says."""
    return Counter(re.findall(r" says \S+ (enrollment\.\w+/\d)/", "\n".join(played.trace)))


def test_keys_move_when_partitions_are_added_under_load_and_all_comes_to_its_end(stage: Stage) -> None:
    before = stage.run(THREE, fair)
    grown = stage.run(THREE, Anchored([Anchor(trouble.GROW, "all", "", 250)]))
    assert grown.met[trouble.GROW, "all"] == 1
    assert not grown.failures
    assert _places(grown) != _places(before)
    assert _places(grown).total() == _places(before).total()


class Stopped(Anchored):
    """Billing stands still from the begin, and retention passes it as soon as there is something to read."""

    def __init__(self) -> None:
        super().__init__([Anchor("freeze", f"billing.{n}", "", 0) for n in (0, 1)])
        self.has_passed = False

    @override
    def __call__(self, city: City) -> Action | None:
        if not self.has_passed and trouble.unread(city, "billing-bulk"):
            self.has_passed = True
            return Action(trouble.EXPIRE, "billing-bulk")
        return super().__call__(city)


def test_what_retention_has_taken_from_a_stopped_group_comes_back_by_an_order_or_is_missed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = stage.run(SWEPT, Stopped())
    assert passed.met[trouble.EXPIRE, "all"] == 1
    assert not passed.failures
    plants.republish_says_yes(monkeypatch)
    assert "I24" in kind_of(stage.run(SWEPT, Stopped()).failures)


def test_what_fails_is_shrunk_kept_and_fails_again_from_its_file(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as planted:
        plants.relay_forgets_first(planted)
        twice = Anchor("twice", "c1", "says SubmitEnrollment", 1)       # that has no part in it
        failed = stage.run(SWEPT, Anchored([twice, NOT_SENT]))
        small = shrink(stage, SWEPT, failed)
        assert failed.anchors == [twice, NOT_SENT]
        assert small.anchors == [NOT_SENT]
        kept = recall(keep(replace(SWEPT, name="a lost send"), small, tmp_path))
        again = stage.run(*kept)
        assert kind_of(again.failures) == kind_of(small.failures)
        assert again.timeline
    assert not stage.run(*recall(next(tmp_path.iterdir()))).failures


def test_the_verb_says_in_one_object_what_it_played(stage: Stage) -> None:
    done = subprocess.run([sys.executable, "-m", "cli", "simulate", "--seeds", "1", "--from", "13", "--json"],
                          cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said.keys() == {"seeds", "steps", "faults", "failures", "seconds"}
    assert (said["seeds"], said["failures"]) == (1, [])
    assert said["steps"] >= 300
