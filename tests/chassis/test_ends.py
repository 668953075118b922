"""Does a loop end when it is told to, also in the moment of its news?"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from services.chassis.calls import Calls
from services.chassis.door import Door
from services.chassis.relay import Relay
from services.chassis.timers import Timers
from tests.chassis.running import until
from tests.chassis.toys import Toy, toy
from tests.ground import Database

Loop = tuple[Coroutine[Any, Any, None], asyncio.Event]


def timers(made: Toy) -> Loop:
    return Timers(made.engine).run(made.db), made.engine.timers_changed


def relay(made: Toy) -> Loop:
    return Relay("billing", made.memory, None).run(made.db), made.memory.fresh


def calls(made: Toy) -> Loop:
    door = Door(made.engine, made.on)
    return Calls(made.engine, {}, door).run(made.db), made.engine.calls_changed


@pytest.mark.parametrize("loop", [timers, relay, calls])
async def test_a_loop_that_is_told_to_end_in_the_moment_of_its_news_ends(
    database: Database, loop: Callable[[Toy], Loop]
) -> None:
    async with toy(database) as made:
        run, news = loop(made)
        task = asyncio.create_task(run)

        async def waits() -> bool:
            return bool(news._waiters)

        await until(waits)
        news.set()
        turned = asyncio.Event()
        asyncio.get_running_loop().call_soon(turned.set)
        await turned.wait()
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        task.cancel()
        assert done == {task}
