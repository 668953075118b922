"""Do rows move only as their state tables allow, is what was said the same as what stands there, and what
nobody has to read again done?
"""

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import asyncpg
from aiokafka import ConsumerRecord, TopicPartition
from msgspec.json import decode

from contracts.message import CONTRACTS
from services.billing.rules import TRANSITIONS as BILL
from services.chassis.provision import SCHEMAS
from services.chassis.tables import ENGINE_TABLES
from services.enrollment.rules.applications import TRANSITIONS as APPLICATION
from services.enrollment.rules.coverage import TRANSITIONS as COVERAGE
from services.notify.rules import NOTIFICATION
from services.payment.rules import DUE, FUNDS, ORDER, ItemStatus

if TYPE_CHECKING:
    from tests.simulation.city import City

_ITEM = {(ItemStatus.OPEN, "ends"): frozenset({ItemStatus.SETTLED, ItemStatus.SUSPENSE})}
# Of each service: its rows that have a state, their ids, and which moves there are.
_STATES: dict[str, tuple[tuple[str, str, Mapping[Any, Any]], ...]] = {
    "enrollment": (
        ("enrollment", "enrollment_id::text", APPLICATION),
        ("coverage", "enrollment_id::text", COVERAGE),
    ),
    "billing": (("bill", "obligation_id || '/' || version", BILL),),
    "payment": (
        ("obligation", "obligation_id::text", DUE),
        ("orders", "order_id::text", ORDER),
        ("order_item", "order_id || '/' || item", _ITEM),
        ("funds", "funds_id::text", FUNDS),
    ),
    "notify": (("notification", "notification_id::text", NOTIFICATION),),
}
# Which state a fact leaves its row in, whose id it carries where.
_SAYS = {
    "EnrollmentSubmitted": ("enrollment", "{enrollment_id}", "SUBMITTED"),
    "EnrollmentReturned": ("enrollment", "{enrollment_id}", "RETURNED"),
    "EnrollmentRejected": ("enrollment", "{enrollment_id}", "REJECTED"),
    "EnrollmentApproved": ("enrollment", "{enrollment_id}", "APPROVED"),
    "CoverageWaiting": ("coverage", "{enrollment_id}", "WAITING"),
    "CoverageActivated": ("coverage", "{enrollment_id}", "ACTIVE"),
    "BillIssued": ("bill", "{obligation_id}/{version}", "ISSUED"),
    "BillWaived": ("bill", "{obligation_id}/{version}", "WAIVED"),
    "BillSettled": ("bill", "{obligation_id}/{version}", "SETTLED"),
    "FundsUnmatched": ("funds", "{funds_id}", "RECEIVED"),
    "NotificationSent": ("notification", "{notification_id}", "SENT"),
    "NotificationFailed": ("notification", "{notification_id}", "DEAD"),
}
_UNSAID = {"coverage": {"PENDING"}, "notification": {"SENDING", "DEFERRED", "FALLBACK"}}
_TABLES = """
select relname from pg_class join pg_namespace n on n.oid = relnamespace
where nspname = $1 and relkind in ('r', 'p') and not relispartition and relname <> all($2)"""
_PROJECTION = ("step", "person", "tally")
_COUNTED = {"console.tally"}        # how many were heard, answers to operators among them
Rows = dict[tuple[str, str], str]       # status by table and id


def reachable(moves: Mapping[Any, Any]) -> set[tuple[str, str]]:
    """From where to where, by any number of moves: a commit may make two."""
    pairs = {(str(start), str(end)) for (start, _), ends in moves.items()
             for end in (ends if isinstance(ends, frozenset) else (ends,))}
    while more := {(a, d) for a, b in pairs for c, d in pairs if b == c} - pairs:
        pairs |= more
    return pairs


_MOVES = {table: reachable(moves) for tables in _STATES.values() for table, _, moves in tables}


_DONE = 'select lane, topic, partition, "offset" from {}.progress'
_KEPT = """
select id from unnest($1::uuid[], $4::bigint[]) it(id, place)
where not exists (select from {0}.inbox where ce_id = id)
  and not exists (select from {0}.parked where event_id = id
      or (topic = $2 and partition = $3 and "offset" = place))"""

_UNHEARD = """
select id from unnest($1::uuid[]) id where not exists (select from {}.inbox where ce_id = id) order by 1"""


class Histories:
    """How every row has moved since the run began, and how far each lane was."""

    def __init__(self, monitor: asyncpg.Connection) -> None:
        self._monitor = monitor
        self.rows: Rows = {}
        self._done: dict[tuple[str, str, TopicPartition], int] = {}     # by service and lane
        self._furthest: dict[tuple[str, str, TopicPartition], int] = {}     # before somebody set it back

    async def passed(self, city: "City", touched: Iterable[str]) -> list[str]:
        """I15: what counts as done and is not, and what is committed and never counted as done."""
        wrong: list[str] = []
        for service in sorted(touched):
            for lane, *place, done in await self._monitor.fetch(_DONE.format(service)):
                partition = TopicPartition(*place)
                log = city.broker.logs.get(partition, [])
                here = service, lane, partition
                before = self.passed_by(*here) + 1
                wrong += _unread(city, f"{service}-{lane}", partition, before, done)
                fresh = log[max(before, city.broker.begin(partition)):done + 1]     # what is left of it
                self._done[here], self._furthest[here] = done, max(self._furthest.get(here, -1), done)
                facts = {id: record.offset for record in fresh if (id := _fact_of(record, service, lane))}
                if facts:
                    wrong += await self._lost(service, partition, facts)
        committed, city.broker.just_committed = city.broker.just_committed, []
        for group, partition, offset in committed:
            service, _, lane = group.partition("-")
            done = self._furthest.get((service, lane, partition), -1)
            if offset > done + 1:
                wrong.append(f"I15 {group} {partition.topic}/{partition.partition}: {offset} is committed,"
                             f" and {done} was the last that is done")
        return wrong

    def passed_by(self, service: str, lane: str, partition: TopicPartition) -> int:
        """The last offset that counts as done there; -1: none."""
        return self._done.get((service, lane, partition), -1)

    async def _lost(self, service: str, partition: TopicPartition, facts: dict[str, int]) -> list[str]:
        rows = await self._monitor.fetch(_KEPT.format(service), [*facts], *partition, [*facts.values()])
        return [f"I15 {service} has passed {row[0]} in {partition.topic}, and it is nowhere" for row in rows]

    async def unheard(self, city: "City") -> list[str]:
        """I15: at the end each fact has reached all who read it, be it by another road."""
        wrong = []
        for group in city.broker.groups.values():
            service, _, lane = group.name.partition("-")
            ids = sorted({id for _, record in city.broker.order if record.topic in group.topics
                          if (id := _fact_of(record, service, lane))})
            rows = await self._monitor.fetch(_UNHEARD.format(service), ids)
            wrong += [f"I15 {group.name} has never heard {row[0]}" for row in rows]
        return wrong

    async def moved(self, services: Iterable[str]) -> list[str]:
        """I9: what has moved as no table of states allows, or is gone, since the last look."""
        wrong = []
        for service in sorted(set(services) & _STATES.keys()):
            sql = " union all ".join(
                f"select '{table}', {id}, status from {service}.{table}" for table, id, _ in _STATES[service])
            now: Rows = {(table, id): status for table, id, status in await self._monitor.fetch(sql)}
            mine = {table for table, _, _ in _STATES[service]}
            for row, before in self.rows.items():
                after = now.get(row, "gone") if row[0] in mine else before
                if after != before and (before, after) not in _MOVES[row[0]]:
                    wrong.append(f"I9 {service}.{row[0]} {row[1]} went from {before} to {after}")
            self.rows |= now
        return wrong


def _unread(city: "City", group: str, partition: TopicPartition, before: int, done: int) -> list[str]:
    """I15: whatever is passed was read for it; where progress was set back, once more."""
    read = city.broker.groups[group].read.setdefault(partition, set())
    passes = range(max(before, city.broker.begin(partition)), done + 1)
    missed = [n for n in passes if n not in read]
    read -= {*passes}
    place = f"{partition.topic}/{partition.partition}"
    return [f"I15 {group} has passed {place}/{missed[0]}, and has not read it"] if missed else []


def _fact_of(record: ConsumerRecord, service: str, lane: str) -> str:
    """Its id, if this lane of this service has to handle it as a fact; else nothing."""
    head = dict(record.headers)
    on = importlib.import_module(f"services.{service}.handlers").on
    known = on.by_type.get((head.get("ce_type") or b"").decode("utf-8", "replace"))
    mine = known is not None and known.lane == lane and record.key != b"nobody"
    if not mine or known.contract is None or known.contract.kind != "fact" or known.compacted:
        return ""       # of a compacted topic the last record counts, and no inbox is asked
    return (head.get("ce_id") or b"").decode()


def folded(city: "City") -> list[str]:
    """I10: the last word that was said about a row is its state. What is said once more is no word: nobody
    hears it twice, and a batch that was under way when all was ordered again does not come again with it.
    """
    said: Rows = {}
    last: dict[tuple[str, str], int] = {}       # by its number, for keys may have moved
    for _, record in city.broker.order:
        head = dict(record.headers)
        contract = CONTRACTS.get((head.get("ce_type") or b"").decode("utf-8", "replace"))
        owned = record.topic.split(".")[0] in SCHEMAS and record.key != b"nobody"
        if contract is None or not owned or record.value is None or contract.message.__name__ not in _SAYS:
            continue
        table, id, status = _SAYS[contract.message.__name__]
        row, number = (table, id.format_map(decode(record.value))), int(head["ce_sequence"])
        if number > last.get(row, 0):
            said[row], last[row] = status, number
    return [*_differences(said, city.histories.rows)]


def _differences(said: Rows, stand: Rows) -> Iterable[str]:
    for row, status in sorted(stand.items()):
        if row[0] in {table for table, _, _ in _SAYS.values()}:
            last = said.get(row)
            if last != status and not (last is None and status in _UNSAID.get(row[0], ())):
                yield f"I10 {row[0]} {row[1]} is {status}, and the last word about it was {last}"
    for row in sorted(said.keys() - stand.keys()):
        yield f"I10 {row[0]} {row[1]} was said to be {said[row]}, and there is none"


async def standing_rows(city: "City") -> dict[str, set[str]]:
    """All rows of the business, by table, but for where a record stood when it was heard."""
    found = {}
    for service in SCHEMAS:
        for (table,) in await city.schedule.monitor.fetch(_TABLES, service, [*ENGINE_TABLES]):
            sql = f"select (to_jsonb(it) - 'record_offset')::text from {service}.{table} it"
            found[f"{service}.{table}"] = {row[0] for row in await city.schedule.monitor.fetch(sql)}
    return found


async def forget_heard(city: "City") -> None:
    """The console has never heard of anything."""
    for table in (*_PROJECTION, "inbox"):
        await city.schedule.monitor.execute(f"delete from console.{table}")
    city.handled = {name for name in city.handled if name[0] != "console"}


def replayed(before: dict[str, set[str]], after: dict[str, set[str]]) -> list[str]:
    """I20: everything said once more has changed nothing. I21: who began anew has the same."""
    wrong = []
    for table, rows in before.items():
        if table in _COUNTED:
            continue
        heard = table.startswith("console.")        # answers to the one who orders the replay come on top
        changed = rows - after[table] if heard else rows ^ after[table]
        if changed:
            wrong.append(f"{'I21' if heard else 'I20'} {table}: {len(changed)} differ: {min(changed)[:300]}")
    return wrong
