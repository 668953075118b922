"""What does one business transaction cost that no busy machine can blur? Commits, round trips, rows, bytes,
instructions.

A fixed batch of applicants goes all the way, the engine and the raw loop driven directly: no process, no
broker, no timing. The first batch warms (statements are prepared), the second is counted in Postgres, the
third in Python. What was counted last stands in `figures/exact.json`, and whoever changes it sees it there.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import asyncpg
import msgspec
from msgspec import Struct

from bench import load, ours, results, wal
from bench.driver import ISSUED, SUBMITTED, Driver, Issued, World, decode_issued, decode_submitted
from bench.exact_sides import Engines, Mail, RawEngines, Side
from bench.load import Applicant
from bench.raw import ground as raw_ground
from bench.tap import Passed, tapped
from contracts.billing import BILLS
from contracts.enrollment import ENROLLMENTS
from contracts.partners import PARTNERS
from contracts.topics import SERVICES
from sandbox.keys import make_keys
from sandbox.processes import ROOT
from sandbox.stack import Stack
from services.chassis.relay import cheap_lz4
from services.chassis.settings import Kafka

PEOPLE = 100  # of one batch
MOST_OFF = 0.02


class Sizes(Struct, frozen=True):
    """What a batch of PEOPLE did. rows, wal: by table, without the raw loop's prefix; wal: bytes of heap and
    index. kafka: bytes said; kafka_lz4: as they are sent, not exact. instructions: of Python, by file.
    """

    commits: int
    round_trips: int
    rows: dict[str, int]
    wal: dict[str, tuple[int, int]]
    kafka: int
    kafka_lz4: int
    instructions: dict[str, int]

    @property
    def wal_bytes(self) -> int:
        """Of all tables."""
        return sum(map(sum, self.wal.values()))

    def figures(self) -> dict[str, float]:
        """What is held to ± 2 %."""
        return {
            "commits": self.commits,
            "round trips": self.round_trips,
            "rows": sum(self.rows.values()),
            **{f"rows of {table}": count for table, count in self.rows.items()},
            "WAL bytes": self.wal_bytes,
            "Kafka bytes": self.kafka,
        }


class Exact(Struct, frozen=True):
    """Both loops' sizes. python: whose instructions they are."""

    people: int
    python: str
    ours: Sizes
    raw: Sizes

    @property
    def wal_ratio(self) -> float:
        """Bytes of log, ours for one of the raw loop's."""
        return self.ours.wal_bytes / self.raw.wal_bytes


def differences(expected: Exact, found: Exact) -> list[str]:
    """What is more than 2 % off, one line each. Instructions count only between the same Pythons."""
    lines = []
    for side in ("ours", "raw"):
        before, now = getattr(expected, side), getattr(found, side)
        was, is_ = before.figures(), now.figures()
        if expected.python == found.python:
            was["instructions"] = sum(before.instructions.values())
            is_["instructions"] = sum(now.instructions.values())
        for name in {**was, **is_}:
            old, new = was.get(name, 0), is_.get(name, 0)
            if abs(new - old) > MOST_OFF * old:
                lines.append(f"{side}, {name}: {new:,.0f} for {found.people} people, expected {old:,.0f}")
    return lines


def expected() -> Exact:
    """What was counted and written down last."""
    return msgspec.convert(results.recall()["exact"].figures, Exact)


async def count(stack: Stack, folder: Path) -> Exact:
    """Count both on a provisioned stack whose tables are empty; the raw loop's tables stay there."""
    cheap_lz4()
    make_keys(folder / "keys")
    passed = Passed()
    async with AsyncExitStack() as exits:
        db = await asyncpg.connect(stack.pg_admin_dsn, database=stack.database, ssl="disable")
        exits.push_async_callback(db.close)
        port = await exits.enter_async_context(tapped(stack.pg_host, stack.pg_port, passed))
        skew = (await ours.set_clock(db)).total_seconds()
        dsn = await raw_ground.lay(db, stack)
        mail = Mail(time.time_ns() // 1_000_000)
        engines = Engines(mail)
        await engines.open(stack, folder / "keys", port, exits)
        raw = RawEngines(mail)
        await raw.open(stack, dsn, folder / "keys", skew, port, exits)
        driver = _driver(folder, "", skew)
        await _register(engines, driver, mail)
        await raw_ground.fill(db)
        other = _driver(folder, raw.prefix, skew)
        other.ids = dict(driver.ids)
        return Exact(
            people=PEOPLE,
            python="{}.{}".format(*sys.version_info),
            ours=await _measured(engines, driver, mail, db, passed),
            raw=await _measured(raw, other, mail, db, passed),
        )


def _driver(folder: Path, prefix: str, skew: float) -> Driver:
    nowhere, intents = Kafka(bootstrap=""), folder / "intents.jsonl"
    load.write(intents, 3 * PEOPLE, seed=7)
    return Driver(
        World(
            prefix=prefix,
            bank=nowhere,
            agency=nowhere,
            keys=str(folder / "keys"),
            intents=str(intents),
            seed=7,
            run="x",
            skew_seconds=skew,
        )
    )


async def _register(side: Side, driver: Driver, mail: Mail) -> None:
    todo: dict[str, Applicant] = {f"x-{one.number}-register": one for one in driver.people}
    for request_id, one in todo.items():
        mail.put(driver.bank.topic, driver.registration(request_id, one))
    while await side.turn():
        pass
    for run in mail.unread("bank", [PARTNERS["bank"].replies]):
        for letter in run:
            driver.registered(letter.value or b"", todo)
    assert not todo, f"{len(todo)} people are not registered"


async def _measured(side: Side, driver: Driver, mail: Mail, db: asyncpg.Connection, passed: Passed) -> Sizes:
    await _walk(side, driver, mail, 0)
    rows, start = await _rows(side, db), await wal.position(db)
    mail.bytes = mail.packed = 0
    passed.forget()
    await _walk(side, driver, mail, 1)
    commits, round_trips, said, packed = passed.commits, passed.round_trips, mail.bytes, mail.packed
    written = await wal.written(db, start, await wal.position(db))
    grown = {
        table: count - rows.get(table, 0)
        for table, count in (await _rows(side, db)).items()
        if count > rows.get(table, 0)
    }
    with instructions() as by_file:
        await _walk(side, driver, mail, 2)
    return Sizes(
        commits=commits,
        round_trips=round_trips,
        rows=grown,
        wal={
            table.removeprefix(side.schemas): both
            for table, both in sorted(written.by_table.items())
            if table.removeprefix(side.schemas) in grown
        },
        kafka=said,
        kafka_lz4=packed,
        instructions={str(Path(file).relative_to(ROOT)): number for file, number in by_file.most_common()},
    )


async def _walk(side: Side, driver: Driver, mail: Mail, number: int) -> None:
    """A batch of people, from the application to the cover."""
    await driver.prepare(number * PEOPLE, PEOPLE, [])
    for record in driver.ready:
        mail.put(driver.bank.topic, record)
    bills: list[tuple[Issued, int]] = []
    while await side.turn() + _heard(side, driver, mail, bills):
        pass
    assert len(bills) == PEOPLE, f"{len(bills)} bills for {PEOPLE} people"
    for record in driver.reports(bills):
        mail.put(driver.bank.topic, record)
    while await side.turn():
        pass


def _heard(side: Side, driver: Driver, mail: Mail, bills: list[tuple[Issued, int]]) -> int:
    """The agency decides, the bank takes bills in; how many decisions that were."""
    decisions = 0
    for run in mail.unread("driver" + side.prefix, [side.prefix + ENROLLMENTS, side.prefix + BILLS]):
        for letter in run:
            if letter.headers[3][1] == SUBMITTED:
                decision = driver.decision(decode_submitted(letter.value or b""), letter.partition)
                mail.put(driver.agency.topic, decision)
                decisions += 1
            elif letter.headers[3][1] == ISSUED:
                bills.append((decode_issued(letter.value or b""), letter.partition))
    return decisions


_ROWS = """
select n.nspname || '.' || coalesce(root.relname, c.relname),
       sum(s.n_tup_ins + s.n_tup_upd + s.n_tup_del)::bigint
from pg_stat_user_tables s join pg_class c on c.oid = s.relid join pg_namespace n on n.oid = c.relnamespace
left join pg_inherits h on h.inhrelid = c.oid left join pg_class root on root.oid = h.inhparent
where n.nspname = any($1) group by 1 order by 1"""


async def _rows(side: Side, db: asyncpg.Connection) -> dict[str, int]:
    """Rows inserted, changed and deleted up to now, by table."""
    for connection in (db, *side.connections):
        await connection.fetchval("select pg_stat_force_next_flush()")
    found = await db.fetch(_ROWS, [f"{side.schemas}{service}" for service in SERVICES])
    return {name.removeprefix(side.schemas): count for name, count in found}


@contextmanager
def instructions() -> Iterator[Counter[str]]:
    """Python's own instructions that run in our code meanwhile, by file."""
    counts: Counter[str] = Counter()
    places = (str(ROOT / "services"), str(ROOT / "contracts"), str(ROOT / "bench" / "raw"))

    def inside(frame: FrameType, what: str, _: Any) -> Any:
        if what == "opcode":
            counts[frame.f_code.co_filename] += 1
        return inside

    def enter(frame: FrameType, _: str, __: Any) -> Any:
        if not frame.f_code.co_filename.startswith(places):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return inside

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield counts
    finally:
        sys.settrace(before)


def as_text(found: Exact) -> str:
    """For people: totals, the log by table, and where Python's instructions run."""
    lines = [f"{'for one business transaction':<28}{'ours':>12}{'raw':>12}{'ours ÷ raw':>12}"]
    both = found.ours.figures(), found.raw.figures()
    told = [
        figures
        | {"Kafka bytes, lz4": side.kafka_lz4, "Python's instructions": sum(side.instructions.values())}
        for figures, side in zip(both, (found.ours, found.raw))
    ]
    for name in told[0]:
        if not name.startswith("rows of "):
            mine, other = (figures[name] / found.people for figures in told)
            lines.append(f"{name:<28}{mine:>12,.2f}{other:>12,.2f}{mine / other:>12.3f}")
    lines += ["", f"{'WAL bytes, heap + index':<28}{'ours':>16}{'raw':>16}"]
    for table, sizes in found.ours.wal.items():
        cells = [
            "" if each is None else f"{each[0] / found.people:,.0f} + {each[1] / found.people:,.0f}"
            for each in (sizes, found.raw.wal.get(table))
        ]
        lines.append(f"{table:<28}{cells[0]:>16}{cells[1]:>16}")
    lines += ["", "instructions of Python by file, ours"]
    most = list(found.ours.instructions.items())[:12]
    return "\n".join(lines + [f"{file:<40}{count / found.people:>12,.0f}" for file, count in most])
