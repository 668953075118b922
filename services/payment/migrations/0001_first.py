"""The engine's tables and the service's own."""

from alembic import op

from services.chassis.tables import engine_ddl

revision = "0001"
down_revision = None
phase = "expand"

TABLES = (
    """create table payment.funds (
        funds_id uuid not null,
        status text not null,
        reason text not null,
        journey text not null,
        region_code text not null,
        person_id uuid,
        enrollment_id uuid,
        obligation_id uuid,
        order_id uuid,
        amount_fen bigint not null,
        channel_code text not null,
        channel_ref text not null,
        received_at timestamptz not null,
        constraint pk_funds primary key (funds_id),
        constraint ck_funds_status check (status in ('RECEIVED')),
        constraint ck_funds_amount check (amount_fen > 0)
    )""",
    """create table payment.identification (
        person_id uuid not null,
        channel_code text not null,
        sequence smallint not null,
        constraint pk_identification primary key (person_id, channel_code)
    )""",
    """create table payment.ledger (
        entry_id uuid not null,
        leg smallint not null,
        account smallint not null,
        amount_fen bigint not null,
        order_id uuid,
        posted_at timestamptz not null,
        constraint pk_ledger primary key (entry_id, leg),
        constraint ck_ledger_leg check (leg in (1, 2)),
        constraint ck_ledger_account check (account in (1002, 2202, 2203)),
        constraint ck_ledger_amount check (amount_fen <> 0)
    )""",
    """create table payment.obligation (
        obligation_id uuid not null,
        person_id uuid not null,
        enrollment_id uuid not null,
        journey text not null,
        region_code text not null,
        insurance_year smallint not null,
        version integer not null,
        due_fen bigint not null,
        status text not null,
        order_id uuid,
        locked_until timestamptz,
        constraint pk_obligation primary key (obligation_id),
        constraint ck_obligation_status check (status in ('DUE', 'WAIVED', 'SETTLED')),
        constraint ck_obligation_due check (due_fen >= 0),
        constraint ck_obligation_settled_by_an_order
            check (status <> 'SETTLED' or order_id is not null)
    )
    with (fillfactor = 50)""",
    """create table payment.order_item (
        order_id uuid not null,
        item smallint not null,
        person_id uuid not null,
        obligation_id uuid not null,
        version integer not null,
        amount_fen bigint not null,
        status text not null,
        constraint pk_order_item primary key (order_id, item),
        constraint ck_order_item_status check (status in ('OPEN', 'SETTLED', 'SUSPENSE')),
        constraint ck_order_item_amount check (amount_fen > 0)
    )
    with (fillfactor = 50)""",
    """create unique index uq_order_item_settled on payment.order_item (obligation_id)
            where status = 'SETTLED'""",
    """create table payment.orders (
        order_id uuid not null,
        person_id uuid not null,
        channel_code text not null,
        partner text not null,
        request_id text not null,
        amount_fen bigint not null,
        status text not null,
        channel_ref text not null,
        created_at timestamptz not null,
        paid_at timestamptz,
        sequence integer not null,
        constraint pk_orders primary key (order_id),
        constraint ck_orders_status
            check (status in ('PENDING', 'CAPTURED', 'CAPTURED_LATE', 'SETTLED',
                'DUPLICATE', 'FAILED', 'EXPIRED')),
        constraint ck_orders_amount check (amount_fen > 0)
    )
    with (fillfactor = 50)""",
    """create table payment.person (
        person_id uuid not null,
        identity jsonb not null,
        sequence integer not null,
        constraint pk_person primary key (person_id)
    )""",
    """create table payment.receipt (
        channel_code text not null,
        channel_ref text not null,
        order_id uuid,
        obligation_id uuid,
        amount_fen bigint not null,
        reason text not null,
        paid_at timestamptz not null,
        received_at timestamptz not null,
        constraint pk_receipt primary key (channel_code, channel_ref),
        constraint ck_receipt_amount check (amount_fen > 0)
    )""",
    """create function payment.entries_balance() returns trigger language plpgsql as $body$
    begin
        if exists (select 1 from new_legs group by entry_id having sum(amount_fen) <> 0 or count(*) <> 2) then
            raise exception 'a ledger entry has not two legs that add up to 0'
                using errcode = 'check_violation';
        end if;
        return null;
    end $body$""",
    """create trigger entries_balance after insert on payment.ledger
        referencing new table as new_legs for each statement execute function payment.entries_balance()""",
)


def upgrade() -> None:
    """Everything at once: there was nothing before."""
    for statement in (*engine_ddl("payment"), *TABLES):
        op.execute(statement)
