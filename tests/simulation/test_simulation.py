"""Does every life come to its end, whatever fault meets it where?"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.ground import Ground
from tests.simulation.report import REGRESSIONS, coverage, failure, fingerprint, recall
from tests.simulation.runs import Played, Stage
from tests.simulation.sweep import sweep
from tests.source import ROOT

SEEDS, SEED = 40, 1
SHARE = 37          # of the sweep: each so-many-th; the whole is `canbao simulate --sweep`
pytestmark = pytest.mark.timeout(1800)      # in one process, step by step; how long depends on the neighbours


def told(played: Played, again: str) -> str:
    return "\n".join(failure(played, again))


def test_one_fault_or_freeze_at_a_gate_breaks_nothing(stage: Stage) -> None:
    for what, played in sweep(stage, SHARE):
        assert not played.failures, told(played, f"./canbao simulate --sweep   ({what})")


def test_forty_seeds_of_many_faults_break_nothing(stage: Stage) -> None:
    met: Counter[tuple[str, str]] = Counter()
    for seed in range(SEEDS):
        played = stage.seed(seed)
        assert not played.failures, told(played, f"./canbao simulate --seeds 1 --from {seed}")
        assert played.steps >= 300
        assert len({kind for kind, _ in played.met}) >= 5
        met += played.met
    print("\n".join(coverage(met)))  # noqa: T201 -- `pytest -s` shows it


def test_the_same_seed_takes_the_same_steps_in_another_process_with_other_hashes(stage: Stage) -> None:
    here = fingerprint(stage.seed(SEED))
    assert fingerprint(stage.seed(SEED)) == here
    code = "from tests.simulation.test_simulation import elsewhere; elsewhere()"
    done = subprocess.run(
        [sys.executable, "-c", code, *_where(stage)], cwd=ROOT, capture_output=True, text=True, timeout=300,
        check=False, env=os.environ | {"PYTHONHASHSEED": "4711"},
    )
    assert done.stdout.strip() == here, done.stderr


def _where(stage: Stage) -> list[str]:
    return [stage.ground.admin_dsn, *(f"{name}={url}" for name, url in stage.ground.urls.items())]


def elsewhere() -> None:
    """The other process: the same seed on the same server, which is idle meanwhile."""
    dsn, *urls = sys.argv[1:]
    with Stage(Ground(dsn, dict(each.split("=", 1) for each in urls))) as stage:
        sys.stdout.write(fingerprint(stage.seed(SEED)))


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*.json")), ids=lambda path: path.stem)
def test_what_failed_once_holds_now(stage: Stage, path: Path) -> None:
    played = stage.run(*recall(path))
    assert not played.failures, told(played, f"./canbao simulate --replay {path}")
