"""How does a task end for certain, when a library below it may lose the order to?"""

import asyncio
from typing import Any

AGAIN_SECONDS = 1.0
TIMES = 10


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel them and return when they have ended, whatever they raise.

    asyncio.wait_for of Python 3.11 loses a cancellation that meets its result, so who goes on is told again,
    and left alone after ten seconds.
    """
    pending = {task for task in tasks if not task.done()}
    for _ in range(TIMES):
        if not pending:
            break
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_SECONDS)
    for task in set(tasks) - pending:
        if not task.cancelled():
            task.exception()  # it is seen: nobody else asks for it
