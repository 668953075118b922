"""How does a service's schema reach the shape its code expects, and do the two agree?

Alembic without an alembic.ini: a service's history is `services/<service>/migrations/*.py`, its version
table stands in its own schema, and this module is the only one that runs it.

A change goes expand → migrate → contract, each its own revision and its own release: the old code must run
on the new shape, because members of both versions work side by side. Every revision says `phase = "expand"`,
`"migrate"` or `"contract"`; only a contract revision may drop, rename or tighten (held by
tests/chassis/test_migrations.py).
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import asyncpg
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.schema import CreateIndex, CreateTable

from services.chassis.tables import ENGINE_TABLES, PARTITIONED

ROOT = Path(__file__).resolve().parents[2]
VERSION_TABLE = "revision"
LOCK_TIMEOUT = (
    "3s"  # a migration that waits for a lock makes every writer behind it wait too: give up and try again
)


def metadata_of(service: str) -> MetaData:
    """The service's tables as its code declares them; empty for a service that has none."""
    name = f"services.{service}.tables"
    if importlib.util.find_spec(name) is None:
        return MetaData(schema=service)
    metadata = importlib.import_module(name).Base.metadata
    if not isinstance(metadata, MetaData) or metadata.schema != service:
        raise TypeError(f"{name}.Base needs its own MetaData(schema={service!r})")
    return metadata


def history(service: str) -> ScriptDirectory:
    """The service's revisions, first to last."""
    config = Config()
    folder = str(ROOT / "services" / service / "migrations")
    config.set_main_option("script_location", folder)
    config.set_main_option("version_locations", folder)
    config.set_main_option("path_separator", "newline")
    return ScriptDirectory.from_config(config)


def administrator(dsn: str, database: str) -> AsyncEngine:
    """Connections for migrations, as the administrator of `dsn`, in `database`."""

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn, database=database, ssl="disable")

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, pool_size=1)


async def upgrade(service: str, engine: AsyncEngine) -> bool:
    """Bring the service's schema to its newest revision; whether anything was run.

    The engine's user may SET ROLE to `<service>_owner`; the schema exists. One transaction for all
    revisions, under an advisory lock: of two at once, the second finds the work done.
    """
    async with engine.begin() as link:
        return await link.run_sync(_upgrade, service)


async def check(service: str, engine: AsyncEngine) -> list[str]:
    """How the schema differs from what services/<service>/tables.py declares, one line each; empty: they
    agree."""
    async with engine.connect() as link:
        return await link.run_sync(_differences, service)


def declared_ddl(service: str) -> list[str]:
    """The statements that make the service's tables as declared now: what a first revision writes down, and
    what a test compares with the outcome of all revisions."""
    dialect = PGDialect()  # type: ignore[no-untyped-call]
    statements: list[str] = []
    for table in metadata_of(service).sorted_tables:
        made = str(CreateTable(table).compile(dialect=dialect)).strip()
        if "fillfactor" in table.info:
            made += f"\nwith (fillfactor = {int(table.info['fillfactor'])})"
        statements.append(made)
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [str(CreateIndex(index).compile(dialect=dialect)) for index in indexes]
    return statements


def is_engine_table(name: str) -> bool:
    """Whether a table of a service's schema is the engine's (or one of its months), not the service's."""
    return (
        name == VERSION_TABLE
        or name in ENGINE_TABLES
        or name.startswith(tuple(f"{p}_2" for p in PARTITIONED))
    )


def _upgrade(link: Connection, service: str) -> bool:
    scripts = history(service)
    link.execute(text(f"set local lock_timeout = '{LOCK_TIMEOUT}'"))
    link.execute(
        text("select pg_advisory_xact_lock(hashtext('canbao migrations'), hashtext(:s))"), {"s": service}
    )
    link.execute(text(f"set local role {service}_owner"))
    link.execute(text(f"set local search_path = {service}"))
    ran: list[str] = []

    def steps(present: Any, _context: MigrationContext) -> Any:
        todo = scripts._upgrade_revs(
            "head", present
        )  # what alembic's own `upgrade` calls; it has no public name
        ran.extend(step.revision.revision for step in todo)
        return todo

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(
            connection=link,
            target_metadata=metadata_of(service),
            version_table=VERSION_TABLE,
            version_table_schema=service,
        )
        environment.run_migrations()
    return bool(ran)


def _differences(link: Connection, service: str) -> list[str]:
    context = MigrationContext.configure(
        link,
        opts={
            "include_schemas": True,
            "include_name": lambda name, kind, _parents: kind != "schema" or name == service,
            "include_object": lambda _object, name, kind, _reflected, _other: (
                not (kind == "table" and is_engine_table(name))
            ),
        },
    )
    return [str(difference) for difference in compare_metadata(context, metadata_of(service))]
