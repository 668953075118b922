"""Has this been handled before? Event ids of facts, request ids of commands."""

from typing import TYPE_CHECKING, NamedTuple

from msgspec.json import Decoder, encode

from contracts.answers import Accepted, Answer, Rejected, says_again
from contracts.reasons import Reason, refused
from services.chassis import metrics
from services.chassis.arrival import Arrival, RequestKey

if TYPE_CHECKING:
    from services.chassis.transaction import Transaction

_REQUEST = ("partner", "request_id", "command", "digest", "answer", "key")
_REMEMBER = f"""
insert into request({", ".join(_REQUEST)})
select * from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::text[])"""  # noqa: S608 -- ours
_REMEMBER_ANEW = """
update request r set command = u.c, digest = u.d, answer = u.a, key = u.k
from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::text[]) u(p, i, c, d, a, k)
where r.partner = u.p and r.request_id = u.i"""
_decode_answer = Decoder(Accepted | Rejected).decode


class SomeSeen(Exception):
    """Some facts of the batch were handled before: the batch runs again and asks which."""


class Known(NamedTuple):
    """A request as it was first sent. answer: None while it is still being worked on. stored: its row stands
    already.
    """

    digest: bytes
    answer: Answer | None
    stored: bool

    @property
    def over(self) -> bool:
        """A promised answer came and said "try again": the row is for those who query it; who sends the
        request again begins anew.
        """
        return self.stored and self.answer is not None and says_again(self.answer)


def drop_too_old(arrivals: list[Arrival], floor: str) -> list[Arrival]:
    """An id of ours from before the inbox begins (floor) counts as seen. What was parked was not, however
    long ago; it needs no row any more.
    """
    left = []
    for arrival in arrivals:
        if arrival.event_id is not None and arrival.event_id < floor:
            if arrival.parked_seq is None:
                continue
            arrival.seen = True
        left.append(arrival)
    return left


async def drop_seen(tx: "Transaction", arrivals: list[Arrival], *, ask_which: bool) -> list[Arrival]:
    """Enter the facts into the inbox; what was there already, or comes twice in the batch, falls out.

    SomeSeen: at least one was there; only then it is worth asking for the ids (ask_which), which costs more.
    """
    ids = sorted({a.event_id for a in arrivals if a.event_id is not None and not a.seen})
    fresh = set(ids)
    if ids and not ask_which:
        tag = await tx.execute(
            "insert into inbox(ce_id) select unnest($1::uuid[]) on conflict do nothing", ids
        )
        if tag != f"INSERT 0 {len(ids)}":
            raise SomeSeen
    elif ids:
        rows = await tx.fetch(
            "insert into inbox(ce_id) select unnest($1::uuid[]) on conflict do nothing returning ce_id::text",
            ids,
        )
        fresh = {row[0] for row in rows}
    left = []
    for arrival in arrivals:
        if arrival.event_id is None or arrival.seen:
            left.append(arrival)
        elif arrival.event_id in fresh:
            fresh.discard(arrival.event_id)
            left.append(arrival)
    return left


async def without_seen(tx: "Transaction", arrivals: list[Arrival]) -> list[Arrival]:
    """The batch without facts that were handled before; asked only while something is parked, because one
    that was handled neither waits behind it nor makes others wait.
    """
    ids = sorted({a.event_id for a in arrivals if a.event_id is not None and not a.seen})
    rows = await tx.fetch("select ce_id::text from inbox where ce_id = any($1::uuid[])", ids)
    seen = {row[0] for row in rows}
    return [a for a in arrivals if a.event_id not in seen or a.seen]


async def known_requests(tx: "Transaction", arrivals: list[Arrival]) -> dict[RequestKey, Known]:
    """The requests of the batch that came before, with what was answered."""
    keys = sorted({a.request for a in arrivals if a.request is not None and a.refusal is None})
    if not keys:
        return {}
    rows = await tx.fetch(
        "select partner, request_id, digest, answer from request"
        " where (partner, request_id) in (select * from unnest($1::text[], $2::text[]))",
        [key.partner for key in keys], [key.request_id for key in keys],
    )
    return {
        RequestKey(r[0], r[1]): Known(r[2], None if r[3] is None else _decode_answer(r[3]), True)
        for r in rows
    }


def drop_repeated(tx: "Transaction", wave: list[Arrival], known: dict[RequestKey, Known]) -> list[Arrival]:
    """Commands that came before are answered from memory, or refused when the body differs; the rest is left.

    A parked or waiting command that comes again itself may find its own row, without an answer: it is
    handled.
    """
    left = []
    for arrival in wave:
        if arrival.request is None:
            left.append(arrival)
            continue
        before = known.get(arrival.request)
        if before is None or before.over or (before.answer is None and arrival.parked_seq is not None):
            known[arrival.request] = Known(arrival.digest, None, before is not None)
            left.append(arrival)
        elif before.digest != arrival.digest:
            refuse(tx, arrival, Reason.IDEMPOTENCY_CONFLICT, field="request_id")
        else:
            arrival.answer = before.answer or tx.answers.get(arrival.request)
            if arrival.answer is not None:
                tx.reply(arrival.request, type(arrival.answer), encode(arrival.answer), arrival.key,
                         arrival.raw.partition)
    return left


def refuse(tx: "Transaction", arrival: Arrival, reason: Reason, *, field: str = "") -> None:
    """Answer a command without a handler and without remembering the request."""
    if arrival.request is None:
        return
    refusal = arrival.refusal or refused(reason, field=field)
    tx.counts.append((metrics.refused, refusal.code))
    arrival.answer = Rejected(
        request_id=arrival.request.request_id, command=arrival.type, answered_at=tx.now, refusal=refusal
    )
    tx.reply(arrival.request, Rejected, encode(arrival.answer), arrival.key, arrival.raw.partition)


async def remember_requests(
    tx: "Transaction", handled: list[Arrival], known: dict[RequestKey, Known]
) -> None:
    """Write the batch's commands with their answers, and the answers that earlier commands were promised.

    A refusal that says "try again" is not remembered, unless it was promised: then it stands for those who
    query it, and the same request sent again is handled again.
    """
    new, stored, mine = [], [], set()
    for arrival in handled:
        if arrival.request is None:
            continue
        mine.add(arrival.request)
        answer = arrival.answer = _answer_of(tx, arrival)
        body = None if answer is None else tx.bodies[arrival.request]
        row = (*arrival.request, arrival.type, arrival.digest, body, arrival.key)
        if known[arrival.request].stored:
            stored.append(row)
        elif answer is None or not says_again(answer):
            new.append(row)
    if new:
        await tx.insert("request", _REQUEST, new, _REMEMBER)
    if stored:
        await tx.execute(_REMEMBER_ANEW, *map(list, zip(*stored, strict=True)))
    promised = [(*request, body) for request, body in tx.bodies.items() if request not in mine]
    if promised:
        await tx.execute(
            "update request r set answer = u.a from unnest($1::text[], $2::text[], $3::bytea[]) u(p, i, a)"
            " where r.partner = u.p and r.request_id = u.i",
            *map(list, zip(*promised, strict=True)),
        )


def _answer_of(tx: "Transaction", arrival: Arrival) -> Answer | None:
    """What its handler answered; None: promised for later."""
    assert arrival.request is not None
    answer = tx.answers.get(arrival.request)
    if answer is None and arrival.request not in tx.deferred and id(arrival.message) not in tx.waiting:
        raise AssertionError(f"{arrival.type} was neither answered nor deferred")
    return answer
