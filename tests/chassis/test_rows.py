"""Do values come out of tables as they went in, by bulk statements, few or many?"""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime

import asyncpg
import pytest
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import BigInteger, Column, Date, DateTime, LargeBinary, MetaData, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from services.chassis.ids import uuid7
from services.chassis.keys import KeyFile, Keyring
from services.chassis.rows import Rows
from services.chassis.transaction import Transaction
from tests.ground import Database


class Base(SQLModel, registry=registry(metadata=MetaData(schema="pg_temp"))):
    """Tables of these tests."""


class ParcelTable(Base, table=True):
    """Every kind of column there is."""

    __tablename__ = "parcel"
    parcel_id: str = Field(sa_column=Column(Uuid, primary_key=True))
    part: int = Field(sa_column=Column(BigInteger, primary_key=True))
    label: str = Field(sa_column=Column(Text))
    lines: str = Field(sa_column=Column(JSONB))
    sealed: bytes = Field(sa_column=Column(LargeBinary))
    due: date = Field(sa_column=Column(Date))
    at: datetime = Field(sa_column=Column(DateTime(timezone=True)))
    sequence: int = Field(sa_column=Column(BigInteger))


class Line(Struct, frozen=True):
    """Inside a jsonb column."""

    kind: str
    fen: int


class Parcel(Struct, frozen=True):
    """The table's row."""

    parcel_id: str
    part: int
    label: str
    lines: list[Line]
    sealed: bytes
    due: date
    at: datetime
    sequence: int


PARCELS = Rows(ParcelTable, Parcel)
RELABELLED = PARCELS.change("label", "lines", "sequence")
LATEST = PARCELS.upsert(newer="sequence")


@pytest.fixture
async def tx(database: Database) -> AsyncIterator[Transaction]:
    async with database.connect() as conn:
        await conn.execute(
            "create temp table parcel (parcel_id uuid, part bigint, label text, lines jsonb, sealed bytea,"
            " due date, at timestamptz, sequence bigint, primary key (parcel_id, part))"
        )
        yield Transaction("billing", conn, Keyring(KeyFile(principal="billing")))


def parcel(part: int = 1) -> Parcel:
    at = datetime(2024, 12, 20, 12, 30, 0, 123456, tzinfo=UTC)
    return Parcel(uuid7(), part, "居民·𠮷", [Line("STANDARD", 40_000)], b"\x00\xff", date(2025, 1, 1), at, 1)


@pytest.mark.parametrize("count", [1, 49, 50, 120])
async def test_rows_come_back_as_they_were_written(tx: Transaction, count: int) -> None:
    parcels = [parcel() for _ in range(count)]
    for each in parcels:
        tx.add(PARCELS, each)
    await tx.flush()

    found = await PARCELS.fetch(tx, parcel_id=[each.parcel_id for each in parcels])

    assert sorted(found, key=lambda p: p.parcel_id) == sorted(parcels, key=lambda p: p.parcel_id)


async def test_several_columns_are_looked_up_as_pairs(tx: Transaction) -> None:
    one, two = parcel(), parcel(2)
    for each in (one, replace(one, part=2), two):
        tx.add(PARCELS, each)
    await tx.flush()

    found = await PARCELS.fetch(tx, parcel_id=[one.parcel_id, two.parcel_id], part=[2, 2])
    assert {(p.parcel_id, p.part) for p in found} == {(one.parcel_id, 2), (two.parcel_id, 2)}


async def test_a_change_touches_its_columns_only_and_the_last_one_counts(tx: Transaction) -> None:
    one = parcel()
    tx.add(PARCELS, one)
    await tx.flush()
    tx.change(RELABELLED, replace(one, label="first", due=date(2030, 1, 1)))
    tx.change(RELABELLED, replace(one, label="second", lines=[], sequence=2, due=date(2030, 1, 1)))
    await tx.flush()

    assert await PARCELS.fetch(tx, parcel_id=[one.parcel_id]) == [
        replace(one, label="second", lines=[], sequence=2)
    ]


async def test_a_change_of_a_row_that_is_not_there_is_a_bug(tx: Transaction) -> None:
    tx.change(RELABELLED, parcel())

    with pytest.raises(LookupError, match="parcel"):
        await tx.flush()


async def test_the_newer_version_stands_whatever_the_order(tx: Transaction) -> None:
    one = parcel()
    for sequence in (2, 3, 1):
        tx.upsert(LATEST, replace(one, label=str(sequence), sequence=sequence))
    await tx.flush()
    tx.upsert(LATEST, replace(one, label="old", sequence=2))
    await tx.flush()

    assert [p.label for p in await PARCELS.fetch(tx, parcel_id=[one.parcel_id])] == ["3"]


async def test_nobody_is_asked_for_nothing(tx: Transaction) -> None:
    assert await PARCELS.fetch(tx, parcel_id=[]) == []


async def test_the_same_row_twice_is_refused_by_the_database(tx: Transaction) -> None:
    one = parcel()
    tx.add(PARCELS, one)
    tx.add(PARCELS, one)

    with pytest.raises(asyncpg.UniqueViolationError):
        await tx.flush()


def test_a_value_that_does_not_fit_its_table_is_told_at_import() -> None:
    class Short(Struct, frozen=True):
        """Fewer fields than columns."""

        parcel_id: str

    with pytest.raises(ValueError, match="parcel"):
        Rows(ParcelTable, Short)
