"""Do the sending and its repetition go on with the journey of what is told?"""

from services.notify.rules import SendRefused
from tests.notify.test_handlers import about, recorded, told
from tests.notify.test_handlers import world as world
from tests.people import LI_NA
from tests.world import World


async def test_what_is_sent_and_sent_again_stands_in_the_journey_of_the_fact(world: World) -> None:
    await world.when(recorded(LI_NA), LI_NA.payment_settled())
    assert await world.db.fetchval("select replace(journey::text, '-', '') from call") == LI_NA.journey
    refusal = SendRefused(
        **about(await told(world, LI_NA)), road="SMS", code="isv.DAY_LIMIT_CONTROL", detail="", final=False
    )
    await world.tell(refusal)
    assert await world.db.fetchval("select replace(journey::text, '-', '') from job") == LI_NA.journey
