"""The engine's tables and the service's own."""

from alembic import op

from services.chassis.tables import engine_ddl

revision = "0001"
down_revision = None
phase = "expand"

TABLES = (
    """create table enrollment.coverage (
        enrollment_id uuid not null,
        person_id uuid not null,
        region_code text not null,
        scheme text not null,
        insurance_year smallint not null,
        status text not null,
        approved_at timestamptz,
        paid_at timestamptz,
        late boolean not null,
        starts_on date,
        ends_on date,
        sequence integer not null,
        constraint pk_coverage primary key (enrollment_id),
        constraint ck_coverage_status check (status in ('PENDING', 'WAITING', 'ACTIVE')),
        constraint ck_coverage_grounds
            check (status = 'PENDING' or approved_at is not null and paid_at is not null
                and starts_on <= ends_on)
    )
    with (fillfactor = 50)""",
    """create table enrollment.enrollment (
        enrollment_id uuid not null,
        person_id uuid not null,
        region_code text not null,
        scheme text not null,
        insurance_year smallint not null,
        status text not null,
        categories jsonb not null,
        channel_code text not null,
        submitted_by text not null,
        submitted_at timestamptz not null,
        decided_by text,
        decided_at timestamptz,
        reasons jsonb not null,
        sequence integer not null,
        constraint pk_enrollment primary key (enrollment_id),
        constraint ck_enrollment_status
            check (status in ('SUBMITTED', 'RETURNED', 'APPROVED', 'REJECTED')),
        constraint ck_enrollment_decided check ((status = 'SUBMITTED') = (decided_at is null))
    )
    with (fillfactor = 50)""",
    """create unique index uq_enrollment_live on enrollment.enrollment (person_id, insurance_year)
            where status <> 'REJECTED'""",
    """create table enrollment.identification (
        person_id uuid not null,
        channel_code text not null,
        sequence smallint not null,
        constraint pk_identification primary key (person_id, channel_code),
        constraint uq_identification_person_id_sequence unique (person_id, sequence)
    )""",
    """create table enrollment.person (
        person_id uuid not null,
        identity_index bytea not null,
        region_code text not null,
        level text not null,
        key_id text not null,
        box text not null,
        recorded_at timestamptz not null,
        sequence integer not null,
        constraint pk_person primary key (person_id),
        constraint uq_person_identity_index unique (identity_index)
    )""",
)


def upgrade() -> None:
    """Everything at once: there was nothing before."""
    for statement in (*engine_ddl("enrollment"), *TABLES):
        op.execute(statement)
