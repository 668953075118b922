"""The engine's tables and the service's own."""

from alembic import op

from services.chassis.tables import engine_ddl

revision = "0001"
down_revision = None
phase = "expand"

TABLES = (
    """create table notify.addressee (
        person_id uuid not null,
        region_code text not null,
        name_masked text not null,
        contact jsonb not null,
        sequence integer not null,
        constraint pk_addressee primary key (person_id)
    )""",
    """create table notify.notification (
        notification_id uuid not null,
        person_id uuid not null,
        journey text not null,
        region_code text not null,
        template text not null,
        params jsonb not null,
        to_masked text not null,
        road text not null,
        status text not null,
        attempts smallint not null,
        provider_ref text not null,
        reason text not null,
        born_at timestamptz not null,
        ended_at timestamptz,
        constraint pk_notification primary key (notification_id),
        constraint ck_notification_status
            check (status in ('SENDING', 'DEFERRED', 'FALLBACK', 'SENT', 'DEAD')),
        constraint ck_notification_road check (road in ('SMS', 'EMAIL'))
    )
    with (fillfactor = 50)""",
)


def upgrade() -> None:
    """Everything at once: there was nothing before."""
    for statement in (*engine_ddl("notify"), *TABLES):
        op.execute(statement)
