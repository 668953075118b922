"""Is anything lost, doubled or disordered where handlers stumble too? Real ones never do; the toy's do."""

import pytest

from tests.faults.chaos import Chaos, Plan
from tests.faults.field import Field


@pytest.mark.timeout(300)
async def test_nothing_is_lost_doubled_or_disordered_where_handlers_stumble(field: Field) -> None:
    plan = Plan(seed=1, seconds=6.0, members=(0, -1), faults=(("kill", 3), ("commit", 2), ("terminate", 1)))
    report = await Chaos(field, plan).run()
    assert not report.wrong, report.text()
