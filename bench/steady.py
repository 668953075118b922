"""How long does a business transaction take while others come at a steady rate, and what does that cost?

Open loop: everybody has an instant at which they are due, and time counts from there, however late the
sender is. Two groups move at once, one pays while the next applies, so that both acts always have the full
rate. From the application due to the bill's notice durable, and from the payment due to the last notice of
the cover durable; what lies between is the citizen's own time.
"""

import math
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
from msgspec import Struct

from bench import cpu, gate
from bench.comparison import Say
from bench.driver import Order
from bench.memory import peaks
from bench.ours import Ours
from bench.pipeline import PARTS, Broken, check
from bench.site import Site, site

LOADS = (0.1, 0.5, 0.8)  # of its own maximum
SLOW = 50.0  # business transactions a second that a small town has at its worst
_GROUPS = 3
_COMMITTED = """
select person_id::text, template, extract(epoch from pg_xact_commit_timestamp(xmin))::float8
from notify.notification where person_id = any($1::uuid[])"""
_FIRST, _LAST = ("bill_issued",), ("payment_settled", "coverage_activated")


class Size(Struct, frozen=True, kw_only=True):
    """closed: people of a round that finds the maximum. seconds: of each of two measured phases at a load."""

    closed: int
    seconds: float


QUICK = Size(closed=1_000, seconds=2.0)
FULL = Size(closed=5_000, seconds=6.0)
_MOST_RATE = 8_000.0  # there are not more people


class Level(Struct, frozen=True, kw_only=True):
    """What was seen at one rate. ways: of each transaction the milliseconds of its two acts. cores: by part,
    of one processor.
    """

    rate: float
    ways: list[tuple[float, float]]
    cores: dict[str, float]
    foreign_share: float

    def figures(self) -> dict[str, Any]:
        """Percentiles, of the whole and of its acts, and what it cost."""
        told = {"e2e_ms": [sum(both) for both in self.ways]}
        told |= {act: [both[n] for both in self.ways] for n, act in enumerate(("apply_ms", "pay_ms"))}
        return {
            "bt_per_s": round(self.rate, 1),
            "n": len(self.ways),
            **{
                what: {name: round(percentile(ms, p), 1) for name, p in _PERCENTILES.items()}
                for what, ms in told.items()
            },
            "cores": {part: round(each, 3) for part, each in self.cores.items()},
            "foreign_share": round(self.foreign_share, 3),
        }


_PERCENTILES = {"p50": 50.0, "p99": 99.0, "p999": 99.9}


def percentile(values: Sequence[float], p: float) -> float:
    """The smallest value that p per cent of all do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * p / 100) - 1)]


async def measure(folder: Path, size: Size, say: Say) -> dict[str, Any]:
    """The maximum, the loads, a slow day, and the memory meanwhile. Raises Broken and what `site` raises."""
    first = 3 * size.closed
    async with site(folder, first, say, most=first + _people(_MOST_RATE, size)) as here:
        services = here.services()
        async with peaks(services.pids) as memory:
            await services.up()
            try:
                closed = [await here.play(services, size.closed) for _ in range(3)][1:]
                maximum = min(median(it.transactions / it.seconds for it in closed), _MOST_RATE)
                say(f"own maximum {maximum:,.0f} BT/s")
                await here.register(_people(maximum, size))
                levels = {"50": await level(here, services, SLOW, 2 * size.seconds)}
                for load in LOADS:
                    levels[f"{load:.0%}"] = await level(here, services, load * maximum, size.seconds)
            finally:
                await services.down()
    return {
        "maximum_bt_per_s": round(maximum),
        "levels": {name: each.figures() for name, each in levels.items()},
        "cores_at_50": round(sum(levels["50"].cores[part] for part in PARTS), 3),
        "peak_pss_mb": {name: round(most / 1e6) for name, most in memory.items()},
        "most_pss_mb": round(max(memory.values()) / 1e6),
    }


def _people(maximum: float, size: Size) -> int:
    """How many the loads take, if that is the maximum."""
    rates = [SLOW * 2, *(load * maximum for load in LOADS)]
    return sum(_GROUPS * (int(rate * size.seconds) + 1) for rate in rates)


async def level(
    here: Site, services: Ours, rate: float, seconds: float, *, repeated: Collection[str] = ()
) -> Level:
    """Two phases of so many seconds at this rate. Raises Broken. repeated: see gate.faults."""
    ground, driver = here.ground, here.driver
    count = max(1, int(rate * seconds))
    before = await gate.count(ground.db, ground.kafka, "")
    await _prepare(here, count)
    await driver.do(Order(do="apply", count=count))
    phases, spent = [], []
    for _ in range(_GROUPS - 1):
        await driver.do(Order(do="sign"))
        await _prepare(here, count)
        start = cpu.read_clock(time.monotonic_ns())
        phases.append(await driver.do(Order(do="steady", count=count, rate=rate)))
        end = cpu.read_clock(time.monotonic_ns())
        parts = {"app": services.roots(), "postgres": [ground.postgres], "broker": [ground.broker],
                 "load_generator": [driver.pid]}  # fmt: skip
        spent.append(cpu.spent(start, end, parts, without={ground.db.get_server_pid()}))
    await driver.do(Order(do="sign"))
    await driver.do(Order(do="pay", count=count))
    await check(ground, "", before, _GROUPS * count, repeated=repeated)
    wall = sum(each.wall_ns for each in spent)
    return Level(
        rate=rate,
        ways=await _took(ground.db, phases[0]["applied"], phases[1]["paid"]),
        cores={part: sum(each.by_part[part] for each in spent) / wall for part in spent[0].by_part},
        foreign_share=sum(each.foreign_ns for each in spent) / (wall * cpu.CORES),
    )


async def _prepare(here: Site, count: int) -> None:
    await here.driver.do(Order(do="prepare", first=here.take(count), count=count, people=here.people))


async def _took(
    db: asyncpg.Connection, applied: list[tuple[str, float]], paid: list[tuple[str, float]]
) -> list[tuple[float, float]]:
    """Milliseconds of the same people's two acts."""
    committed: dict[tuple[str, str], float] = {}
    for person, template, at in await db.fetch(_COMMITTED, [person for person, _ in applied]):
        committed[person, template] = at
    due = dict(applied)
    return [
        (
            1000 * (_last(committed, person, _FIRST) - due[person]),
            1000 * (_last(committed, person, _LAST) - at),
        )
        for person, at in paid
    ]


def _last(committed: dict[tuple[str, str], float], person: str, templates: tuple[str, ...]) -> float:
    try:
        return max(committed[person, template] for template in templates)
    except KeyError as missing:
        raise Broken(f"nothing durable for {missing}") from None


def as_text(said: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"own maximum, closed loop: {said['maximum_bt_per_s']:,} BT/s",
        f"{'load':>6}{'BT/s':>8}{'n':>8}{'p50':>9}{'p99':>9}{'p99.9 ms':>9}{'apply p50':>11}{'pay p50':>9}"
        + "".join(f"{part:>10}" for part in (*PARTS, "load gen."))
        + "  processors; foreign",
    ]
    for name, it in said["levels"].items():
        ms = "".join(f"{it['e2e_ms'][p]:>9,.0f}" for p in _PERCENTILES)
        acts = f"{it['apply_ms']['p50']:>11,.0f}{it['pay_ms']['p50']:>9,.0f}"
        cores = "".join(f"{it['cores'][part]:>10.2f}" for part in (*PARTS, "load_generator"))
        lines.append(
            f"{name:>6}{it['bt_per_s']:>8,.0f}{it['n']:>8,}{ms}{acts}{cores}  {it['foreign_share']:.0%}"
        )
    memory = ", ".join(f"{name} {most} MB" for name, most in said["peak_pss_mb"].items())
    return "\n".join([*lines, f"peak memory (PSS) meanwhile: {memory}"])
