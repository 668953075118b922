"""Which tables does the engine keep in every service's schema, in what shape, and who may do what to them?"""

from typing import Literal

from msgspec import Struct

Verb = Literal["SELECT", "INSERT", "UPDATE", "DELETE"]

READ_WRITE: tuple[Verb, ...] = ("SELECT", "INSERT", "UPDATE", "DELETE")
APPEND: tuple[Verb, ...] = ("SELECT", "INSERT")


class EngineTable(Struct, frozen=True, kw_only=True):
    """One engine table. may: what the service's own role may do. hidden: columns the auditor does not see
    (bytes of messages, which may hold what a partner should never have sent)."""

    may: tuple[Verb, ...]
    columns: tuple[str, ...]
    hidden: tuple[str, ...] = ()


ENGINE_TABLES: dict[str, EngineTable] = {
    "inbox": EngineTable(may=APPEND, columns=("ce_id", "at")),
    "outbox": EngineTable(
        may=APPEND,
        columns=(
            "batch_id",
            "n",
            "part",
            "topic",
            "type",
            "seq",
            "key",
            "ce_id",
            "subject",
            "ce_time",
            "journey",
            "payload",
            "at",
        ),
    ),
    "unsent": EngineTable(may=READ_WRITE, columns=("batch_id", "at", "again")),
    "request": EngineTable(
        may=("SELECT", "INSERT", "UPDATE"),
        columns=("partner", "request_id", "command", "digest", "answer", "key", "at"),
    ),
    "parked": EngineTable(
        may=READ_WRITE,
        hidden=("key", "headers", "value"),
        columns=(
            "seq",
            "state",
            "reason",
            "detail",
            "type",
            "topic",
            "partition",
            "offset",
            "key",
            "headers",
            "value",
            "digest",
            "event_id",
            "at",
            "first_at",
            "recorded_ms",
        ),
    ),
    "parked_ref": EngineTable(may=READ_WRITE, columns=("ref", "seq", "state")),
    "job": EngineTable(
        may=("SELECT", "INSERT", "DELETE"),
        hidden=("payload",),
        columns=("id", "run_at", "type", "payload", "journey", "created_at"),
    ),
    "call": EngineTable(
        may=READ_WRITE,
        hidden=("payload",),
        columns=(
            "id",
            "number",
            "type",
            "payload",
            "state",
            "attempts",
            "next_at",
            "claimed_at",
            "journey",
        ),
    ),
    "progress": EngineTable(may=READ_WRITE, columns=("lane", "topic", "partition", "offset")),
    "halt": EngineTable(may=READ_WRITE, columns=("lane", "at", "failures", "handled", "last_error")),
    "clock": EngineTable(may=("SELECT", "UPDATE"), columns=("one", "skew")),
}

# Partitioned by month; partitions.py makes and drops them. The service never touches a partition directly.
PARTITIONED = ("inbox", "outbox")

# Rows of a few seconds' life: vacuum by count, not by share of the table, and without pausing, or the index
# grows.
_SHORT_LIVED = (
    "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,"
    " autovacuum_vacuum_cost_delay = 0,"
    " autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000"
)

_DDL = (
    # One column is primary key and partition key: a uuid7 begins with its time, so a month is a range of ids.
    """create table {s}.inbox (
        ce_id uuid primary key,
        at timestamptz not null default now()
    ) partition by range (ce_id)""",
    "create sequence {s}.batch_seq as bigint cache 1",
    # Insert-only. `at` equals the transaction's row in unsent, so the relay's join touches one partition. The
    # columns of fixed width stand first, widest first: padding between them would be written to the WAL, too.
    """create table {s}.outbox (
        batch_id bigint not null,
        ce_time timestamptz not null,
        at timestamptz not null default now(),
        n int not null,
        seq int not null,
        part smallint not null,
        ce_id uuid not null,
        journey uuid,
        topic text not null,
        type text not null,
        key text not null,
        subject text not null,
        payload bytea
    ) partition by range (at)""",
    "create index outbox_batch on {s}.outbox (batch_id)",
    """create table {s}.unsent (
        batch_id bigint primary key default nextval('{s}.batch_seq'),
        at timestamptz not null default now(),
        again int not null default 0
    ) with (fillfactor = 50, {short})""",
    """create table {s}.request (
        partner text not null,
        request_id text not null,
        command text not null,
        digest bytea not null,
        answer bytea,
        key text not null,
        at timestamptz not null default now(),
        primary key (partner, request_id)
    ) with (fillfactor = 80)""",
    """create table {s}.parked (
        seq bigint generated always as identity primary key,
        state text not null check (state in ('PARKED', 'BEHIND', 'AWAITS', 'QUARANTINED')),
        reason text not null,
        detail text not null default '',
        type text not null default '',
        topic text,
        partition int,
        "offset" bigint,
        key bytea,
        headers bytea,
        value bytea,
        digest bytea not null,
        event_id uuid,
        at timestamptz not null default now(),
        first_at timestamptz not null default now(),
        recorded_ms bigint not null,
        unique (topic, partition, "offset", digest)
    )""",
    "create unique index parked_event on {s}.parked (event_id) where event_id is not null",
    # Asked for every second, while what was set aside may stand there for years.
    "create index parked_open on {s}.parked (state, seq) where state <> 'QUARANTINED'",
    """create table {s}.parked_ref (
        ref bigint not null,
        seq bigint not null references {s}.parked on delete cascade,
        state text not null,
        primary key (ref, seq)
    )""",
    "create index parked_ref_seq on {s}.parked_ref (seq)",
    """create table {s}.job (
        id uuid primary key,
        run_at timestamptz not null,
        type text not null,
        payload bytea not null,
        journey uuid,
        created_at timestamptz not null default now()
    ) with ({short})""",
    "create index job_due on {s}.job (run_at, id)",
    """create table {s}.call (
        id uuid primary key,
        number text not null unique,
        type text not null,
        payload bytea not null,
        state text not null default 'NEW' check (state in ('NEW', 'CLAIMED')),
        attempts int not null default 0,
        next_at timestamptz not null default now(),
        claimed_at timestamptz,
        journey uuid
    ) with (fillfactor = 50, {short})""",
    "create index call_next on {s}.call (next_at)",
    """create table {s}.progress (
        lane text not null,
        topic text not null,
        partition int not null,
        "offset" bigint not null,
        primary key (lane, topic, partition)
    ) with (fillfactor = 50, {short})""",
    """create table {s}.halt (
        lane text primary key,
        at timestamptz not null default now(),
        failures int not null,
        handled int not null,
        last_error text not null
    )""",
    """create table {s}.clock (
        one boolean primary key default true check (one),
        skew interval not null default '0'
    )""",
    "insert into {s}.clock default values",
)


def engine_ddl(schema: str) -> list[str]:
    """The statements that build the engine's tables in an existing, empty schema.

    Called by each service's first revision, so it is history: a later change of shape is a new revision, not
    an edit.
    """
    return [statement.format(s=schema, short=_SHORT_LIVED) for statement in _DDL]
