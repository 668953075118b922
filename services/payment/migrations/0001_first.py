"""The engine's tables and the service's own."""

from alembic import op

from services.chassis.migrate import create_declared
from services.chassis.tables import engine_ddl
from services.payment.tables import LEDGER_TRIGGER

revision = "0001"
down_revision = None
phase = "expand"


def upgrade() -> None:
    """Everything at once: there was nothing before."""
    for statement in engine_ddl("payment"):
        op.execute(statement)
    create_declared("payment", op.get_bind())
    op.execute(LEDGER_TRIGGER)
