"""Whose CPU is it?"""

import asyncio
import time

import pytest

from services.chassis.meter import Metered


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def test_what_others_burn_while_it_waits_is_not_its_own() -> None:
    burnt = asyncio.Event()

    async def work() -> int:
        burn(0.01)
        await burnt.wait()
        burn(0.01)
        return 7

    async def other() -> None:
        burn(0.2)
        burnt.set()

    metered = Metered(work())
    burning = asyncio.create_task(other())
    assert await metered == 7
    await burning
    assert 0.02 <= metered.cpu < 0.1


async def a_turn() -> None:
    """The loop goes round once."""
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    await turned.wait()


async def test_an_error_comes_out_of_it_and_its_cpu_is_known() -> None:
    async def work() -> None:
        burn(0.01)
        await a_turn()
        raise LookupError("gone")

    metered = Metered(work())
    with pytest.raises(LookupError, match="gone"):
        await metered
    assert metered.cpu >= 0.01


async def test_a_timeout_ends_it_inside_and_what_it_answers_then_counts() -> None:
    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await a_turn()
            return "cleaned up"
        return "never"

    task = asyncio.create_task(_awaited(Metered(work())))
    await a_turn()
    task.cancel()
    assert await task == "cleaned up"


async def _awaited(metered: Metered[str]) -> str:
    return await metered
