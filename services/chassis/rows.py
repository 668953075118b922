"""How do values get into tables and out again? Bulk statements built once from a table's columns."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_type_hints

from msgspec import Struct
from msgspec.json import decode, encode
from sqlalchemy import MetaData, Table
from sqlalchemy.dialects.postgresql import dialect
from sqlalchemy.orm import registry
from sqlmodel import SQLModel

if TYPE_CHECKING:   # who only makes tables needs nothing of a running service
    from services.chassis.transaction import Transaction

Value = TypeVar("Value", bound=Struct)
Columns = tuple[str, ...]
HALF_FULL = {"fillfactor": 50}      # rows that are updated soon after birth find room on their own page
_DIALECT = dialect()  # type: ignore[no-untyped-call]
_NAMES = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}


def registry_of(service: str) -> registry:
    """The registry of a service's own tables, in its own schema: they never meet another service's."""
    return registry(metadata=MetaData(schema=service, naming_convention=_NAMES))


class Rows(Generic[Value]):
    """A table seen as frozen values: the value's fields are the table's columns, in the same order.

    uuid columns hold text in Python; jsonb columns hold whatever the field's type says. ValueError: the two
    disagree.
    """

    def __init__(self, table: type[SQLModel], value: type[Value]) -> None:
        source = cast(Table, table.__table__)  # type: ignore[attr-defined]
        self.columns: Columns = tuple(column.name for column in source.columns)
        fields = value.__struct_fields__
        if fields != self.columns:
            raise ValueError(f"{value.__name__} has {fields}, its table {source.name} has {self.columns}")
        self.name, self.schema, self.value = source.name, source.schema, value
        self.keys: Columns = tuple(column.name for column in source.primary_key.columns)
        self.types = {c.name: c.type.compile(_DIALECT).lower() for c in source.columns}
        self._positional = value.__match_args__ == fields
        self._selects: dict[Columns, str] = {}
        self._reads = [(i, _reader(value, n)) for i, n in enumerate(fields) if self.types[n] == "jsonb"]
        self.insert = Insert(self)

    def change(self, *columns: str) -> "Change[Value]":
        """An update of these columns by primary key."""
        return Change(self, columns)

    def upsert(self, *, newer: str) -> "Upsert[Value]":
        """Insert, or replace by primary key when the column `newer` is greater than what stands."""
        return Upsert(self, newer)

    async def fetch(self, tx: "Transaction", **by: Sequence[Any]) -> list[Value]:
        """All rows whose column is in the list; with several columns, whose columns equal one of the zipped
        tuples.
        """
        columns = tuple(by)
        if not by[columns[0]]:
            return []
        if columns not in self._selects:
            self._selects[columns] = self._select(columns)
        return [self.of(record) for record in await tx.fetch(self._selects[columns], *by.values())]

    def of(self, record: Sequence[Any]) -> Value:
        """The value in a record that was selected in the table's column order, uuids as text."""
        fields = list(record)
        for i, read in self._reads:
            if fields[i] is not None:
                fields[i] = read(fields[i])
        return self.value(*fields) if self._positional else self.value(**dict(zip(self.columns, fields)))

    @property
    def select(self) -> str:
        """`select … from …` in the order that `of` expects."""
        names = ", ".join(f"{n}::text" if self.types[n] == "uuid" else n for n in self.columns)
        return f"select {names} from {self.name}"  # noqa: S608 -- names come from our own table declarations

    def tuples(self, columns: Columns) -> Callable[[Value], tuple[Any, ...]]:
        """Takes a value's columns as a tuple, jsonb ones encoded."""
        take = attrgetter(*columns)
        single = len(columns) == 1
        encoded = [i for i, name in enumerate(columns) if self.types[name] == "jsonb"]

        def plain(value: Value) -> tuple[Any, ...]:
            return (take(value),) if single else take(value)

        def with_json(value: Value) -> tuple[Any, ...]:
            row = list(plain(value))
            for i in encoded:
                row[i] = None if row[i] is None else encode(row[i]).decode()
            return tuple(row)

        return with_json if encoded else plain

    def arrays(self, columns: Columns) -> str:
        """`$1::uuid[], $2::text[], …` for unnest."""
        return ", ".join(f"${i}::{self.types[name]}[]" for i, name in enumerate(columns, 1))

    def _select(self, columns: Columns) -> str:
        if len(columns) == 1:
            return f"{self.select} where {columns[0]} = any({self.arrays(columns)})"
        listed = f"select * from unnest({self.arrays(columns)})"  # noqa: S608 -- names come from our own table declarations
        return f"{self.select} where ({', '.join(columns)}) in ({listed})"


class Insert(Generic[Value]):
    """New rows: COPY for many, one unnest statement for few."""

    def __init__(self, rows: Rows[Value]) -> None:
        self.rows, self._tuple = rows, rows.tuples(rows.columns)
        names = ", ".join(rows.columns)
        self._sql = f"insert into {rows.name} ({names}) select * from unnest({rows.arrays(rows.columns)})"  # noqa: S608 -- names come from our own table declarations

    async def write(self, tx: "Transaction", values: list[Value]) -> None:
        records = [self._tuple(value) for value in values]
        await tx.insert(self.rows.name, self.rows.columns, records, self._sql)


class Change(Generic[Value]):
    """New values for some columns of rows that stand; a row that is not there is a bug and raises
    LookupError.
    """

    def __init__(self, rows: Rows[Value], columns: Columns) -> None:
        every = rows.keys + columns
        self.rows, self._tuple = rows, rows.tuples(every)
        assigned = ", ".join(f"{c} = u.{c}" for c in columns)
        same = " and ".join(f"t.{k} = u.{k}" for k in rows.keys)
        new = f"unnest({rows.arrays(every)}) u({', '.join(every)})"
        self._sql = f"update {rows.name} t set {assigned} from {new} where {same}"  # noqa: S608 -- names come from our own table declarations

    async def write(self, tx: "Transaction", values: list[Value]) -> None:
        latest = {record[: len(self.rows.keys)]: record for record in map(self._tuple, values)}
        tag = await tx.execute(self._sql, *map(list, zip(*latest.values(), strict=True)))
        if tag != f"UPDATE {len(latest)}":
            raise LookupError(f"{self.rows.name}: {tag} of {len(latest)} rows that should stand")


class Upsert(Generic[Value]):
    """The latest version of something that arrives by sequence (compacted topics)."""

    def __init__(self, rows: Rows[Value], newer: str) -> None:
        self.rows, self._tuple, self._newer = rows, rows.tuples(rows.columns), rows.columns.index(newer)
        names = ", ".join(rows.columns)
        assigned = ", ".join(f"{c} = excluded.{c}" for c in rows.columns if c not in rows.keys)
        self._sql = (
            f"insert into {rows.name} as t ({names})"  # noqa: S608 -- names come from our own table declarations
            f" select * from unnest({rows.arrays(rows.columns)})"
            f" on conflict ({', '.join(rows.keys)}) do update set {assigned}"
            f" where excluded.{newer} > t.{newer}"
        )

    async def write(self, tx: "Transaction", values: list[Value]) -> None:
        keys = [self.rows.columns.index(key) for key in self.rows.keys]
        latest: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for record in map(self._tuple, values):
            key = tuple(record[i] for i in keys)
            if key not in latest or latest[key][self._newer] < record[self._newer]:
                latest[key] = record
        await tx.execute(self._sql, *map(list, zip(*latest.values(), strict=True)))


def _reader(value: type[Struct], field: str) -> Callable[[str], Any]:
    kind = get_type_hints(value)[field]
    return lambda text: decode(text, type=kind)
