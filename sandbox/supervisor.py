"""Who starts the sandbox's processes, starts them again when they die, and ends them all?

`running` does it inside the caller's process; `python -m sandbox.supervisor FOLDER` is the same in the
background. Whatever ends the supervisor, SIGKILL too, ends everything it started (lifeline.py).
"""

import asyncio
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from sandbox.clock import BEIJING, begin
from sandbox.keys import make_keys
from sandbox.lifeline import Child
from sandbox.ports import write_private
from sandbox.processes import ROOT, Process, make_processes
from sandbox.stack import Say, Servers, Stack, keep_months, provision_stack, quiet, upkeep
from sandbox.state import AlreadyUp, Course, Phase, Seen, State, answers, hold, still_alive, wait_for_the_end

FENCED = 75  # a service's word for: another holds my name or my connection is gone, start me again
READY_SECONDS = 60.0
_STOP_SECONDS = 20.0
_LOOK_SECONDS, _TELL_SECONDS = 0.05, 0.5
_STEADY_SECONDS = 60.0  # who lived this long starts with a clean slate
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_PATIENT_FENCES = 2  # so often at once; then a fenced one waits like any other
_LOG_BYTES = 50_000_000


def pause_seconds(failures: int, code: int) -> float:
    """How long to wait before the next start, after that many ends in a row and the last one's exit code."""
    if code == FENCED:
        failures -= _PATIENT_FENCES
    if failures <= 0:
        return 0.0
    return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** (failures - 1))


def ended(code: int) -> str:
    """An exit code in words; 128 + n: by signal n."""
    try:
        return f"was ended by {signal.Signals(code - 128).name}"
    except ValueError:
        return f"ended with exit code {code}"


class Keeper:
    """Keeps one process running until told to end it. say: hears a line each time it ends by itself."""

    def __init__(self, process: Process, log: Path, say: Say = quiet) -> None:
        self.process, self._log, self._say = process, log, say
        self._child: Child | None = None
        self._phase: Phase = "starting"
        self._restarts, self._failures, self._since = 0, 0, time.time()
        self._left: int | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self._launch()
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after its grace; returns when it is gone."""
        if self._task:
            self._task.cancel()
        self._phase = "stopped"
        if self._child:
            self._child.ask_to_stop()
            await asyncio.to_thread(self._child.stop)

    @property
    def pid(self) -> int | None:
        """The process's own id, None while it is down."""
        return self._child.pid if self._child else None

    def seen(self) -> Seen:
        """For state.json."""
        return Seen(
            name=self.process.name,
            phase=self._phase,
            pid=self.pid,
            restarts=self._restarts,
            since=self._since,
            door=self.process.door,
            path=self.process.path,
            left=self._left,
        )

    async def answers(self) -> bool:
        """Whether its door says that it is ready."""
        return await answers(self.process.door, self.process.path)

    def _launch(self) -> None:
        if self._log.exists() and self._log.stat().st_size > _LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        if self._child is not None:
            self._child.stop()  # it has ended; this closes the pipe to it
        self._child = Child(
            self.process.command, log=self._log, env=self.process.env, grace_seconds=_STOP_SECONDS, cwd=ROOT
        )
        self._phase, self._since = "running", time.time()

    async def _keep(self) -> None:
        while True:
            assert self._child is not None
            while (code := self._child.poll()) is None:
                await asyncio.sleep(_LOOK_SECONDS)  # a child's end raises no event on every system
            lived = time.time() - self._since
            self._failures = 1 if lived > _STEADY_SECONDS else self._failures + 1
            pid = self._child.known_pid or "unknown"
            self._phase, self._left = "waiting", code
            pause = pause_seconds(self._failures, code)
            again = f"starts again in {pause:.1f} s" if pause else "starts again at once"
            self._say(f"{self.process.name} (process {pid}) {ended(code)} after {lived:.0f} s; {again}")
            await asyncio.sleep(pause)  # who keeps failing starts less often
            self._restarts += 1
            self._launch()


class Sandbox:
    """A running sandbox. stack: where the servers are. keepers: by process name. doors: host:port by process
    name. skew: business clock minus system clock when it started.
    """

    def __init__(
        self,
        folder: Path,
        stack: Stack,
        servers: Servers,
        processes: list[Process],
        skew: timedelta = timedelta(0),
    ) -> None:
        self.folder, self.stack, self.servers, self.skew = folder, stack, servers, skew
        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        self.note = partial(note, logs / "supervisor.log")
        self.keepers = {
            process.name: Keeper(process, logs / f"{process.name}.log", self.note) for process in processes
        }
        self.doors = {process.name: process.door for process in processes}
        self._tending: list[asyncio.Task[None]] = []
        self._revived, self._reviving = Counter[str](), ""
        self._since, self._left = defaultdict[str, float](time.time), dict[str, int]()
        self._since |= dict.fromkeys(servers.pids(), time.time())

    def pids(self) -> dict[str, int]:
        """Process ids by name, servers too, of what runs now."""
        return {seen.name: seen.pid for seen in self.seen() if seen.pid}

    async def ready(self, seconds: float = READY_SECONDS) -> list[str]:
        """Wait until every process answers; the names of those that do not when the time is over."""
        end, missing = time.monotonic() + seconds, list(self.keepers)
        while missing and time.monotonic() < end:
            missing = [name for name in missing if not await self.keepers[name].answers()]
            if missing:
                await asyncio.sleep(_LOOK_SECONDS)  # a door that opens raises no event
        return missing

    def start(self) -> None:
        """Start every process; returns at once."""
        for keeper in self.keepers.values():
            keeper.start()
        self._tending = [
            asyncio.create_task(self._revive()),
            asyncio.create_task(keep_months(upkeep(self.stack), self.note)),
        ]

    async def stop(self) -> None:
        """End every process; the servers go on."""
        for task in self._tending:
            task.cancel()
        await asyncio.gather(*(keeper.stop() for keeper in self.keepers.values()))

    def seen(self) -> list[Seen]:
        """Servers and processes, for state.json."""
        servers = [
            Seen(
                name=name,
                phase="starting" if name == self._reviving else "running" if pid else "waiting",
                pid=pid,
                restarts=self._revived[name],
                since=self._since[name],
                left=self._left.get(name),
            )
            for name, pid in self.servers.pids().items()
        ]
        return servers + [keeper.seen() for keeper in self.keepers.values()]

    async def _revive(self) -> None:
        """A server that died is started again over its data, at its old ports."""
        failures = 0
        while True:
            await asyncio.sleep(_LOOK_SECONDS * 10 + pause_seconds(failures, 0))
            try:
                for name, code in self.servers.dead().items():
                    if name != self._reviving:  # else it is tried once more
                        lived = time.time() - self._since[name]
                        self.note(f"{name} {ended(code)} after {lived:.0f} s; starts again now")
                    self._reviving, self._left[name], self._since[name] = name, code, time.time()
                    await asyncio.to_thread(self.servers.revive, name)
                    self._revived[name] += 1
                    self._reviving = ""
                failures = 0
            except RuntimeError as error:
                failures += 1
                self.note(f"{error}; tries again in {_LOOK_SECONDS * 10 + pause_seconds(failures, 0):.1f} s")


def note(log: Path, line: str) -> None:
    """Write down what happened and when: ./canbao logs supervisor."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}\n")


@asynccontextmanager
async def running(
    folder: Path,
    *,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    say: Say = quiet,
    quick: bool = False,
) -> AsyncIterator[Sandbox]:
    """The whole sandbox over `folder`, started, for as long as the block lasts; call `ready` before using
    its doors. state.json tells the other verbs how it goes.

    changes: settings by process name, see make_processes. AlreadyUp: somebody else runs it. The servers'
    troubles pass through.
    """
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 -- nothing runs yet that it could hold up
    with hold(folder):
        diary = Diary(folder, say)
        diary.tell("starting")
        servers = Servers(folder, quick=quick, say=diary.say)
        try:
            if left := still_alive(folder):
                diary.say(f"waiting for the end of what ran before: {', '.join(left)}")
                await asyncio.to_thread(wait_for_the_end, folder)
            sandbox = await _started(folder, servers, diary, changes or {})
            telling = asyncio.create_task(_tell(sandbox, diary))
            try:
                yield sandbox
            finally:
                telling.cancel()
                diary.tell("stopping")
                await sandbox.stop()
        except Exception as error:
            diary.trouble = str(error) or type(error).__name__
            raise
        finally:
            await asyncio.to_thread(servers.stop)
            diary.tell("failed" if diary.trouble else "stopped")


async def _started(
    folder: Path, servers: Servers, diary: "Diary", changes: Mapping[str, Mapping[str, Any]]
) -> Sandbox:
    """Servers, then what stands in them, then everything that needs it."""
    keys = asyncio.create_task(asyncio.to_thread(make_keys, folder / "keys"))  # meanwhile
    stack = await asyncio.to_thread(servers.start)
    await keys
    diary.say("Kafka and Postgres run")
    await asyncio.to_thread(provision_stack, stack, diary.say)
    skew = await begin(stack)
    business = (datetime.now(UTC) + skew).astimezone(BEIJING)
    diary.say(f"topics, roles and tables stand; the business clock says {business:%Y-%m-%d %H:%M}")
    sandbox = Sandbox(folder, stack, servers, make_processes(folder, stack, changes), skew)
    sandbox.start()
    return sandbox


async def _tell(sandbox: Sandbox, diary: "Diary") -> None:
    """Keep state.json in step, until cancelled."""
    for name in await sandbox.ready():
        diary.say(f"{name} does not answer yet: ./canbao logs {name}")
    while True:
        diary.tell("ready", sandbox.seen())
        await asyncio.sleep(_TELL_SECONDS)


class Diary:
    """Keeps state.json in step with what happens. say: hears each step too. trouble: why it ends."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._path, self._written, self._say = folder / "state.json", b"", say
        self.said: list[str] = []
        self.trouble = ""

    def say(self, line: str) -> None:
        """A step on the way up."""
        self._say(line)
        self.said.append(line)
        self.tell("starting")

    def tell(self, phase: Course, processes: Sequence[Seen] = ()) -> None:
        """Write how it goes now, if that is new."""
        state = State(
            pid=os.getpid(), phase=phase, said=self.said, processes=list(processes), trouble=self.trouble
        )
        text = msgspec.json.encode(state)
        if text != self._written:
            write_private(self._path, text)
            self._written = text


async def serve(folder: Path) -> int:
    """Run the sandbox until SIGTERM; the exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with running(folder):
            await stop.wait()
    except AlreadyUp as other:
        print(other, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(serve(Path(sys.argv[1]))))
