"""When does a lane rest, and for how long?"""

import time

import pytest

from services.chassis.polling import LONGEST_REST_SECONDS, SMALL, rest


@pytest.mark.parametrize(
    ("worked", "count", "least", "most"),
    [
        (0.02, 1, 0.02, 0.06),
        (0.02, SMALL - 1, 0.02, 0.06),
        (5.0, 1, LONGEST_REST_SECONDS, LONGEST_REST_SECONDS),
        (0.02, SMALL, 0, 0),
        (5.0, SMALL, 0, 0),
        (0.02, 0, 0, 0),
    ],
    ids=["one message", "a small batch", "a long one", "a large batch", "a long large one", "nothing"],
)
def test_after_a_small_batch_a_lane_rests_as_long_as_it_worked(
    worked: float, count: int, least: float, most: float
) -> None:
    assert least <= rest(time.monotonic() - worked, count) <= most
