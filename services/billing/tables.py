"""How does billing keep what is due?"""

from datetime import date, datetime
from typing import ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

SCHEMA = "billing"
_HALF_FULL = {"fillfactor": 50}      # rows that are updated once soon after birth find room on their own page


class Base(SQLModel, registry=registry(metadata=MetaData(
    schema=SCHEMA,
    naming_convention={"pk": "pk_%(table_name)s", "uq": "uq_%(table_name)s_%(column_0_N_name)s",
                       "ck": "ck_%(table_name)s_%(constraint_name)s",
                       "ix": "ix_%(table_name)s_%(column_0_N_name)s"},
))):
    """Billing's own registry: its tables never meet another service's."""

    metadata: ClassVar[MetaData]


class Identification(Base, table=True):
    """A channel that may ask about a person, as enrollment said."""

    __tablename__ = "identification"
    __table_args__ = (PrimaryKeyConstraint("person_id", "channel_code"),)
    person_id: str = Field(sa_type=Uuid)
    channel_code: str = Field(sa_type=Text)
    sequence: int = Field(sa_type=SmallInteger)


class Bill(Base, table=True):
    """One version of what a person owes for a scheme and year.

    Lines and explanation follow from policy and category, so they are not kept. order_id: what paid it.
    sequence: facts said about the obligation.
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
        {"info": _HALF_FULL},
    )
    obligation_id: str = Field(sa_type=Uuid)
    version: int
    enrollment_id: str = Field(sa_type=Uuid)
    person_id: str = Field(sa_type=Uuid)
    region_code: str = Field(sa_type=Text)
    scheme: str = Field(sa_type=Text)
    insurance_year: int = Field(sa_type=SmallInteger)
    category: str = Field(sa_type=Text)
    due_fen: int = Field(sa_type=BigInteger)
    subsidy_fen: int = Field(sa_type=BigInteger)
    policy: str = Field(sa_type=Text)
    closes_on: date
    status: str = Field(sa_type=Text)
    order_id: str | None = Field(sa_type=Uuid, nullable=True)
    issued_at: datetime
    paid_at: datetime | None = Field(nullable=True)
    sequence: int
