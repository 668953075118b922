"""How much CPU did this piece of work take itself? The loop's other work, done while it waited, is not its
own.
"""

import time
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Metered(Generic[Result]):
    """Await it instead of the coroutine; cpu: seconds of this thread so far. What it starts as tasks of their
    own is not counted.
    """

    def __init__(self, work: Coroutine[Any, Any, Result]) -> None:
        self._work, self.cpu = work, 0.0

    def __await__(self) -> Generator[Any, Any, Result]:
        step = self._work.send
        given: Any = None
        while True:
            began = time.thread_time()
            try:
                wanted = step(given)
            except StopIteration as end:
                result: Result = end.value
                return result
            finally:
                self.cpu += time.thread_time() - began
            try:
                step, given = self._work.send, (yield wanted)
            except BaseException as error:  # noqa: BLE001 -- a cancellation too is thrown into the work
                step, given = self._work.throw, error
