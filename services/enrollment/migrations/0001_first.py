"""The engine's tables and the service's own."""

from alembic import op

from services.chassis.migrate import create_declared
from services.chassis.tables import engine_ddl

revision = "0001"
down_revision = None
phase = "expand"


def upgrade() -> None:
    """Everything at once: there was nothing before."""
    for statement in engine_ddl("enrollment"):
        op.execute(statement)
    create_declared("enrollment", op.get_bind())
