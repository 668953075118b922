"""How does the console keep what it has heard?"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, PrimaryKeyConstraint, SmallInteger, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, Index, SQLModel

from services.chassis.rows import HALF_FULL, registry_of


class Base(SQLModel, registry=registry_of("console")):
    """What all tables of console have in common."""


class Step(Base, table=True):
    """One published fact, never changed. ce_id holds the system time it was said at; `at` is business time.

    topic, part, record_offset: where it stands. Ids are null, texts empty, where the fact has none.
    about: what is shown of it, by rules.WORDS; nothing sealed.
    """

    __tablename__ = "step"
    __table_args__ = (
        Index("ix_step_person_id", "person_id", postgresql_where=text("person_id is not null")),
        Index("ix_step_journey", "journey", postgresql_where=text("journey <> ''")),
        Index("ix_step_obligation_id", "obligation_id", postgresql_where=text("obligation_id is not null")),
        Index("ix_step_order_id", "order_id", postgresql_where=text("order_id is not null")),
        Index("ix_step_channel_ref", "channel_ref", postgresql_where=text("channel_ref <> ''")),
        {"info": {"append_only": True}},
    )
    ce_id: str = Field(sa_type=Uuid, primary_key=True)
    at: datetime
    type: str = Field(sa_type=Text)
    topic: str = Field(sa_type=Text)
    part: int = Field(sa_type=SmallInteger)
    record_offset: int = Field(sa_type=BigInteger)
    journey: str = Field(sa_type=Text)
    person_id: str | None = Field(sa_type=Uuid, nullable=True)
    enrollment_id: str | None = Field(sa_type=Uuid, nullable=True)
    obligation_id: str | None = Field(sa_type=Uuid, nullable=True)
    order_id: str | None = Field(sa_type=Uuid, nullable=True)
    channel_ref: str = Field(sa_type=Text)
    about: dict[str, Any] = Field(sa_type=JSONB)


class Person(Base, table=True):
    """Who it is about, as far as everybody may see it."""

    __tablename__ = "person"
    person_id: str = Field(sa_type=Uuid, primary_key=True)
    region_code: str = Field(sa_type=Text)
    name_masked: str = Field(sa_type=Text)
    at: datetime
    sequence: int


class Tally(Base, table=True):
    """Facts of a type that each partition brought. A partition has one reader, so nobody waits for a row."""

    __tablename__ = "tally"
    __table_args__ = (PrimaryKeyConstraint("topic", "part", "type"), {"info": HALF_FULL})
    topic: str = Field(sa_type=Text)
    part: int = Field(sa_type=SmallInteger)
    type: str = Field(sa_type=Text)
    facts: int = Field(sa_type=BigInteger)
