"""How does notify keep whom it can reach and what it has told?"""

from datetime import datetime

from sqlalchemy import CheckConstraint, SmallInteger, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from services.chassis.rows import HALF_FULL, registry_of


class Base(SQLModel, registry=registry_of("notify")):
    """What all tables of notify have in common."""


class Addressee(Base, table=True):
    """Whom we can reach. contact stays sealed as it came; only a gateway opens it, while it sends."""

    __tablename__ = "addressee"
    person_id: str = Field(sa_type=Uuid, primary_key=True)
    region_code: str = Field(sa_type=Text)
    name_masked: str = Field(sa_type=Text)
    contact: dict[str, str] = Field(sa_type=JSONB, sa_column_kwargs={"info": {"class": "C2"}})
    sequence: int


class Notification(Base, table=True):
    """One fact told to one person. Its id is the fact's ce_id, so a fact is told once by the primary key
    alone.

    params: what the template's holes are filled with. attempts: how often it was handed to a road.
    """

    __tablename__ = "notification"
    __table_args__ = (
        CheckConstraint("status in ('SENDING', 'DEFERRED', 'FALLBACK', 'SENT', 'DEAD')", name="status"),
        CheckConstraint("road in ('SMS', 'EMAIL')", name="road"),
        {"info": HALF_FULL},
    )
    notification_id: str = Field(sa_type=Uuid, primary_key=True)
    person_id: str = Field(sa_type=Uuid)
    journey: str = Field(sa_type=Text)
    region_code: str = Field(sa_type=Text)
    template: str = Field(sa_type=Text)
    params: dict[str, str] = Field(sa_type=JSONB)
    to_masked: str = Field(sa_type=Text)
    road: str = Field(sa_type=Text)
    status: str = Field(sa_type=Text)
    attempts: int = Field(sa_type=SmallInteger)
    provider_ref: str = Field(sa_type=Text)
    reason: str = Field(sa_type=Text)
    born_at: datetime
    ended_at: datetime | None = Field(nullable=True)
