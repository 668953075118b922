"""How does enrollment keep people, applications and coverages?"""

from datetime import date, datetime

from sqlalchemy import (
    CheckConstraint,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, Index, SQLModel

from services.chassis.rows import HALF_FULL, registry_of


class Base(SQLModel, registry=registry_of("enrollment")):
    """What all tables of enrollment have in common."""


class Person(Base, table=True):
    """A registered person. What is personal stands in `box` only, sealed for enrollment at this person_id.

    identity_index: blind index of the ID number: one identity, one account. sequence: versions said.
    """

    __tablename__ = "person"
    __table_args__ = (UniqueConstraint("identity_index"),)
    person_id: str = Field(sa_type=Uuid, primary_key=True)
    identity_index: bytes = Field(sa_type=LargeBinary, sa_column_kwargs={"info": {"class": "C2"}})
    region_code: str = Field(sa_type=Text)
    level: str = Field(sa_type=Text)
    key_id: str = Field(sa_type=Text)
    box: str = Field(sa_type=Text, sa_column_kwargs={"info": {"class": "C2"}})
    recorded_at: datetime
    sequence: int


class Identification(Base, table=True):
    """A channel that knows a person. sequence: of the fact that said so; it makes two at once meet here."""

    __tablename__ = "identification"
    __table_args__ = (
        PrimaryKeyConstraint("person_id", "channel_code"),
        UniqueConstraint("person_id", "sequence"),
        {"info": {"append_only": True}},
    )
    person_id: str = Field(sa_type=Uuid)
    channel_code: str = Field(sa_type=Text)
    sequence: int = Field(sa_type=SmallInteger)


class Enrollment(Base, table=True):
    """An application and what the agency made of it. categories: claimed, once approved the certified ones.

    sequence: facts said about it on enrollment.enrollments.
    """

    __tablename__ = "enrollment"
    __table_args__ = (
        CheckConstraint("status in ('SUBMITTED', 'RETURNED', 'APPROVED', 'REJECTED')", name="status"),
        CheckConstraint("(status = 'SUBMITTED') = (decided_at is null)", name="decided"),
        # One live application for a person and year, whatever the code does; rejected ones may be many.
        Index("uq_enrollment_live", "person_id", "insurance_year", unique=True,
              postgresql_where=text("status <> 'REJECTED'")),
        {"info": HALF_FULL},
    )
    enrollment_id: str = Field(sa_type=Uuid, primary_key=True)
    person_id: str = Field(sa_type=Uuid)
    region_code: str = Field(sa_type=Text)
    scheme: str = Field(sa_type=Text)
    insurance_year: int = Field(sa_type=SmallInteger)
    status: str = Field(sa_type=Text)
    categories: list[str] = Field(sa_type=JSONB)
    channel_code: str = Field(sa_type=Text)
    submitted_by: str = Field(sa_type=Text)
    submitted_at: datetime
    decided_by: str | None = Field(sa_type=Text, nullable=True)
    decided_at: datetime | None = Field(nullable=True)
    reasons: list[str] = Field(sa_type=JSONB)
    sequence: int


class Coverage(Base, table=True):
    """Cover for one insurance year. Born by what comes first: the approval or the payment.

    late: paid after the window, so it waits. sequence: facts said about it on enrollment.coverages.
    """

    __tablename__ = "coverage"
    __table_args__ = (
        CheckConstraint("status in ('PENDING', 'WAITING', 'ACTIVE')", name="status"),
        CheckConstraint(
            "status = 'PENDING' or approved_at is not null and paid_at is not null and starts_on <= ends_on",
            name="grounds",
        ),
        {"info": HALF_FULL},
    )
    enrollment_id: str = Field(sa_type=Uuid, primary_key=True)
    person_id: str = Field(sa_type=Uuid)
    region_code: str = Field(sa_type=Text)
    scheme: str = Field(sa_type=Text)
    insurance_year: int = Field(sa_type=SmallInteger)
    status: str = Field(sa_type=Text)
    approved_at: datetime | None = Field(nullable=True)
    paid_at: datetime | None = Field(nullable=True)
    late: bool
    starts_on: date | None = Field(nullable=True)
    ends_on: date | None = Field(nullable=True)
    sequence: int
