"""Does a timer of enrollment go on with the journey of its enrollment?"""

from services.enrollment import store
from tests.enrollment.test_handlers import application, pending
from tests.people import LI_NA
from tests.world import World


async def test_the_begin_of_cover_stands_in_the_journey_of_its_enrollment(world: World) -> None:
    await world.given(store.ENROLLMENTS, application(LI_NA, "APPROVED"))
    await world.given(store.COVERAGES, pending(LI_NA, approved=True))
    await world.when(LI_NA.bill_settled(at="2024-12-20T09:30+08:00"))
    assert await world.db.fetchval("select replace(journey::text, '-', '') from job") == LI_NA.journey
