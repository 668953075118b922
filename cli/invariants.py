"""What must always be true of the data, and by which query is that seen? Their numbers are for ever.

A query returns what breaks the invariant, each row one text without personal data. It runs as the auditor,
who sees every schema. Those about messages and offsets (I12, I14, I15, I20) stand in conservation.py.
"""

from msgspec import Struct

MOST = 20
# Newest outbox rows of a service, by the index on batch_id: what a check looks at instead of all history.
NEWEST = 20_000


class Invariant(Struct, frozen=True, kw_only=True):
    """says: what holds. todo: what to do when it does not. sql: finds what breaks it. quiet: true only once
    the services have caught up, so that a row counts when it is still there a few seconds later."""

    id: str
    says: str
    todo: str
    sql: str
    quiet: bool = False


def _newest(service: str, types: str) -> str:
    """The newest facts of a service of these types, as a table expression."""
    return (
        f"(select * from (select batch_id, type, seq, ce_id, subject, key, payload, at from {service}.outbox"  # noqa: S608 - names of ours
        f" order by batch_id desc limit {NEWEST}) newest where type in ({types}))"
    )


def _set_aside(service: str) -> str:
    """Event ids that a service keeps parked: not handled yet, or handled and waiting for their ground."""
    return f"(select event_id from {service}.parked where event_id is not null)"  # noqa: S608 - names of ours


_MONEY = (
    "stop payouts; compare the receipts with the channel's file; corrections are new entries, never edits"
)
_BOOKS = """
select 'receipts ' || receipts || ' = settled ' || settled || ' + suspense ' || suspense
       || '; books: cleared ' || cleared || ', premiums ' || premiums || ', suspense ' || suspended
from (select coalesce(sum(amount_fen), 0) as receipts from payment.receipt) r,
     (select coalesce(sum(amount_fen), 0) as settled from payment.order_item where status = 'SETTLED') i,
     (select coalesce(sum(amount_fen), 0) as suspense from payment.funds) f,
     (select coalesce(sum(amount_fen) filter (where account = 1002), 0) as cleared,
             coalesce(-sum(amount_fen) filter (where account = 2202), 0) as premiums,
             coalesce(-sum(amount_fen) filter (where account = 2203), 0) as suspended from payment.ledger) l
where receipts <> settled + suspense or cleared <> receipts or premiums <> settled
or suspended <> suspense"""

_CREDITED = """
select 'receipt ' || channel_code || ' ' || channel_ref || ' stands ' || count(*) || ' times'
from payment.receipt group by channel_code, channel_ref having count(*) > 1
union all
select 'orders share ' || channel_code || ' ' || channel_ref from payment.orders where channel_ref <> ''
group by channel_code, channel_ref having count(*) > 1
union all
select 'order ' || order_id || ': took ' || coalesce(r.taken, 0) || ', credited ' || coalesce(l.credited, 0)
from (select order_id, sum(amount_fen) as taken from payment.receipt where order_id is not null group by 1) r
full join (select order_id, sum(amount_fen) as credited from payment.ledger
           where account = 1002 and order_id is not null group by 1) l
using (order_id) where coalesce(r.taken, 0) <> coalesce(l.credited, 0)"""

_SETTLED_ONCE = """
select 'obligation ' || o.obligation_id || ' is settled, applied payments: ' || count(i.order_id)
from payment.obligation o
left join payment.order_item i on i.obligation_id = o.obligation_id and i.status = 'SETTLED'
where o.status = 'SETTLED' group by o.obligation_id, o.order_id, o.version, o.due_fen
having count(i.order_id) <> 1 or min(i.order_id::text) <> o.order_id::text
    or bool_or(i.version = o.version and i.amount_fen <> o.due_fen)
union all
select 'order ' || i.order_id || ' paid ' || i.obligation_id || ', which is not settled'
from payment.order_item i where i.status = 'SETTLED'
and not exists (
    select from payment.obligation o where o.obligation_id = i.obligation_id and o.status = 'SETTLED')
union all
select 'bill ' || b.obligation_id || '/' || b.version || ' is settled without a payment of its amount'
from billing.bill b where b.status = 'SETTLED'
and not exists (
    select from payment.order_item i where i.obligation_id = b.obligation_id and i.order_id = b.order_id
    and i.version = b.version and i.status = 'SETTLED' and i.amount_fen = b.due_fen)"""

_GOES_BACK = """
select 'funds of ' || channel_code || ' ' || channel_ref || ': '
       || sum(f.amount_fen) || ' of ' || coalesce(min(r.amount_fen), 0)
from payment.funds f left join payment.receipt r using (channel_code, channel_ref)
group by channel_code, channel_ref having sum(f.amount_fen) > coalesce(min(r.amount_fen), 0)
union all
select 'funds ' || funds_id || ' have no reason' from payment.funds where reason = ''"""

_AMOUNTS = f"""
select 'bill ' || obligation_id || '/' || version || ': due ' || due_fen || ', subsidy ' || subsidy_fen
from billing.bill where due_fen < 0 or subsidy_fen < 0
union all
select 'bills of policy ' || policy || ' differ in premium: '
       || min(due_fen + subsidy_fen) || ' to ' || max(due_fen + subsidy_fen)
from billing.bill group by policy having min(due_fen + subsidy_fen) <> max(due_fen + subsidy_fen)
union all
select 'order item ' || order_id || '/' || item || ': ' || amount_fen
from payment.order_item where amount_fen <= 0
union all
select 'receipt ' || channel_code || ' ' || channel_ref || ': ' || amount_fen
from payment.receipt where amount_fen <= 0
union all
select 'funds ' || funds_id || ': ' || amount_fen from payment.funds where amount_fen <= 0
union all
select 'event ' || ce_id || ' says ' || coalesce(fen, 'nothing') from (
    select ce_id, convert_from(payload, 'UTF8')::jsonb ->> 'amount_fen' as fen
    from {_newest("payment", "'payment.payment_settled.v1', 'payment.funds_unmatched.v1'")} p
    order by batch_id desc limit 1000) said where fen is null or fen !~ '^[1-9][0-9]*$'
union all
select 'event ' || ce_id || ' says ' || coalesce(fen, 'nothing') from (
    select ce_id, convert_from(payload, 'UTF8')::jsonb ->> 'due_fen' as fen
    from {_newest("billing", "'billing.bill_issued.v1'")} b
    order by batch_id desc limit 1000) said
where fen is null or fen !~ '^[1-9][0-9]*$'"""  # noqa: S608 - names of ours

_ONE_COVER = """
select 'person ' || person_id || ' is covered ' || count(*) || ' times in ' || insurance_year
from enrollment.coverage where status = 'ACTIVE'
group by person_id, scheme, insurance_year having count(*) > 1
union all
select 'enrollment.person has no unique index on its blind index: one identity may have two accounts'
where not exists (
    select from pg_index x join pg_attribute a on a.attrelid = x.indrelid and a.attnum = any(x.indkey)
    where x.indrelid = 'enrollment.person'::regclass and a.attname = 'identity_index'
    and x.indisunique and x.indisvalid and x.indnatts = 1 and x.indpred is null)"""

_COVER_HAS_GROUND = """
select 'coverage ' || c.enrollment_id || ' is ' || c.status || ' without a settled or waived bill'
from enrollment.coverage c where c.status in ('WAITING', 'ACTIVE')
and not exists (
    select from billing.bill b
    where b.enrollment_id = c.enrollment_id and b.status in ('SETTLED', 'WAIVED'))"""

_ISSUED = "'billing.bill_issued.v1', 'billing.bill_waived.v1'"
_BILLED = "exists (select from billing.bill b where b.enrollment_id = f.subject::uuid)"
_OWED = "exists (select from payment.obligation o where o.obligation_id = f.subject::uuid)"
_TOLD = "exists (select from notify.notification n where n.notification_id = f.ce_id)"


# Only the first fact about an obligation: a later version's effect is not told from the first one's.
_FIRST_ISSUED = f"(select * from {_newest('billing', _ISSUED)} versions where seq = 1)"  # noqa: S608 - names of ours


def _effects(reader: str, facts: str, effect: str) -> str:
    """Facts whose inbox row and whose effect do not go together; what is set aside has neither, or waits."""
    inbox = f"exists (select from {reader}.inbox i where i.ce_id = f.ce_id)"
    return (
        f"select '{reader}: ' || f.type || ' ' || f.ce_id"  # noqa: S608 - names of ours
        f" || case when {inbox} then ' is in the inbox, its effect is not there'"
        f" else ' has an effect and no inbox row' end from {facts} f"
        f" where {inbox} <> {effect} and f.ce_id not in {_set_aside(reader)}"
    )


_INBOX = " union all ".join(
    (
        _effects("billing", _newest("enrollment", "'enrollment.enrollment_approved.v1'"), _BILLED),
        _effects("payment", _FIRST_ISSUED, _OWED),
        _effects("notify", _newest("billing", _ISSUED), _TOLD),
    )
)

_SAME_EVERYWHERE = """
select 'obligation ' || coalesce(p.obligation_id, b.obligation_id)
       || case when b.obligation_id is null then ' is paid, its bill is not settled'
          else ' has a settled bill and no payment' end
from (select obligation_id from payment.order_item where status = 'SETTLED') p
full join (select obligation_id from billing.bill where status = 'SETTLED') b using (obligation_id)
where p.obligation_id is null or b.obligation_id is null
union all
select 'enrollment ' || e.enrollment_id || ' is approved and paid, its coverage is '
       || coalesce(c.status, 'missing')
from enrollment.enrollment e
join billing.bill b on b.enrollment_id = e.enrollment_id and b.status in ('SETTLED', 'WAIVED')
left join enrollment.coverage c on c.enrollment_id = e.enrollment_id
where e.status = 'APPROVED' and coalesce(c.status, '') not in ('WAITING', 'ACTIVE')"""

INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        id="I1",
        says="ledger entries add up to 0, each and all",
        todo=_MONEY,
        sql="select 'entry ' || entry_id || ': ' || sum(amount_fen) || ' fen in ' || count(*) || ' legs'"
        " from payment.ledger group by entry_id having sum(amount_fen) <> 0 or count(*) < 2",
    ),
    Invariant(
        id="I2", says="money received = settled + suspense, in rows and in the books", todo=_MONEY, sql=_BOOKS
    ),
    Invariant(
        id="I3", says="a channel's transaction is credited once, with its amount", todo=_MONEY, sql=_CREDITED
    ),
    Invariant(
        id="I4",
        says="an obligation is settled by exactly one payment of its amount",
        sql=_SETTLED_ONCE,
        todo="canbao trace the obligation; the second payment belongs into suspense",
    ),
    Invariant(id="I5", says="no more goes back than came in, and for a reason", todo=_MONEY, sql=_GOES_BACK),
    Invariant(
        id="I6",
        says="amounts are whole fen, payments above 0; personal part + subsidy = premium",
        sql=_AMOUNTS,
        todo="find the policy pack or the code that made the amount; correct by a new bill version",
    ),
    Invariant(
        id="I7",
        says="one active coverage a person, scheme and year",
        sql=_ONE_COVER,
        todo="canbao trace the person; a missing unique index is restored before enrollment goes on",
    ),
    Invariant(
        id="I8",
        says="cover rests on a settled or waived bill",
        sql=_COVER_HAS_GROUND,
        todo="canbao trace the enrollment; who is covered without ground is decided by the agency, not by us",
    ),
    Invariant(
        id="I13",
        says="what is in an inbox has had its effect, and nothing else has",
        sql=_INBOX,
        todo="the service wrote outside its transaction: halt it, compare rows and fact, then redrive",
    ),
    Invariant(
        id="I16",
        says="payments settled = bills settled; approved and paid = covered or waiting",
        sql=_SAME_EVERYWHERE,
        quiet=True,
        todo="canbao status and the lag of the reading service; then its parked messages",
    ),
)
