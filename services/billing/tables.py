"""How does billing keep what is due?"""

from datetime import date, datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from services.chassis.rows import HALF_FULL, registry_of


class Base(SQLModel, registry=registry_of("billing")):
    """What all tables of billing have in common."""


class Identification(Base, table=True):
    """A channel that may ask about a person, as enrollment said."""

    __tablename__ = "identification"
    __table_args__ = (PrimaryKeyConstraint("person_id", "channel_code"),)
    person_id: str = Field(sa_type=Uuid)
    channel_code: str = Field(sa_type=Text)
    sequence: int = Field(sa_type=SmallInteger)


class Bill(Base, table=True):
    """One version of what a person owes for a scheme and year.

    Lines and explanation follow from policy and categories, so they are not kept. certified: all the person
    has; category: the one of them that counts. order_id: what paid it. sequence: facts said about the
    obligation.
    """

    __tablename__ = "bill"
    __table_args__ = (
        PrimaryKeyConstraint("obligation_id", "version"),
        UniqueConstraint("person_id", "insurance_year", "scheme", "version"),
        CheckConstraint("status in ('ISSUED', 'WAIVED', 'SETTLED', 'SUPERSEDED')", name="status"),
        CheckConstraint("due_fen >= 0 and subsidy_fen >= 0", name="amounts"),
        CheckConstraint("status not in ('ISSUED', 'WAIVED') or (status = 'WAIVED') = (due_fen = 0)",
                        name="due_or_waived"),
        CheckConstraint("(status = 'SETTLED') = (order_id is not null)", name="settled_by_an_order"),
        {"info": HALF_FULL},
    )
    obligation_id: str = Field(sa_type=Uuid)
    version: int
    enrollment_id: str = Field(sa_type=Uuid)
    person_id: str = Field(sa_type=Uuid)
    region_code: str = Field(sa_type=Text)
    scheme: str = Field(sa_type=Text)
    insurance_year: int = Field(sa_type=SmallInteger)
    category: str = Field(sa_type=Text)
    certified: list[str] = Field(sa_type=JSONB)
    due_fen: int = Field(sa_type=BigInteger)
    subsidy_fen: int = Field(sa_type=BigInteger)
    policy: str = Field(sa_type=Text)
    closes_on: date
    status: str = Field(sa_type=Text)
    order_id: str | None = Field(sa_type=Uuid, nullable=True)
    issued_at: datetime
    paid_at: datetime | None = Field(nullable=True)
    sequence: int
