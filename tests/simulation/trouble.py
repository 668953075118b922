"""What bad thing may happen to a member, a group, or all? Each by a name; what meets one step is a gate's."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from msgspec import Struct

from contracts.enrollment import Identity
from contracts.operations import Redrive, Republish, Reread, Resume
from contracts.partners import PARTNERS
from contracts.payment import ReportPayment
from contracts.topics import PARTITIONS, TOPICS
from services.chassis import ids
from services.chassis.ids import uuid7
from services.chassis.provision import SCHEMAS
from tests.people import YEAR
from tests.simulation.broker import Letter
from tests.simulation.citizens import signed
from tests.simulation.clockwork import START
from tests.simulation.lines import NO_ROOM
from tests.simulation.schedule import member_of
from tests.world import keyring

if TYPE_CHECKING:
    from tests.simulation.city import City

CRASH, FREEZE, ZOMBIE, STOP = "crash", "freeze", "zombie", "stop"
EARLIEST, SKIP, EXPIRE, GROW = "earliest", "skip", "expire", "more partitions"
DOWN, UP, CUT_OFF, RECONNECT = "broker down", "broker up", "cut off", "reconnect"
NO_DATABASE, DATABASE, FAILOVER = "no database", "database", "failover"
CROWDED, ROOMY = "crowded", "roomy"     # a server takes no more connections
DUPLICATE, GARBAGE, STRAY, BUGS, MEND = "duplicate", "garbage", "stray", "bugs", "mend"
TIME, CLOCK, REDRIVE, REPUBLISH, REREAD = "time", "clock", "redrive", "republish", "reread"
GARBAGES: tuple[tuple[str, bytes | None, bytes], ...] = (
    ("enrollment.enrollments", b"not json", b"enrollment.enrollment_approved.v1"),
    ("enrollment.enrollments", b'{"person_id": NaN}', b"enrollment.enrollment_approved.v1"),
    ("billing.bills", b"[" * 5000, b"billing.bill_issued.v1"),
    ("billing.bills", None, b"billing.bill_issued.v9"),
    ("payment.payments", b'{"amount_fen": 1.5}', b"payment.payment_settled.v1"),
    ("channels.wechat", b"\xff\xfe", b"payment.start_payment.v1"),
    ("channels.bank", b'{"request_id": "forged"}', b"payment.report_payment.v1"),
    ("agencies.990100", b"{}", b"nobody.knows_this.v1"),
)
_LEAP = """
do $$ begin
    perform setval(format('%I.%I', schemaname, sequencename)::regclass, last_value + 32)
    from pg_sequences where last_value is not null;
end $$"""
UNREADABLE = "5"        # of these, on a channel's topic
# Of each, its number in the catalogue of faults (reliability.md); what a gate may bring, too.
CATALOGUE = {
    "cut": "C1", "lost": "C3", "deadlock": "C6", "locked": "C7", "full": "C9", "slow": "C10",
    "not sent": "B1", "no word": "B3", "refused": "B7", "no reply": "B7", "again": "E1",
    "late": "B4", "slice": "B4", "black hole": "B5",
    "surely not": "F14", "silent": "F10", "silent, done": "F10", "no": "F14", "twice": "E1", "never": "F1",
    "otherwise": "E6", "forged": "E6", "mispaid": "F5", "bug": "E9", CRASH: "A1", FREEZE: "A4",
    ZOMBIE: "A4", STOP: "A3", "rebalance": "B6", EARLIEST: "B8", SKIP: "B9", EXPIRE: "B11", GROW: "B12",
    DOWN: "B2", CUT_OFF: "D6", NO_DATABASE: "C2", FAILOVER: "C4", CROWDED: "C8",
    DUPLICATE: "E1", GARBAGE: "E3", STRAY: "E8", BUGS: "E10", TIME: "A4", CLOCK: "D1", REDRIVE: "E13",
    REPUBLISH: "B10", REREAD: "B8", NO_ROOM: "E11",
}  # fmt: skip
REASONS = ("HANDLER_FAILED", "ID_FROM_FUTURE")      # what an operator redrives
KINDS = frozenset({
    CRASH, FREEZE, ZOMBIE, STOP, EARLIEST, SKIP, EXPIRE, GROW, DOWN, UP, CUT_OFF, RECONNECT,
    NO_DATABASE, DATABASE, FAILOVER, CROWDED, ROOMY, DUPLICATE, GARBAGE, STRAY, BUGS, MEND, TIME, CLOCK,
    REDRIVE, REPUBLISH, REREAD, NO_ROOM,
})  # fmt: skip


async def happen(city: "City", kind: str, to: str) -> bool:
    """It happens. False: it cannot, as things are."""
    if kind in (CRASH, FREEZE, ZOMBIE, STOP):
        return await _to_member(city, kind, to)
    if kind in (EARLIEST, SKIP, EXPIRE, GROW):
        return _to_group(city, kind, to)
    if kind in (DUPLICATE, GARBAGE, STRAY, REDRIVE, REPUBLISH, REREAD):
        return _to_topics(city, kind, to)
    if kind in (DOWN, UP):
        changes, city.broker.is_up = city.broker.is_up == (kind == DOWN), kind == UP
        return changes
    if kind in (FAILOVER, CROWDED, ROOMY):
        return await _to_connections(city, kind, to)
    if kind in (TIME, CLOCK):
        return await _to_clocks(city, kind, to)
    return _to_service(city, kind, to)


async def _to_member(city: "City", kind: str, to: str) -> bool:
    member = city.members.get(member_of(to))
    if kind == CRASH:
        if member is None:
            return False
        await city.crash(member.name)
        return True
    if kind == STOP:
        return member is not None and member.is_told_to_stop()
    if kind == ZOMBIE and member is not None:       # its groups do not wait for it
        to = member.name
        city.unsettle({lane.group for lane in member.lanes})
    if city.schedule.is_frozen(to) or (member is None and to not in city.schedule.gates):
        return False
    city.schedule.freeze(to)
    return True


def _to_group(city: "City", kind: str, to: str) -> bool:
    if kind == GROW:
        return _grow(city)
    group = city.broker.groups.get(to)
    if group is None:
        return False
    if kind == EXPIRE:
        return _expire(city, to)
    for topic in group.topics:
        for part in range(city.broker.partitions):
            partition = TopicPartition(topic, part)
            end = city.broker.end(partition) if kind == SKIP else 0
            if (group.name, partition) in city.broker.committed or kind == SKIP:
                city.broker.committed[group.name, partition] = end
    city.unsettle({to})
    return True


def _grow(city: "City") -> bool:
    """Every topic has more partitions from now on, and keys belong elsewhere; what is to be sent stays where
    it was. Once in a run.
    """
    if city.broker.partitions > PARTITIONS:
        return False
    city.broker.partitions = vars(ids)["PARTITIONS"] = PARTITIONS + 2     # put back when the run is over
    ids.partition_of.cache_clear()
    city.unsettle(set(city.broker.groups))
    return True


def _expire(city: "City", to: str) -> bool:
    """Retention takes half of what a group has not read yet, where our own outboxes can say it again."""
    there = unread(city, to)
    for partition, (at, end) in there.items():
        city.broker.expire(partition, at + (end - at + 1) // 2)
    return bool(there)


def unread(city: "City", group: str) -> dict[TopicPartition, tuple[int, int]]:
    """Where a group stands, of partitions that hold more of what a service of ours has said, and their ends.
    """
    found, broker = {}, city.broker
    for topic in broker.groups[group].topics:
        if topic.split(".")[0] in SCHEMAS and not TOPICS[topic].compacted:
            for part in range(broker.partitions):
                partition = TopicPartition(topic, part)
                at = max(broker.committed.get((group, partition), 0), broker.begin(partition))
                if at < broker.end(partition):
                    found[partition] = (at, broker.end(partition))
    return found


def _to_topics(city: "City", kind: str, to: str) -> bool:
    if kind == DUPLICATE:
        known = [record for _, record in city.broker.order]
        if not known:
            return False
        record = known[int(to) % len(known)]
        again = Letter(record.key, record.value, list(record.headers))
        city.broker.append(record.topic, record.partition, again)
    elif kind == GARBAGE:
        topic, value, kind_of = GARBAGES[int(to) % len(GARBAGES)]
        headers = [("ce_id", uuid7().encode()), ("ce_type", kind_of), ("ce_sequence", b"1")]
        city.broker.append(topic, None, Letter(b"nobody", value, headers))
        city.garbage += 1
    elif kind == STRAY:
        return _stray(city, to)
    else:
        order_all(city, kind)
    return True


def _stray(city: "City", to: str) -> bool:
    """Money for a bill that nobody knows, of a person whom somebody does."""
    ref, known = f"stray-{to}", sorted(city.names)
    if not known:
        return False
    card = Identity(name="王五", id_number="990100199001010010")
    sealed: Any = keyring("bank").seal(card, reader="payment", place=ref)
    report = ReportPayment(
        request_id=ref,
        person_id=known[int(to) % len(known)],
        obligation_id=uuid7(),
        insurance_year=YEAR,
        amount_fen=40_000,
        channel_ref=ref,
        paid_at=city.nature.now(),
        method="CASH",
        payer_saw=sealed,
    )
    city.broker.append(PARTNERS["bank"].topic, None, signed(city, "bank", report))
    return True


def order_all(city: "City", kind: str) -> None:
    """An operator orders it of every service."""
    for service in SCHEMAS:
        order(city, service, kind)


def order(city: "City", service: str, kind: str) -> None:
    """An operator's order, signed like any command."""
    city.orders += 1
    names: Any = {"request_id": f"order-{city.orders}", "service": service, "operator": "me"}
    command: Struct
    if kind in (REPUBLISH, REREAD):
        of_all = Republish if kind == REPUBLISH else Reread
        command = of_all(**names, since=START - timedelta(days=1))    # a clock may have been slow
    elif kind == "resume":
        command = Resume(**names)
    else:
        command = Redrive(**names, dry_run=False, reason=kind if kind in REASONS else REASONS[0])
    city.broker.append("operators", None, signed(city, "operators", command))


async def _to_connections(city: "City", kind: str, to: str) -> bool:
    """A synchronous standby takes over: every connection is gone, what was acknowledged stands, and sequences
    have leapt as far as the primary had logged ahead. Or a service gets no more connections, and its door has
    lost its own.
    """
    if kind != FAILOVER:
        if (to in city.crowded) == (kind == CROWDED):
            return False
        city.crowded.symmetric_difference_update({to})
        doors = [line for member in city.members.values() for line in member.lines
                 if member.service == to and line.actor.endswith(".door")]
        for line in doors if kind == CROWDED else ():
            await line.end()
        return True
    for member in city.members.values():
        for line in member.lines:
            await line.end()
    await city.schedule.monitor.execute(_LEAP)
    return True


async def _to_clocks(city: "City", kind: str, to: str) -> bool:
    if kind == TIME:
        await city.pass_time(float(to))
        return True
    city.nature.off = timedelta(seconds=int(to))
    return True


def _to_handler(city: "City", kind: str, to: str) -> bool:
    """It fails on all that comes; and until all is healed there is no room where that might be parked."""
    service, _, type_ = to.partition(" ")
    city.bugs.add((service, type_))
    if kind == NO_ROOM:
        city.no_room.add(service)
        if service == "enrollment":     # which keeps what nobody can read of the channels' topics
            _to_topics(city, GARBAGE, UNREADABLE)
    return True


def _to_service(city: "City", kind: str, to: str) -> bool:
    if kind in (BUGS, NO_ROOM):
        return _to_handler(city, kind, to)
    if kind == MEND:
        there = bool(city.bugs)
        city.bugs.clear()
        return there
    where = city.broker.cut_off if kind in (CUT_OFF, RECONNECT) else city.no_database
    starts = kind in (CUT_OFF, NO_DATABASE)
    if (to in where) == starts:
        return False
    where.symmetric_difference_update({to})
    return True
