"""Is anything lost or doubled while a city lives and everything is killed, frozen and cut off?"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.postgres import remove
from sandbox.stack import Servers, Stack
from tests.faults import torture
from tests.faults.bugs import all_bugs
from tests.faults.hunt import hunt
from tests.faults.plan import QUICK


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that Postgres may enter, too, whoever it runs as."""
    made = Path(tempfile.mkdtemp(prefix="canbao-torture-", dir="/tmp"))
    made.chmod(0o711)
    yield made
    remove(made)
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.timeout(900)
async def test_nothing_is_lost_or_doubled_while_a_city_is_under_fire(folder: Path) -> None:
    report = await torture.run(QUICK, folder, print)
    assert report.wrong == [], report
    assert report.kills >= 20, report
    assert report.payments >= QUICK.citizens * 0.9, report


def test_how_far_it_is_is_said_only_when_it_changes() -> None:
    said: list[str] = []
    say = torture.only_news(said.append)
    for line in ("50% of the time", "100% of the time", "100% of the time", "50% of the time"):
        say(line)
    assert said == ["50% of the time", "100% of the time", "50% of the time"]


def test_every_planted_bug_has_its_passage_and_is_python() -> None:
    for bug in all_bugs().values():
        compile(bug.patched(), bug.file, "exec")


@pytest.mark.timeout(300)
async def test_the_breaker_finds_a_relay_that_forgets_before_it_sends(
    mortal: tuple[Servers, Stack], folder: Path
) -> None:
    found = await hunt(all_bugs()["the relay forgets before it sends"], *mortal, folder)
    assert found.what
