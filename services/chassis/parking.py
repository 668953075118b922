"""What could not be handled, and how does it come back? Parked messages, those behind them, and those that
wait.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from msgspec.json import Decoder, encode

from contracts.operations import MessageParked
from contracts.reasons import Reason
from services.chassis import metrics
from services.chassis.arrival import Arrival, Raw, Unreadable
from services.chassis.ids import uuid7
from services.chassis.refs import Ref
from services.chassis.wire import Reader

if TYPE_CHECKING:
    from services.chassis.transaction import Transaction

PARKED, BEHIND, AWAITS, QUARANTINED = "PARKED", "BEHIND", "AWAITS", "QUARANTINED"
_decode_headers = Decoder(list[tuple[str, bytes | None]]).decode
_PARK = """
with p as (
    insert into parked(state, reason, detail, type, topic, partition, "offset", key, headers, value,
                       digest, event_id, first_at, recorded_ms)
    select $1::text, $2::text, $3::text, $4::text, $5::text, $6::int, $7::bigint, $8::bytea, $9::bytea,
           $10::bytea, $11::bytea, $12::uuid, coalesce($13::timestamptz, now()), $14::bigint
    where $12::uuid is null or $1 = 'AWAITS' or not exists (select from inbox where ce_id = $12)
    on conflict do nothing returning seq
), r as (
    insert into parked_ref(ref, seq, state) select ref, p.seq, $1 from p, unnest($15::bigint[]) ref
)
select seq from p"""


class Found(NamedTuple):
    """What the parking says about a batch's refs."""

    blocked: set[Ref]
    awaiting: list[tuple[Ref, int]]


async def look(tx: "Transaction", refs: list[Ref], included: Iterable[int]) -> Found:
    """Which refs are blocked, and which rows await one of them; rows that run in this very batch do not
    count.

    Its own statement, after the locks: together with them it would read a snapshot from before they were
    granted.
    """
    mine = set(included)
    rows = await tx.fetch("select ref, seq, state from parked_ref where ref = any($1::bigint[])", refs)
    return Found(
        {ref for ref, seq, state in rows if state != AWAITS and seq not in mine},
        [(ref, seq) for ref, seq, state in rows if state == AWAITS and seq not in mine],
    )


async def park(
    tx: "Transaction", arrival: Arrival, state: str, reason: Reason, detail: str, refs: Iterable[Ref]
) -> None:
    """Keep a message with its bytes, its reason and its refs. A second time does nothing.

    A fact that awaited its ground has its inbox row already: it is kept without its event id, so that
    neither this statement nor its redrive takes it for one that was handled.
    """
    raw, event_id = arrival.raw, None if arrival.seen and state != AWAITS else arrival.event_id
    rows = await tx.fetch(
        _PARK, state, reason.name, _clean(detail), arrival.type, raw.topic, raw.partition, raw.offset,
        raw.key, encode(raw.headers), raw.value, _digest(raw), event_id, arrival.since, raw.at_ms,
        sorted(set(refs)),
    )
    if rows and state == PARKED:
        _tell(tx, rows[0][0], reason, arrival.type, raw, len(arrival.refs))


async def set_aside(tx: "Transaction", unreadable: Unreadable) -> None:
    """Keep what nobody can read or believe, without refs; of a message with a secret only digest, place and
    path.
    """
    raw, secret = unreadable.raw, unreadable.secret
    rows = await tx.fetch(
        _PARK, QUARANTINED, unreadable.reason.name, _clean(unreadable.detail), _clean(unreadable.type),
        raw.topic, raw.partition, raw.offset, None if secret else raw.key,
        None if secret else encode(raw.headers), None if secret else raw.value, _digest(raw), None, None,
        raw.at_ms, [],
    )
    if rows:
        _tell(tx, rows[0][0], unreadable.reason, _clean(unreadable.type), raw, 0)


def _digest(raw: Raw) -> bytes:
    """Of all its bytes: a topic that was made anew has another record at the same place."""
    return sha256(encode((raw.key, raw.headers, raw.value))).digest()


def _tell(tx: "Transaction", seq: int, reason: Reason, type: str, raw: Raw, refs: int) -> None:
    tx.counts.append((metrics.parked, reason.name))
    source = f"{raw.topic}/{raw.partition}/{raw.offset}" if raw.offset is not None else raw.topic
    fact = MessageParked(service=tx.service, parked_id=str(seq), reason=reason.name, type=_clean(type),
                         source=source, refs=refs, at=tx.now)
    tx.publish(fact, sequence=1)


_READ = """
select seq, state, type, topic, partition, "offset", key, headers, value, event_id::text, first_at,
       recorded_ms from parked
where seq = any($1::bigint[]) order by seq"""


class StaysUnread(Exception):
    """Rows that must come back together, and one of them nobody can read or believe: all of them stay, or
    what waits behind it would pass it.
    """


async def read_rows(
    tx: "Transaction", seqs: Iterable[int], reader: Reader, *, whole: bool = False
) -> list[Arrival]:
    """Parked rows as arrivals again, in their order. Those that still can't be read or believed are left out;
    whole: StaysUnread then.
    """
    arrivals = []
    for row in await tx.fetch(_READ, sorted(seqs)) if seqs else ():
        seq, state, type, topic, partition, offset, key, headers, value, event_id, first_at, at_ms = row
        head = tuple(_decode_headers(headers or b"[]"))
        raw = Raw(topic, partition, offset, key, head, value, at_ms)
        again = reader.again(raw, type, trusted=state != QUARANTINED)
        if isinstance(again, Arrival):
            again.parked_seq, again.since = seq, first_at if state == AWAITS else None
            fact_seen = again.event_id is not None and event_id is None
            again.seen = state == AWAITS or (state != QUARANTINED and fact_seen)
            arrivals.append(again)
        elif whole:
            reason = f"{again.reason.name} {again.detail}" if again else "nobody here handles it"
            raise StaysUnread(f"row {seq}: {reason}")
    return arrivals


_CALL_AGAIN = """
with gone as (
    delete from parked where seq = $1 and topic = 'call' and state = 'QUARANTINED'
    returning convert_from(key, 'UTF8') number, type, value
)
insert into call(id, number, type, payload, attempts, journey)
select $2::uuid, number, type, value, 1, nullif($3, '')::uuid from gone on conflict (number) do nothing"""


async def call_again(tx: "Transaction", seq: int) -> bool:
    """Whether the row was a call that could not be read: it stands among the calls again, and as nobody knows
    whether another version has sent it, the provider is asked first.
    """
    rows = await tx.fetch("select topic, state, headers from parked where seq = $1", seq)
    if not rows or rows[0][:2] != ("call", QUARANTINED):
        return False
    journey = dict(_decode_headers(rows[0][2])).get("journey") or b""
    await tx.execute(_CALL_AGAIN, seq, uuid7(), journey.decode())
    return True


def _clean(text: str) -> str:
    return text.replace("\x00", "�")  # Postgres text holds no NUL


_CLOSE = """
with recursive closed(seq) as (
    select unnest($1::bigint[])
    union
    select other.seq from closed join parked_ref mine on mine.seq = closed.seq
    join parked_ref other on other.ref = mine.ref and other.state <> 'AWAITS'
)
select p.seq from closed join parked p using (seq) order by 1"""


async def together(tx: "Transaction", seq: int) -> list[int]:
    """A parked row and everything that shares refs with it, directly or through others, in order."""
    return [row[0] for row in await tx.fetch(_CLOSE, [seq])]
