"""How does payment keep obligations, orders, receipts of money and the ledger?"""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, Index, SQLModel

from services.chassis.rows import HALF_FULL, registry_of


class Base(SQLModel, registry=registry_of("payment")):
    """What all tables of payment have in common."""


class Obligation(Base, table=True):
    """What a person owes, as billing said last. order_id while DUE: the live order that holds the pay lock,
    for about
    as long as locked_until; while SETTLED: the order that paid it."""

    __tablename__ = "obligation"
    __table_args__ = (
        CheckConstraint("status in ('DUE', 'WAIVED', 'SETTLED')", name="status"),
        CheckConstraint("due_fen >= 0", name="due"),
        CheckConstraint("status <> 'SETTLED' or order_id is not null", name="settled_by_an_order"),
        {"info": HALF_FULL},
    )
    obligation_id: str = Field(sa_type=Uuid, primary_key=True)
    person_id: str = Field(sa_type=Uuid)
    enrollment_id: str = Field(sa_type=Uuid)
    journey: str = Field(sa_type=Text)
    region_code: str = Field(sa_type=Text)
    insurance_year: int = Field(sa_type=SmallInteger)
    version: int
    due_fen: int = Field(sa_type=BigInteger)
    status: str = Field(sa_type=Text)
    order_id: str | None = Field(sa_type=Uuid, nullable=True)
    locked_until: datetime | None = Field(nullable=True)


class Person(Base, table=True):
    """Who somebody is, sealed for payment as it came; opened only while a bank's report is judged."""

    __tablename__ = "person"
    person_id: str = Field(sa_type=Uuid, primary_key=True)
    identity: dict[str, str] = Field(sa_type=JSONB, sa_column_kwargs={"info": {"class": "C2"}})
    sequence: int


class Identification(Base, table=True):
    """A channel that may pay for a person, as enrollment said."""

    __tablename__ = "identification"
    __table_args__ = (PrimaryKeyConstraint("person_id", "channel_code"),)
    person_id: str = Field(sa_type=Uuid)
    channel_code: str = Field(sa_type=Text)
    sequence: int = Field(sa_type=SmallInteger)


class Order(Base, table=True):
    """One attempt to pay. channel_code: who takes the money; partner and request_id: who asked, for the
    deferred answer.

    sequence: facts said about it. channel_ref is empty until money came.
    """

    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint(
            "status in ('PENDING', 'CAPTURED', 'CAPTURED_LATE', 'SETTLED', 'DUPLICATE', 'FAILED', 'EXPIRED')",
            name="status",
        ),
        CheckConstraint("amount_fen > 0", name="amount"),
        {"info": HALF_FULL},
    )
    order_id: str = Field(sa_type=Uuid, primary_key=True)
    person_id: str = Field(sa_type=Uuid)
    channel_code: str = Field(sa_type=Text)
    partner: str = Field(sa_type=Text)
    request_id: str = Field(sa_type=Text)
    amount_fen: int = Field(sa_type=BigInteger)
    status: str = Field(sa_type=Text)
    channel_ref: str = Field(sa_type=Text)
    created_at: datetime
    paid_at: datetime | None = Field(nullable=True)
    sequence: int


class OrderItem(Base, table=True):
    """One obligation in an order, with the bill version and amount that the payer saw."""

    __tablename__ = "order_item"
    __table_args__ = (
        PrimaryKeyConstraint("order_id", "item"),
        CheckConstraint("status in ('OPEN', 'SETTLED', 'SUSPENSE')", name="status"),
        CheckConstraint("amount_fen > 0", name="amount"),
        # I4: no obligation is settled twice, whatever the code does. The second transaction runs again and
        # finds it settled.
        Index(
            "uq_order_item_settled", "obligation_id", unique=True, postgresql_where=text("status = 'SETTLED'")
        ),
        {"info": HALF_FULL},
    )
    order_id: str = Field(sa_type=Uuid)
    item: int = Field(sa_type=SmallInteger)
    person_id: str = Field(sa_type=Uuid)
    obligation_id: str = Field(sa_type=Uuid)
    version: int
    amount_fen: int = Field(sa_type=BigInteger)
    status: str = Field(sa_type=Text)


class Receipt(Base, table=True):
    """Money that a channel says it took: one row for each of its transaction numbers, never changed (I3).

    order_id: the order that it was for, if any. reason: empty, or why not all of it settled something.
    """

    __tablename__ = "receipt"
    __table_args__ = (
        PrimaryKeyConstraint("channel_code", "channel_ref"),
        CheckConstraint("amount_fen > 0", name="amount"),
        {"info": {"append_only": True}},
    )
    channel_code: str = Field(sa_type=Text)
    channel_ref: str = Field(sa_type=Text)
    order_id: str | None = Field(sa_type=Uuid, nullable=True)
    obligation_id: str | None = Field(sa_type=Uuid, nullable=True)
    amount_fen: int = Field(sa_type=BigInteger)
    reason: str = Field(sa_type=Text)
    paid_at: datetime
    received_at: datetime


class Ledger(Base, table=True):
    """The books. An entry has two legs, signed fen, debit positive; the trigger entries_balance of the first
    revision holds that they add up to 0 (I1)."""

    __tablename__ = "ledger"
    __table_args__ = (
        PrimaryKeyConstraint("entry_id", "leg"),
        CheckConstraint("leg in (1, 2)", name="leg"),
        CheckConstraint("account in (1002, 2202, 2203)", name="account"),
        CheckConstraint("amount_fen <> 0", name="amount"),
        {"info": {"append_only": True}},
    )
    entry_id: str = Field(sa_type=Uuid)
    leg: int = Field(sa_type=SmallInteger)
    account: int = Field(sa_type=SmallInteger)
    amount_fen: int = Field(sa_type=BigInteger)
    order_id: str | None = Field(sa_type=Uuid, nullable=True)
    posted_at: datetime


class Funds(Base, table=True):
    """Money in suspense: it settles nothing and goes back. funds_id is also the id of its ledger entry."""

    __tablename__ = "funds"
    __table_args__ = (
        CheckConstraint("status in ('RECEIVED')", name="status"),
        CheckConstraint("amount_fen > 0", name="amount"),
    )
    funds_id: str = Field(sa_type=Uuid, primary_key=True)
    status: str = Field(sa_type=Text)
    reason: str = Field(sa_type=Text)
    journey: str = Field(sa_type=Text)
    region_code: str = Field(sa_type=Text)
    person_id: str | None = Field(sa_type=Uuid, nullable=True)
    enrollment_id: str | None = Field(sa_type=Uuid, nullable=True)
    obligation_id: str | None = Field(sa_type=Uuid, nullable=True)
    order_id: str | None = Field(sa_type=Uuid, nullable=True)
    amount_fen: int = Field(sa_type=BigInteger)
    channel_code: str = Field(sa_type=Text)
    channel_ref: str = Field(sa_type=Text)
    received_at: datetime
