"""The engine's tables and the service's own."""

from alembic import op

from services.chassis.tables import engine_ddl

revision = "0001"
down_revision = None
phase = "expand"

TABLES = (
    """create table billing.bill (
        obligation_id uuid not null,
        version integer not null,
        enrollment_id uuid not null,
        person_id uuid not null,
        region_code text not null,
        scheme text not null,
        insurance_year smallint not null,
        category text not null,
        certified jsonb not null,
        due_fen bigint not null,
        subsidy_fen bigint not null,
        policy text not null,
        closes_on date not null,
        status text not null,
        order_id uuid,
        issued_at timestamptz not null,
        paid_at timestamptz,
        sequence integer not null,
        constraint pk_bill primary key (obligation_id, version),
        constraint uq_bill_person_id_insurance_year_scheme_version
            unique (person_id, insurance_year, scheme, version),
        constraint ck_bill_status check (status in ('ISSUED', 'WAIVED', 'SETTLED', 'SUPERSEDED')),
        constraint ck_bill_amounts check (due_fen >= 0 and subsidy_fen >= 0),
        constraint ck_bill_due_or_waived
            check (status not in ('ISSUED', 'WAIVED') or (status = 'WAIVED') = (due_fen = 0)),
        constraint ck_bill_settled_by_an_order check ((status = 'SETTLED') = (order_id is not null))
    )
    with (fillfactor = 50)""",
    """create table billing.identification (
        person_id uuid not null,
        channel_code text not null,
        sequence smallint not null,
        constraint pk_identification primary key (person_id, channel_code)
    )""",
)


def upgrade() -> None:
    """Everything at once: there was nothing before."""
    for statement in (*engine_ddl("billing"), *TABLES):
        op.execute(statement)
