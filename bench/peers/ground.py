"""Where do the peers that do our work do it? Schemas and topics beside ours, four processes each."""

import asyncpg

from bench.raw.ground import RawLoop, lay
from sandbox.stack import Stack

_INBOX = "create table {s}.inbox (ce_id uuid primary key, at timestamptz not null default now());"
_OUTBOX = """create table {s}.unsent (
    id bigint generated always as identity primary key, topic text not null, key text not null,
    type text not null, ce_id uuid not null, payload bytea not null, at timestamptz not null default now()
);"""
# The tutorial keeps no list of what it has handled, so its rows have to witness it. That a bill is settled
# leaves none in payment; there the order that it has paid stands for it.
_HANDLED = {
    "enrollment": "select enrollment_id as ce_id from {s}.coverage where status = 'ACTIVE'",
    "billing": "select obligation_id as ce_id from {s}.bill"
    " union all select obligation_id from {s}.bill where status = 'SETTLED'",
    "payment": "select obligation_id as ce_id from {s}.obligation"
    " union all select obligation_id from {s}.obligation where status = 'SETTLED'",
    "notify": "select notification_id as ce_id from {s}.notification",
}
_NOTHING_WAITS = "create view {s}.unsent as select where false;"


class Tutorial(RawLoop):
    """FastStream and SQLModel as their tutorials do it."""

    name = prefix = "tutorial"
    module = "bench.peers.tutorial"


class Careful(RawLoop):
    """asyncpg and aiokafka, a transaction for each message, inbox and outbox."""

    name = prefix = "careful"
    module = "bench.peers.careful"


PEERS: tuple[type[RawLoop], ...] = (Tutorial, Careful)


async def lay_peer(db: asyncpg.Connection, stack: Stack, peer: type[RawLoop]) -> str:
    """Make its schemas, role and topics; its way into the database."""
    if peer is Careful:
        return await lay(db, stack, peer.name, _INBOX + _OUTBOX)
    views = {
        service: f"create view {{s}}.inbox as {handled};" + _NOTHING_WAITS
        for service, handled in _HANDLED.items()
    }
    return await lay(db, stack, peer.name, views)
