"""Where do time, ids and chance come from in a simulated city? From one seed; no real clock is ever read."""

import asyncio
import os
import random
import selectors
import time as real_time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any

import structlog
from typing_extensions import override

from contracts.topics import PARTITIONS
from services.chassis import (
    arrival,
    attempt,
    calls,
    door,
    halt,
    ids,
    keys,
    lag,
    lane,
    polling,
    relay,
    telemetry,
    timers,
    trust,
    wire,
)

# Inside the collection window of demo-2025, a few days before cover begins.
START = datetime(2024, 12, 20, 4, 0, tzinfo=UTC)
_TIMED = (calls, door, lag, lane, polling, relay, telemetry, trust, wire)
_DATED = (arrival, attempt, timers)


class _Patient(selectors.DefaultSelector):
    """Waits a little for the server where a loop would only look, so that waiting burns no CPU."""

    patient = False

    @override
    def select(self, timeout: float | None = None) -> Any:
        if self.patient and timeout is not None and timeout <= 0:
            timeout = 0.001
        return super().select(timeout)


class _Turn:
    """To be awaited: everybody who can goes on first."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class SimLoop(asyncio.SelectorEventLoop):
    """Its time stands until somebody moves it. Time limits (asyncio.timeout) are kept apart from sleeps: they
    run out only where the simulation lets them, never in the middle of a statement.
    """

    def __init__(self) -> None:
        self._server = _Patient()
        super().__init__(self._server)
        self.now = 0.0
        self.limits: list[asyncio.TimerHandle] = []

    @override
    def time(self) -> float:
        return self.now

    @override
    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        if isinstance(getattr(callback, "__self__", None), asyncio.Timeout):
            handle = asyncio.TimerHandle(when, callback, args, self, context)
            self.limits.append(handle)
            return handle
        return super().call_at(when, callback, *args, context=context)

    def sleepers(self) -> list[float]:
        """When those wake up that sleep."""
        return sorted(h.when() for h in self._scheduled if not h.cancelled())  # type: ignore[attr-defined]

    async def turn(self, *, wait: bool) -> None:
        """Everybody else goes on once. wait: for the server too, a millisecond at most."""
        self._server.patient = wait and self.is_quiet()
        await _Turn()
        self._server.patient = False

    def is_quiet(self) -> bool:
        """Whether nobody but the caller can go on now."""
        return not self._ready  # type: ignore[attr-defined]

    def forward(self, seconds: float, spared: set[asyncio.Task[Any]]) -> None:
        """Time passes: sleepers wake, limits run out, but for tasks that the database is busy with."""
        self.now += seconds
        due = sorted((h for h in self.limits if not h.cancelled()), key=lambda handle: handle.when())
        self.limits = []
        for handle in due:
            limit: Any = handle._callback  # type: ignore[attr-defined]
            if handle.when() <= self.now and limit.__self__._task not in spared:
                handle._run()
            else:
                self.limits.append(handle)


class Nature:
    """The system clock, the ids and the nonces of one run."""

    def __init__(self, loop: SimLoop, seed: str) -> None:
        self.loop, self.chance = loop, random.Random(f"nature {seed}")
        self.off = timedelta()          # how far the system clock was set wrong
        self._ids = 0

    def now(self) -> datetime:
        """By the system clock."""
        return START + timedelta(seconds=self.loop.now) + self.off

    def millis(self) -> int:
        """By the system clock, since the epoch."""
        return round(self.now().timestamp() * 1000)

    def uuid7(self) -> str:
        """Time-ordered within a run, and unlike any other."""
        self._ids += 1
        tail = self.chance.getrandbits(62) | 1 << 63
        number = self.millis() << 80 | 7 << 76 | (self._ids & 0xFFF) << 64 | tail
        text = f"{number:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def clock(self) -> SimpleNamespace:
        """What stands in the place of the module `time`."""
        return SimpleNamespace(
            time=lambda: self.millis() / 1000,
            time_ns=lambda: self.millis() * 1_000_000,
            monotonic=lambda: 1000.0 + self.loop.now,
            monotonic_ns=lambda: round((1000.0 + self.loop.now) * 1_000_000_000),
            clock_gettime=lambda _: 1000.0 + self.loop.now,
            thread_time=real_time.thread_time,
        )

    def dates(self) -> SimpleNamespace:
        """What stands in the place of the class `datetime` where only its `now` is used."""

        def now(_zone: tzinfo) -> datetime:
            return self.now()

        return SimpleNamespace(now=now)




@contextmanager
def governed(nature: Nature, hear: Callable[[str], None], **instead: Any) -> Iterator[None]:
    """The chassis takes clock, ids and chance from this nature, and `instead` from it in lane.py. hear: is
    told what is logged.
    """
    put: list[tuple[Any, str, Any]] = [(module, "time", nature.clock()) for module in _TIMED]
    put += [(module, "datetime", nature.dates()) for module in _DATED]
    put += [(ids, "_uuid7", nature.uuid7), (ids, "PARTITIONS", PARTITIONS)]     # topics may grow
    put.append((keys, "os", SimpleNamespace(urandom=nature.chance.randbytes, stat=os.stat)))
    put.append((halt, "IN_A_ROW", 3))       # a city this small has no twenty messages to fail on
    put += [(lane, name, value) for name, value in instead.items()]
    before = [(module, name, getattr(module, name)) for module, name, _ in put]
    configured = structlog.get_config()

    def listen(_: object, __: str, event: Any) -> Any:
        hear(f"{event.pop('event')} " + " ".join(f"{k}={event[k]}" for k in sorted(event) if k != "where"))
        raise structlog.DropEvent

    structlog.configure(processors=[listen])
    try:
        for module, name, value in put:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        ids.partition_of.cache_clear()
        structlog.configure(**configured)
