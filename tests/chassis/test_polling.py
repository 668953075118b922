"""When does a lane rest, and for how long?"""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from services.chassis.polling import LONGEST_REST_SECONDS, SMALL, patiently, rest


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


def test_after_what_is_not_ours_a_lane_rests_though_it_had_no_work() -> None:
    assert rest(time.monotonic(), 1, 1000, 0.03) == 0.03
    assert rest(time.monotonic(), SMALL, 1000, 0.03) == 0.0


class Client:
    """Has these records, one lot each time it is asked, while the partitions may be sought anew."""

    def __init__(self, lane: SimpleNamespace, *lots: str, sought: bool) -> None:
        self.lane, self.sought, self.lots = lane, sought, list(lots)

    async def getmany(self, **_: Any) -> dict[str, list[str]]:
        if len(self.lots) == 1 and self.sought:
            self.lane.era += 1
        lot = self.lots.pop(0)
        return {"partition": [lot]} if lot else {}


@pytest.mark.parametrize(
    ("lots", "sought", "torn"),
    [
        (("first", "second"), False, False),
        (("first", "second"), True, True),
        (("", "second"), True, False),       # nothing was in hand when it was sought
    ],
)
async def test_what_has_come_since_is_asked_for_and_a_seek_in_between_is_noticed(
    lots: tuple[str, ...], sought: bool, torn: bool
) -> None:
    lane = SimpleNamespace(era=3, torn=False)
    poll: Any = patiently(SimpleNamespace(max_records=1000), lane)
    assert await poll(Client(lane, *lots, sought=sought)) == tuple(filter(None, lots))
    assert lane.torn is torn
