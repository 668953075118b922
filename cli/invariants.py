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



def _unique(table: str, *columns: str, where: str = "") -> str:
    """The index that makes a second row impossible stands; looked at instead of all rows."""
    return f"""
select '{table} has no unique index on {", ".join(columns)}: what must stand once may stand twice'
where not exists (
    select from pg_index x where x.indrelid = '{table}'::regclass and x.indisunique and x.indisvalid
    and coalesce(pg_get_expr(x.indpred, x.indrelid), '') = $${where}$$
    and (select array_agg(a.attname::text order by a.attname) from pg_attribute a
         where a.attrelid = x.indrelid and a.attnum = any(x.indkey)) = array{sorted(columns)})"""  # noqa: S608 - names of ours


_CREDITED = f"""
{_unique("payment.receipt", "channel_code", "channel_ref")}
union all
select 'order ' || order_id || ' names ' || channel_code || ' ' || channel_ref || ', no receipt of it does'
from payment.orders o where channel_ref <> '' and not exists (
    select from payment.receipt r where r.order_id = o.order_id
    and r.channel_ref = o.channel_ref and r.channel_code = o.channel_code)
union all
select 'order ' || order_id || ': took ' || sum(taken) || ', credited ' || sum(credited)
from (select order_id, amount_fen as taken, 0 as credited from payment.receipt
      union all select order_id, 0, amount_fen from payment.ledger where account = 1002) moved
where order_id is not null group by order_id having sum(taken) <> sum(credited)"""  # noqa: S608 - names of ours

_SETTLED_ONCE = f"""
{_unique("payment.order_item", "obligation_id", where="(status = 'SETTLED'::text)")}
union all
select 'obligation ' || obligation_id || case
       when i.order_id is null then ' is settled without an applied payment'
       when o.order_id is null then ' is paid by order ' || i.order_id || ' and not settled'
       else ' is settled by order ' || o.order_id || ', order ' || i.order_id || ' has paid '
            || i.amount_fen || ' of ' || o.due_fen end
from (select obligation_id, order_id, version, due_fen from payment.obligation where status = 'SETTLED') o
full join (select obligation_id, order_id, version, amount_fen from payment.order_item
           where status = 'SETTLED') i using (obligation_id)
where (o.order_id = i.order_id and (o.version <> i.version or o.due_fen = i.amount_fen)) is not true
union all
select 'bill ' || b.obligation_id || '/' || b.version || ' is settled without a payment of its amount'
from billing.bill b where b.status = 'SETTLED'
and not exists (
    select from payment.order_item i where i.obligation_id = b.obligation_id and i.order_id = b.order_id
    and i.version = b.version and i.status = 'SETTLED' and i.amount_fen = b.due_fen)"""  # noqa: S608 - names of ours

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

_ONE_COVER = f"""
select 'person ' || person_id || ' is covered ' || count(*) || ' times in ' || insurance_year
from enrollment.coverage where status = 'ACTIVE'
group by person_id, scheme, insurance_year having count(*) > 1
union all
{_unique("enrollment.person", "identity_index")}"""  # noqa: S608 - names of ours

_COVER_HAS_GROUND = """
select 'coverage ' || c.enrollment_id || ' is ' || c.status || ' without a settled or waived bill'
from enrollment.coverage c where c.status in ('WAITING', 'ACTIVE')
and not exists (
    select from billing.bill b
    where b.enrollment_id = c.enrollment_id and b.status in ('SETTLED', 'WAIVED'))"""

_ISSUED = "'billing.bill_issued.v1', 'billing.bill_waived.v1'"
_BILLED = (  # by the index that begins with the person
    "exists (select from billing.bill b"
    " where b.person_id = f.key::uuid and b.enrollment_id = f.subject::uuid)"
)
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
select 'enrollment ' || e.enrollment_id || ' is approved and paid, its coverage is ' || coalesce(
           (select status from enrollment.coverage c where c.enrollment_id = e.enrollment_id), 'missing')
from billing.bill b join enrollment.enrollment e using (enrollment_id)
where b.status in ('SETTLED', 'WAIVED') and e.status = 'APPROVED' and not exists (
    select from enrollment.coverage c
    where c.enrollment_id = b.enrollment_id and c.status in ('WAITING', 'ACTIVE'))"""

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
