"""Billing's world for its handlers' tests."""

from collections.abc import AsyncIterator

import pytest

from tests.ground import Database
from tests.world import World, world_of


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """Billing with its real handlers; the clock says NOON."""
    async with world_of("billing", database) as made:
        yield made
