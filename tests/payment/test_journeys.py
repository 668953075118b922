"""Do calls and timers of payment go on with the journey of what is paid?"""

from services.payment.rules import OrderState
from tests.payment.scene import bill, ordered
from tests.payment.test_handlers import world as world
from tests.people import LI_NA, WANG_JUN
from tests.world import World


async def work(world: World, table: str) -> list[tuple[str, str]]:
    """Type and journey of what is to be done later."""
    sql = f"select type, replace(journey::text, '-', '') from {table} order by id"
    return [(r[0], r[1]) for r in await world.db.fetch(sql)]


async def test_an_orders_calls_and_questions_stand_in_the_journey_of_its_first_bill(world: World) -> None:
    await world.when(bill(LI_NA), bill(WANG_JUN))
    order = await ordered(world, LI_NA, WANG_JUN)
    assert await work(world, "call") == [("PlaceOrder", LI_NA.journey)]
    assert await work(world, "job") == [("QueryOrder", LI_NA.journey)]

    await world.later("2024-12-20T12:01+08:00")
    assert await work(world, "call") == [("PlaceOrder", LI_NA.journey), ("AskOrder", LI_NA.journey)]
    assert await work(world, "job") == []

    state = OrderState(**order, provider="wechat", round=0, state="NOTPAY")
    await world.tell(state, journey=LI_NA.journey)
    assert await work(world, "job") == [("QueryOrder", LI_NA.journey)]
