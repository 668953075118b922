"""Who may go next? Everybody stops at gates; a choice lets one through and waits until all stand still.

An actor is whoever has one thread of work: a lane, a relay, a call, a citizen. Its gate has a label (what it
is about to do) and the faults that may meet it there. A backend that waits for a lock is stopped by a signal,
so that being let go on is a choice as well. The server looks for deadlocks by a timer; here it never does
(a stop in the middle of its look would stop all), and whoever closes a circle is told so at once.
"""

import asyncio
import math
import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import asyncpg
from typing_extensions import override

from tests.simulation.clockwork import SimLoop

LOOKS = 3           # turns of the loop between two looks for somebody who waits for a lock
_WAITS = "select pid from pg_locks where not granted and pid = any($1::int[])"
_CIRCLE = "select pg_blocking_pids($1)"


class Action(NamedTuple):
    """A choice, by name: a trace of them can be replayed after some are gone. kind: go, resume, or what else
    happens to the actor.
    """

    kind: str
    actor: str

    @override
    def __str__(self) -> str:
        return f"{self.kind} {self.actor}"


class Anchor(NamedTuple):
    """A fault with its place: what happened when an actor stood at a gate for the n-th time. label "": to
    whom it happened after n steps.
    """

    what: str
    actor: str
    label: str
    nth: int

    @override
    def __str__(self) -> str:
        return f"{self.what} @ {self.actor} / {self.label} / {self.nth}"


class Gate:
    """Where an actor stands. faults: what may happen to it here. ready: whether there is anything to do."""

    __slots__ = ("actor", "at", "faults", "go", "label", "ready")

    def __init__(self, actor: str, label: str, at: int, faults: tuple[str, ...],
                 ready: Callable[[], bool] | None) -> None:
        self.actor, self.label, self.at, self.faults, self.ready = actor, label, at, faults, ready
        self.go: asyncio.Future[str] = asyncio.get_running_loop().create_future()


class Line:
    """A backend at work for somebody. asked: the task whose statement it is. in_circle: it would wait for
    itself, and was told to give up.
    """

    __slots__ = ("actor", "asked", "in_circle", "pid")

    def __init__(self, actor: str, pid: int, asked: "asyncio.Task[Any] | None") -> None:
        self.actor, self.pid, self.asked, self.in_circle = actor, pid, asked, False


class Schedule:
    """All gates of a run, and the way from one standstill to the next."""

    def __init__(self, loop: SimLoop, monitor: asyncpg.Connection) -> None:
        self.loop, self.monitor = loop, monitor
        self.gates: dict[str, Gate] = {}
        self.flying: dict[str, Line] = {}       # statements under way
        self.waiting: dict[str, Line] = {}      # for a lock, stopped
        self.granted: dict[str, Line] = {}      # have their lock, still stopped
        self.frozen: dict[str, float] = {}      # actors and members, until which step
        self.steps, self._arrived = 0, 0
        self.trace: list[str] = []
        self.visits: Counter[tuple[str, str]] = Counter()
        self.met: Counter[tuple[str, str]] = Counter()      # (fault, label)
        self.anchors: list[Anchor] = []
        self.wrong: list[str] = []              # what was seen on the way
        self.on_gate: Callable[[Gate, int], object] = lambda gate, nth: None

    # ---- actors stop

    async def gate(self, actor: str, label: str, faults: tuple[str, ...] = (),
                   ready: Callable[[], bool] | None = None) -> str:
        """Stand until let through; "" or the fault that happens here."""
        name = actor
        while name in self.gates:
            name += "'"
        self._arrived += 1
        gate = self.gates[name] = Gate(name, label, self._arrived, faults, ready)
        self.visits[name, label] += 1
        self.on_gate(gate, self.visits[name, label])
        try:
            return await gate.go
        finally:
            if self.gates.get(name) is gate:
                del self.gates[name]

    def note(self, text: str) -> None:
        """A line of the trace."""
        self.trace.append(f"{self.steps:>5}  {text}")

    # ---- choices

    def is_frozen(self, actor: str) -> bool:
        """Whether it, or the member that it belongs to, moves no more for now."""
        if not self.frozen:
            return False
        return max(self.frozen.get(name, 0) for name in (actor, member_of(actor))) > self.steps

    def open_gates(self) -> list[Gate]:
        """Those that may be let through, the one that has stood longest first."""
        gates = [g for g in self.gates.values()
                 if not g.go.done() and not self.is_frozen(g.actor) and (g.ready is None or g.ready())]
        return sorted(gates, key=lambda gate: gate.at)

    def resumable(self) -> list[str]:
        """Whose lock is granted."""
        return sorted(actor for actor in self.granted if not self.is_frozen(actor))

    async def let(self, gate: Gate, fault: str = "") -> None:
        """One through, and everybody to the next standstill."""
        if fault:
            self.met[fault, gate.label] += 1
            place = gate.actor, gate.label
            self.anchors.append(Anchor(fault, *place, self.visits[place]))
        gate.go.set_result(fault)
        await self.settle()

    async def resume(self, actor: str) -> None:
        """A backend with its lock goes on."""
        line = self.flying[actor] = self.granted.pop(actor)
        os.kill(line.pid, signal.SIGCONT)
        await self.settle()

    # ---- to the next standstill

    async def settle(self) -> None:
        """Until nobody moves. Who waits for a lock is stopped; whose lock came is known then."""
        turns = 0
        while True:
            await self.loop.turn(wait=bool(self.flying))
            if not self.flying and self.loop.is_quiet():
                break
            turns += 1
            if self.flying and turns % LOOKS == 0:
                await self._stop_waiters()
        if self.waiting:
            pids = [line.pid for line in self.waiting.values()]
            still = {row[0] for row in await self.monitor.fetch(_WAITS, pids)}
            for actor, line in list(self.waiting.items()):
                if line.pid not in still:
                    self.granted[actor] = self.waiting.pop(actor)

    async def _stop_waiters(self) -> None:
        pids = [line.pid for line in self.flying.values()]
        rows = {row[0] for row in await self.monitor.fetch(_WAITS, pids)}
        for actor, line in list(self.flying.items()):
            if line.pid not in rows or self.flying.get(actor) is not line:
                continue
            if self.waiting and await self._closes_circle(line):
                line.in_circle = True
                self.note(f"{line.actor} would wait for itself")
                await self.monitor.execute("select pg_cancel_backend($1)", line.pid)
                await self._end_of(line)
                continue
            os.kill(line.pid, signal.SIGSTOP)
            self.waiting[actor] = self.flying.pop(actor)
            self.note(f"waits {actor}")

    async def _closes_circle(self, line: Line) -> bool:
        seen, look = {line.pid}, [line.pid]
        while look:
            for pid in await self.monitor.fetchval(_CIRCLE, look.pop()):
                if pid == line.pid:
                    return True
                if pid not in seen:
                    seen.add(pid)
                    look.append(pid)
        return False

    async def _end_of(self, line: Line) -> None:
        while line.actor in self.flying and self.flying[line.actor] is line:
            await self.loop.turn(wait=True)

    def landed(self, line: Line) -> None:
        """Its statement has ended."""
        for where in (self.flying, self.waiting, self.granted):
            if where.get(line.actor) is line:
                del where[line.actor]

    def is_stopped(self, line: Line) -> bool:
        """Whether its backend stands in the queue for a lock, or is about to leave it."""
        return any(where.get(line.actor) is line for where in (self.waiting, self.granted))

    def busy(self) -> set["asyncio.Task[Any]"]:
        """Tasks whose statement is in the server."""
        lines = [*self.waiting.values(), *self.granted.values(), *self.flying.values()]
        return {line.asked for line in lines if line.asked is not None}

    def freeze(self, actor: str, steps: float = math.inf) -> None:
        """It stands still for so many, or until nobody else can move."""
        self.frozen[actor] = self.steps + steps

    def thaw(self) -> None:
        """Nobody is frozen any more."""
        self.frozen.clear()

    def wake_servers(self) -> None:
        """No backend may stay stopped: whoever shares the server would wait for it."""
        for line in [*self.waiting.values(), *self.granted.values()]:
            try:
                os.kill(line.pid, signal.SIGCONT)
            except ProcessLookupError:
                pass


def member_of(actor: str) -> str:
    """billing.0 of billing.0.bulk."""
    return ".".join(actor.split(".")[:2])
