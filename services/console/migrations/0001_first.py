"""The engine's tables and the service's own."""

from alembic import op

from services.chassis.tables import engine_ddl

revision = "0001"
down_revision = None
phase = "expand"

TABLES = (
    """create table console.person (
        person_id uuid not null,
        region_code text not null,
        name_masked text not null,
        at timestamptz not null,
        sequence integer not null,
        constraint pk_person primary key (person_id)
    )""",
    """create table console.step (
        ce_id uuid not null,
        at timestamptz not null,
        type text not null,
        topic text not null,
        part smallint not null,
        record_offset bigint not null,
        journey text not null,
        person_id uuid,
        enrollment_id uuid,
        obligation_id uuid,
        order_id uuid,
        channel_ref text not null,
        about jsonb not null,
        constraint pk_step primary key (ce_id)
    )""",
    "create index ix_step_channel_ref on console.step (channel_ref) where channel_ref <> ''",
    "create index ix_step_journey on console.step (journey) where journey <> ''",
    "create index ix_step_obligation_id on console.step (obligation_id) where obligation_id is not null",
    "create index ix_step_order_id on console.step (order_id) where order_id is not null",
    "create index ix_step_person_id on console.step (person_id) where person_id is not null",
    """create table console.tally (
        topic text not null,
        part smallint not null,
        type text not null,
        facts bigint not null,
        constraint pk_tally primary key (topic, part, type)
    )
    with (fillfactor = 50)""",
)


def upgrade() -> None:
    """Everything at once: there was nothing before."""
    for statement in (*engine_ddl("console"), *TABLES):
        op.execute(statement)
