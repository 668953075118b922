"""On what do the simulation's tests play? One stage for all of them, with a Postgres of its own."""

from collections.abc import Iterator

import pytest

from tests.simulation.ground import WHY_NOT, standing, works_here
from tests.simulation.runs import Stage


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """Where runs are played."""
    if not works_here():
        pytest.skip(WHY_NOT)
    with standing() as ground, Stage(ground) as playing:
        yield playing
