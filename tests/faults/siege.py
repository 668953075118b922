"""What does it take to hurt a whole sandbox? Five services under their keepers, behind proxies, on servers of
our own.

The outside world (payment provider, SMS gateway, mail server) is not hurt: its books are the witness.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from contracts.answers import Accepted
from contracts.operations import Republish, Reread
from sandbox.clock import begin
from sandbox.drive import Outside
from sandbox.kafka import Kafka, KafkaTrouble
from sandbox.keys import make_keys
from sandbox.partner import Partner
from sandbox.performance import Ground
from sandbox.ports import write_private
from sandbox.postgres import Postgres, PostgresTrouble
from sandbox.processes import Process, make_processes
from sandbox.stack import Servers, Stack
from sandbox.supervisor import Keeper
from services.chassis.keys import load_keyring
from services.chassis.settings import Settings
from tests.chassis.running import free_port
from tests.faults import offsets, tail
from tests.faults.proxy import KafkaProxy, PostgresProxy, listening

SERVICES = ("enrollment", "billing", "payment", "notify", "console")
READY_SECONDS = 90.0
FENCED = 75


async def until(what: Callable[[], Awaitable[object]], name: str, seconds: float) -> None:
    """Wait for a condition, with a deadline; TimeoutError names it."""
    end = time.monotonic() + seconds
    while not await what():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {name}")
        await asyncio.sleep(0.05)


async def for_seconds(seconds: float) -> None:
    """How long a fault lasts is the fault: nothing is waited for, so no event could end it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0.05)


class Siege:
    """A sandbox that can be hurt. done: how often each fault was done. missed: points that nobody came by.
    gaps: how often offsets stood beyond what was done before readers were set back; None: nobody was.
    """

    def __init__(self, servers: Servers, stack: Stack, folder: Path, skew: timedelta) -> None:
        self.servers, self.stack, self.folder, self.skew = servers, stack, folder, skew
        self.haunt = folder / "haunt"
        self.gaps: int | None = None
        self.keepers: dict[str, Keeper] = {}
        self.processes: dict[str, Process] = {}
        self.postgres: dict[str, PostgresProxy] = {}
        self.kafka: dict[str, KafkaProxy] = {}
        self.done: Counter[str] = Counter()
        self.missed: list[str] = []
        self.codes: Counter[str] = Counter()
        self._turn = asyncio.Lock()          # one server dies at a time
        self._down = asyncio.Semaphore(2)    # and two services, so that the city still lives

    # ---- what it is

    @property
    def ground(self) -> Ground:
        """What a city needs to live here, past the proxies."""
        doors = {name: process.door for name, process in self.processes.items()}
        return Ground(
            kafka=self.stack.kafka, keys=self.folder / "keys",
            outside=Outside(doors=doors, provider=f"http://{doors['wechat']}"),
            sms=f"http://{doors['sms']}", mail=f"http://{doors['mail']}",
            auditor=self.stack.database_url("auditor"), now=lambda: datetime.now(UTC) + self.skew,
        )

    def keeper(self, name: str, process: Process) -> Keeper:
        """Its supervisor; what it says of ends is counted."""
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        return Keeper(process, logs / f"{name}.log", self._heard)

    def _heard(self, line: str) -> None:
        self.codes[line.partition(") ")[2].partition(" after")[0]] += 1

    def said(self, event: str) -> int:
        """How often the logs of the services have an event."""
        logs = (self.folder / "logs").glob("*.log*")
        return sum(log.read_text(errors="replace").count(f'"{event}"') for log in logs)

    async def ready(self, *names: str, seconds: float = READY_SECONDS) -> None:
        """Wait until these answer; TimeoutError: one does not."""
        for name in names or tuple(self.keepers):
            await until(self.keepers[name].answers, f"{name} to answer", seconds)

    # ---- what is done to a service

    async def kill(self, service: str) -> None:
        """SIGKILL, once it answers, and until it answers again."""
        async with self._down:
            await self.ready(service)
            await for_seconds(random.uniform(0.0, 1.0))     # somewhere in its work
            self._forgive(service)
            self._signal(service, signal.SIGKILL)
            self.done[f"SIGKILL of {service} at random"] += 1
            await self.ready(service)

    async def kill_at(self, service: str, point: str, seconds: float) -> bool:
        """SIGKILL at a named point; False: nobody came by in time."""
        async with self._down:
            await self.ready(service)
            self._forgive(service)
            hit = await self._armed(service, point, seconds)
            await self.ready(service)
        return hit

    async def _armed(self, service: str, point: str, seconds: float) -> bool:
        arm = self.haunt / f"arm-{service}"
        write_private(arm, point.encode())
        end = time.monotonic() + seconds
        while arm.exists():
            if time.monotonic() > end:
                arm.unlink(missing_ok=True)
                self.missed.append(f"{service}: {point}")
                return False
            await asyncio.sleep(0.02)
        self.done["SIGKILL at a named point"] += 1
        self.done[f"point {point}"] += 1
        return True

    async def freeze(self, service: str, seconds: float) -> None:
        """SIGSTOP for so long; an heir of the same name takes over, and the zombie must not write again."""
        await self.ready(service)
        self._forgive(service)
        heir = await self._second(service, "heir", member=0)
        self._signal(service, signal.SIGSTOP)
        heir.start()
        try:
            await for_seconds(seconds)
        finally:
            self._signal(service, signal.SIGCONT)
            await heir.stop()
        self.done["SIGSTOP beyond every time-out, with an heir"] += 1

    async def storm(self, service: str, times: int) -> None:
        """A second member comes and goes; each time all partitions move."""
        for number in range(times):
            spare = await self._second(service, "spare", member=1)
            spare.start()
            try:
                await until(spare.answers, f"the spare of {service}", READY_SECONDS)
                await for_seconds(random.uniform(0.0, 1.5))
            finally:
                if number % 2 and spare.pid:
                    os.kill(spare.pid, signal.SIGKILL)
                await spare.stop()
            self.done["rebalances by a member that comes and goes"] += 2

    async def replay(self, service: str, *, commands: bool = True) -> None:
        """Its groups read their topics from offset 0 again, while all else goes on."""
        await self.ready(service)
        keeper = self.keepers[service]
        await keeper.stop()
        try:
            async with self._turn:
                await offsets.to_the_beginning(self.stack, service, commands=commands)
        finally:
            keeper.start()
        self.done["replays from offset 0"] += 1

    def _forgive(self, service: str) -> None:
        """Its next end is its first one: no pause grows."""
        self.keepers[service]._failures = 0

    def _signal(self, service: str, number: signal.Signals) -> None:
        pid = self.keepers[service].pid
        if pid:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    async def _second(self, service: str, role: str, *, member: int) -> Keeper:
        """Another process of a service, with a door of its own, not started yet."""
        first = self.processes[service]
        settings = msgspec.toml.decode(first.settings.read_bytes(), type=Settings)
        file = first.settings.with_name(f"{service}-{role}.toml")
        door = f"127.0.0.1:{free_port()}"
        write_private(file, msgspec.toml.encode(replace(settings, member=member, door=door)))
        return self.keeper(
            f"{service}-{role}", replace(first, name=f"{service}-{role}", settings=file, door=door)
        )

    # ---- what is done to servers and wires

    async def kill_kafka(self) -> None:
        """SIGKILL of the broker, and a start over the same data."""
        kafka = self.servers.kafka
        assert kafka is not None
        async with self._turn:
            await asyncio.to_thread(kafka.stop, "KILL")
            await asyncio.to_thread(_start_patiently, kafka)
        self.done["SIGKILL of the broker"] += 1

    async def kill_postgres(self) -> None:
        """As by a crash (immediate shutdown: nothing is written down), and a start over the same data."""
        postgres = self.servers.postgres
        assert postgres is not None
        async with self._turn:
            await asyncio.to_thread(postgres.stop, "QUIT")
            await asyncio.to_thread(_start_patiently, postgres)
        self.done["crash of Postgres"] += 1

    async def outage(self, which: str, seconds: float) -> None:
        """Nobody of ours reaches the broker, or the database, for so long."""
        proxies = list((self.kafka if which == "broker" else self.postgres).values())
        for proxy in proxies:
            proxy.shut()
        try:
            await for_seconds(seconds)
        finally:
            for proxy in proxies:
                proxy.down = False
        self.done[f"outages of the {which} of {seconds:.0f} s"] += 1

    async def swallow(self, which: str, service: str, count: int, seconds: float) -> None:
        """Lose so many replies: to COMMIT ("commit"), or of the broker to a producer ("ack")."""
        proxy = self.postgres[service] if which == "commit" else self.kafka[service]
        for _ in range(count):
            before, proxy.swallow = proxy.lost, 1

            async def lost(before: int = before) -> bool:
                return proxy.lost > before

            try:
                await until(lost, f"a reply to lose of {service}", seconds)
            except TimeoutError:
                self.missed.append(f"{service}: no {which} to lose")
                break
            finally:
                proxy.swallow = 0
            self.done["cut replies to COMMIT" if which == "commit" else "cut produce acks"] += 1

    async def cut(self, service: str) -> None:
        """All its connections break off."""
        self.postgres[service].cut_all()
        self.kafka[service].cut_all()
        self.done["all connections of a service cut"] += 1

    async def lose_tail(self, topic: str, records: int) -> None:
        """The broker dies and forgets the newest acknowledged records of a topic; its owner says them again.
        """
        kafka = self.servers.kafka
        assert kafka is not None
        async with self._turn:
            await asyncio.to_thread(kafka.stop, "KILL")
            lost, since = await asyncio.to_thread(tail.truncate, kafka.data, topic, records)
            await asyncio.to_thread(_start_patiently, kafka)
        self.done["SIGKILL of the broker"] += 1
        if not lost:
            self.missed.append(f"{topic} had no tail to lose")
            return
        await self.republish(topic.partition(".")[0], since)
        self.done["records lost from a topic's tail and republished"] += lost

    async def republish(self, service: str, since: datetime) -> None:
        """An operator's orders, until they are answered: everybody goes back to before it, then it is said
        again. What offsets show from then on is of our making.
        """
        if self.gaps is None:
            self.gaps = self.said("gap_refilled")
        keys = load_keyring(self.folder / "keys" / "operators.json")
        operators = Partner("operators", self.stack.kafka("operators"), keys, self.ground.now, tries=20)
        await operators.start()
        try:
            orders = [(Reread, reader) for reader in SERVICES] + [(Republish, service)]
            for order, to in orders:
                await _accepted(operators, order(request_id="", service=to, operator="siege", since=since))
        finally:
            await operators.stop()

    async def heal(self) -> None:
        """Nothing is hurt any more, and everybody answers."""
        for proxy in (*self.postgres.values(), *self.kafka.values()):
            proxy.down, proxy.swallow = False, 0
        for service in SERVICES:
            (self.haunt / f"arm-{service}").unlink(missing_ok=True)
            self._signal(service, signal.SIGCONT)
        await self.ready()

    async def http(self, name: str, path: str) -> Any:
        """What one of the outside says at its side door, as lines."""
        import aiohttp  # noqa: PLC0415 -- here only

        url = f"http://{self.processes[name].door}{path}"
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            response.raise_for_status()
            return [msgspec.json.decode(line) for line in (await response.read()).splitlines()]


def _start_patiently(server: Kafka | Postgres) -> None:
    """A server that is slow to recover is started again, as the supervisor does."""
    for _ in range(5):
        try:
            return server.start()
        except (KafkaTrouble, PostgresTrouble):
            continue
    return server.start()


@asynccontextmanager
async def besieged(
    servers: Servers, stack: Stack, folder: Path, *, bug: str = "", provider: dict[str, Any] | None = None
) -> AsyncIterator[Siege]:
    """All processes over provisioned servers, answering; ended with the block. bug: planted in each service.

    provider: settings of the payment provider's simulator, its faults above all.
    """
    make_keys(folder / "keys")
    siege = Siege(servers, stack, folder, await begin(stack))
    siege.haunt.mkdir(exist_ok=True)
    (siege.haunt / "bug").unlink(missing_ok=True)
    if bug:
        (siege.haunt / "bug").write_text(bug, encoding="utf-8")
    host, _, port = stack.kafka_bootstrap.rpartition(":")
    async with AsyncExitStack() as exits:
        changes: dict[str, dict[str, Any]] = {"wechat": provider or {}}
        for service in SERVICES:
            database = await exits.enter_async_context(listening(PostgresProxy(stack.pg_host, stack.pg_port)))
            broker = await exits.enter_async_context(listening(KafkaProxy(host, int(port))))
            siege.postgres[service], siege.kafka[service] = database, broker
            kafka = msgspec.to_builtins(stack.kafka(service)) | {"bootstrap": broker.address}
            changes[service] = {"database": database.url(stack.database_url(service)), "kafka": kafka}
        for process in make_processes(folder, stack, changes):
            haunted = process.name in SERVICES
            made = replace(process, module="tests.faults.haunted") if haunted else process
            siege.processes[process.name] = made
            siege.keepers[process.name] = siege.keeper(process.name, made)
        try:
            for keeper in siege.keepers.values():
                keeper.start()
            await siege.ready()
            yield siege
        finally:
            await asyncio.gather(*(keeper.stop() for keeper in siege.keepers.values()))


async def _accepted(operators: Partner, order: Reread | Republish) -> None:
    """The order until it is done, each time under another id; a service that is being hurt may refuse it."""
    end = time.monotonic() + READY_SECONDS
    while True:
        order = replace(order, request_id=f"siege-{time.monotonic_ns()}")
        if isinstance(answer := await operators.ask(order), Accepted):
            return
        if time.monotonic() > end:
            raise TimeoutError(f"{answer}")
