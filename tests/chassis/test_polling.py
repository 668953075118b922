"""When does a lane rest, and for how long?"""

import time

import pytest

from services.chassis.polling import LONGEST_REST_SECONDS, SMALL, rest


@pytest.mark.parametrize(
    ("worked", "count", "taken_at_most", "least", "most"),
    [
        (0.02, 1, 1000, 0.02, 0.06),
        (0.02, SMALL - 1, 1000, 0.02, 0.06),
        (5.0, 1, 1000, LONGEST_REST_SECONDS, LONGEST_REST_SECONDS),
        (0.02, SMALL, 1000, 0, 0),
        (5.0, SMALL, 1000, 0, 0),
        (0.02, 0, 1000, 0, 0),
        (0.02, 20, 20, 0, 0),
        (0.02, 19, 20, 0.02, 0.06),
    ],
    ids=["one message", "a small batch", "a long one", "a large batch", "a long large one", "nothing",
         "a small one with more behind it", "a small one that took all there was"],
)
def test_after_a_small_batch_a_lane_rests_as_long_as_it_worked(
    worked: float, count: int, taken_at_most: int, least: float, most: float
) -> None:
    assert least <= rest(time.monotonic() - worked, count, taken_at_most) <= most
