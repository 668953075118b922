"""Is the breaker any good? Each bug of bugs.toml is planted, and something must be found wrong.

`python -m tests.faults.hunt [NAME…]` hunts them first in the simulation, seed by seed, two at a time, and
then, one after the other, those that it has missed on one pair of real servers; what found which, and after
how long, it writes into docs/reliability.md.
"""

import asyncio
import json
import logging
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
from confluent_kafka.admin import AdminClient
from msgspec import Struct, to_builtins
from msgspec.structs import replace

from cli.verify import check
from sandbox.ending import end
from sandbox.postgres import remove
from sandbox.stack import Servers, Stack
from tests.faults import torture
from tests.faults.bugs import Bug, all_bugs
from tests.faults.chaos import Chaos
from tests.faults.chaos import Plan as Trouble
from tests.faults.field import prepared
from tests.faults.plan import Plan
from tests.faults.report import write_section
from tests.faults.siege import besieged
from tests.ground import empty_tables, empty_topics, remember_seed
from tests.waiting import until

SMALL = Plan(citizens=120, points_once=True, point_seconds=15.0)
LONGEST_SECONDS = 600.0
SEEDS, AT_ONCE = 40, 2      # in the simulation; on two cores
NO_BUG = Bug(name="", breaks="nothing", file="", old="", new="")


class Found(Struct, frozen=True, kw_only=True):
    """what: the first thing that was found wrong; empty: the bug was missed. seconds: until it was said.
    seeds: that the simulation played until it found it; 0: it did not.
    """

    bug: Bug
    what: str
    seconds: float
    seeds: int = 0


async def hunt(bug: Bug, servers: Servers, stack: Stack, folder: Path) -> Found:
    """One bug, over servers that are emptied first."""
    began = time.monotonic()
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    await asyncio.to_thread(folder.mkdir, parents=True)
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            wrong = await (_city if bug.by == "city" else _toy)(bug, servers, stack, folder)
    except TimeoutError:
        wrong = [f"a service does not come up, or nothing ends within {LONGEST_SECONDS:.0f} s"]
    return Found(bug=bug, what=wrong[0] if wrong else "", seconds=round(time.monotonic() - began, 1))


async def sought(bug: Bug) -> Found:
    """One bug in the simulation, in a process of its own."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.simulation.seek", bug.name, str(SEEDS), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    answer = json.loads(said)
    seconds = round(time.monotonic() - began, 1)
    seeds = answer["seeds"] if answer["what"] else 0
    return Found(bug=bug, what=answer["what"], seconds=seconds, seeds=seeds)


async def _city(bug: Bug, servers: Servers, stack: Stack, folder: Path) -> list[str]:
    plan = msgspec.convert(to_builtins(SMALL) | bug.under, Plan)
    await empty_tables(stack)
    await asyncio.to_thread(until, partial(_is_empty, stack.kafka_admin), "the last city's groups to end", 60)
    async with besieged(servers, stack, folder, bug=bug.name) as siege:
        living = asyncio.create_task(torture.torture(plan, siege, _silent, patience_seconds=150.0))
        looking = asyncio.create_task(_first_broken(stack))
        try:
            await asyncio.wait({living, looking}, return_when=asyncio.FIRST_COMPLETED)
            return looking.result() if looking.done() else living.result().wrong
        finally:
            await end(living, looking)


def _is_empty(bootstrap: str) -> bool:
    """No record and no group: members that were killed stay in theirs for a while, and with them offsets."""
    empty_topics(bootstrap)
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    return not admin.list_consumer_groups().result().valid


async def _first_broken(stack: Stack) -> list[str]:
    """Look every few seconds, as in production every minute; what is broken twice in a row."""
    before: set[str] = set()
    while True:
        await asyncio.sleep(3)      # a query that is always asked again
        now = {result.id: f"{result.id}: {result.what}" for result in await check(stack) if not result.ok}
        if again := sorted(before & now.keys()):
            return [now[id] for id in again]
        before = set(now)


async def _toy(bug: Bug, servers: Servers, stack: Stack, folder: Path) -> list[str]:
    """Handlers that fail, in ways that no real one does."""
    trouble = Trouble(
        seed=1,
        seconds=12.0,
        poison=0.005,
        shy=0.03,
        passing=0.1,
        bug=bug.name,
        settle_limit=90.0, rate=60,
        faults=(("kill", 3), ("commit", 2)),
    )
    async with prepared(servers, stack, folder) as field:
        return (await Chaos(field, trouble).run()).wrong


def _silent(_: str) -> None:
    """Nobody listens."""


@asynccontextmanager
async def ground() -> AsyncIterator[tuple[Servers, Stack, Path]]:
    """Servers, and a folder for one hunt after the other."""
    home = Path(tempfile.mkdtemp(prefix="canbao-hunt-", dir="/tmp"))
    await asyncio.to_thread(home.chmod, 0o711)
    try:
        async with torture.ground(home) as (servers, stack):
            await asyncio.to_thread(remember_seed, stack)
            yield servers, stack, home / "run"
    finally:
        remove(home)
        shutil.rmtree(home, ignore_errors=True)


async def hunt_all(names: list[str]) -> list[Found]:
    """All, or those that are named; a line for each, and the page is written as it goes."""
    bugs = [all_bugs()[name] for name in names or all_bugs()]
    found: dict[str, Found] = {}

    def note(one: Found) -> None:
        _tell(one)
        found[one.bug.name] = one
        write_section("planted bugs", section([found[bug.name] for bug in bugs if bug.name in found]))

    room = asyncio.Semaphore(AT_ONCE)

    async def seek(bug: Bug) -> None:
        async with room:
            one = await sought(bug)
        if one.what:
            note(one)

    await asyncio.gather(*map(seek, bugs))
    missed = [bug for bug in bugs if bug.name not in found]
    if missed:
        async with ground() as (servers, stack, folder):
            for by in sorted({bug.by for bug in missed}):
                await _control(by, servers, stack, folder)
            for bug in missed:
                note(await hunt(bug, servers, stack, folder))
    return [found[bug.name] for bug in bugs]


async def _control(by: str, servers: Servers, stack: Stack, folder: Path) -> None:
    """SystemExit: something is found on the servers where there is no bug."""
    control = await hunt(replace(NO_BUG, by=by), servers, stack, folder)
    if control.what:
        raise SystemExit(f"no bug was planted in the {by}, and yet: {control.what}")
    _tell(control)


def _tell(one: Found) -> None:
    name = one.bug.name or f"nothing planted in the {one.bug.by}"
    print(f"{one.seconds:6.1f} s  {name}: {one.what or 'nothing found'}", flush=True)  # noqa: T201


def section(found: list[Found]) -> str:
    """For docs/reliability.md."""
    seen = [one for one in found if one.what]
    rows = "\n".join(
        f"| {one.bug.name} | {one.bug.breaks} | {one.what[:110].replace('|', '/') or '**missed**'}"
        f" | {f'seed {one.seeds}' if one.seeds else one.bug.by} | {one.seconds:.0f} s |" for one in found
    )
    seeds = [one.seeds for one in seen if one.seeds]
    by_seeds = (
        f"; {len(seeds)} of them by the simulation, after {statistics.median(seeds):g} seeds in the median"
        f" ({min(seeds)} to {max(seeds)})" if seeds else ""
    )
    left = [name for name in all_bugs() if name not in {one.bug.name for one in found}]
    return (
        "## Planted bugs\n\n`.venv/bin/python -m tests.faults.hunt` plants each of `tests/faults/bugs.toml`,"
        f" first in the simulation\n({SEEDS} seeds), then in the processes that are under fire; where none is"
        f" planted, both find nothing.\n{len(seen)} of {len(found)} were found{by_seeds};"
        f" {len(left)} were not hunted this time.\n\n"
        "| bug | what it breaks | the first thing found wrong | where | after |\n|---|---|---|---|---|\n"
        f"{rows}\n" + (f"\nNot hunted yet: {'; '.join(left)}.\n" if left else "")
    )


if __name__ == "__main__":
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    asyncio.run(hunt_all(sys.argv[1:]))
