"""Who may log in to Postgres and what may each role do? Default deny; every right is written here or with
its table.

Per service: `<service>_owner` (NOLOGIN) owns schema and tables, `<service>` works in it with the rights
listed, `<service>_maintenance` makes and drops partitions by SET ROLE to the owner. `auditor` reads every
schema without bytes of messages and without C2 columns (declared `info={"class": "C2"}` on the column). A
domain table is read, inserted and updated; one with `info={"append_only": True}`, or named ledger or audit,
never changes a row, and only one with `info={"deletes": True}` loses any.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping

import asyncpg
from msgspec import Struct
from sqlalchemy import Table

from services.chassis.migrate import VERSION_TABLE, metadata_of
from services.chassis.tables import APPEND, ENGINE_TABLES, READ_WRITE, Verb

AUDITOR = "auditor"
APPEND_ONLY = frozenset({"ledger", "audit"})
SCRAM_ITERATIONS = 4096

# By role kind. A frozen process keeps its locks until the server ends its session; the engine's own sessions
# set less (`database.py`).
_SERVICE_SETTINGS = {
    "statement_timeout": "10s",
    "lock_timeout": "8s",
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",
    "jit": "off",
}
_AUDITOR_SETTINGS = {
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
    "timezone": "UTC",
    "default_transaction_read_only": "on",
    "search_path": "pg_catalog",
}


class Right(Struct, frozen=True, kw_only=True):
    """What one role may do to one table. columns: only these (empty: the whole table)."""

    role: str
    schema: str
    table: str
    verbs: tuple[Verb, ...]
    columns: tuple[str, ...] = ()


def rights(services: Iterable[str]) -> list[Right]:
    """Every right on every table of these services' schemas: the one list that grants and the matrix test
    use."""
    found = []
    for service in services:
        for name, engine in ENGINE_TABLES.items():
            seen = tuple(c for c in engine.columns if c not in engine.hidden)
            found.append(Right(role=service, schema=service, table=name, verbs=engine.may))
            found.append(Right(role=AUDITOR, schema=service, table=name, verbs=("SELECT",), columns=seen))
        for table in metadata_of(service).sorted_tables:
            seen = tuple(c.name for c in table.columns if c.info.get("class") != "C2")
            found.append(Right(role=service, schema=service, table=table.name, verbs=domain_verbs(table)))
            found.append(
                Right(role=AUDITOR, schema=service, table=table.name, verbs=("SELECT",), columns=seen)
            )
        found.append(Right(role=service, schema=service, table=VERSION_TABLE, verbs=("SELECT",)))
        found.append(Right(role=AUDITOR, schema=service, table=VERSION_TABLE, verbs=("SELECT",)))
    return found


def domain_verbs(table: Table) -> tuple[Verb, ...]:
    """What a service may do to one of its own tables."""
    if table.name in APPEND_ONLY or table.info.get("append_only"):
        return APPEND
    return READ_WRITE if table.info.get("deletes") else ("SELECT", "INSERT", "UPDATE")


async def make_roles(conn: asyncpg.Connection, services: Iterable[str], secrets: Mapping[str, str]) -> None:
    """Create the roles that are missing and set every password given; roles belong to the server, not to a
    database.

    A maintenance role without a secret can't log in.
    """
    present = {row["rolname"] for row in await conn.fetch("select rolname from pg_roles")}
    superuser = await conn.fetchval("select rolsuper from pg_roles where rolname = current_user")
    script: list[str] = []

    def role(name: str, *, login: bool, settings: Mapping[str, str]) -> None:
        if name not in present:
            script.append(f"create role {name} noinherit nologin")
        if login:
            script.append(f"alter role {name} login password '{scram_verifier(secrets[name])}'")
        script.extend(f"alter role {name} set {key} = '{value}'" for key, value in settings.items())

    for service in services:
        owner, maintenance = f"{service}_owner", f"{service}_maintenance"
        role(owner, login=False, settings={})
        role(service, login=True, settings={**_SERVICE_SETTINGS, "search_path": service})
        role(
            maintenance, login=maintenance in secrets, settings={"search_path": service, "lock_timeout": "0"}
        )
        script.append(f"grant {owner} to {maintenance} with inherit false, set true")
        if not superuser:
            script.append(f"grant {owner} to current_user with inherit false, set true")
    role(AUDITOR, login=True, settings=_AUDITOR_SETTINGS)
    await conn.execute(";".join(script))


async def close_database(conn: asyncpg.Connection, database: str, services: Iterable[str]) -> None:
    """Shut the doors that Postgres leaves open, let our roles connect and give each service its empty schema.

    conn is in `database`. Needed again for a database copied from a template: CONNECT is not copied.
    """
    services = list(services)
    superuser = await conn.fetchval("select rolsuper from pg_roles where rolname = current_user")
    script = [f"revoke all on database {database} from public", "revoke all on schema public from public"]
    if superuser:  # another administrator's server: its own databases are not ours to close
        script += [
            "revoke all on database postgres, template1 from public",
            "revoke execute on function lo_create(oid), lo_creat(integer), lo_from_bytea(oid, bytea),"
            " lo_put(oid, bigint, bytea) from public",
        ]
    users = [AUDITOR, *services, *(f"{s}_maintenance" for s in services)]
    script.append(f"grant connect on database {database} to {', '.join(users)}")
    for service in services:
        owner = f"{service}_owner"
        script += [
            f"create schema if not exists {service} authorization {owner}",
            f"alter default privileges for role {owner} revoke execute on functions from public",
            f"grant usage on schema {service} to {service}, {service}_maintenance, {AUDITOR}",
        ]
    await conn.execute(";".join(script))


async def grant(conn: asyncpg.Connection, services: Iterable[str]) -> None:
    """Make the rights on tables exactly those of `rights`, in one transaction; conn is in the services'
    database."""
    services = list(services)
    script = []
    for service in services:
        roles = f"{service}, {service}_maintenance, {AUDITOR}"
        script += [
            f"set local role {service}_owner",
            f"revoke all on all tables in schema {service} from public, {roles}",
            f"revoke all on all sequences in schema {service} from public, {roles}",
            f"grant usage on all sequences in schema {service} to {service}",
        ]
        for right in rights([service]):
            columns = "".join(f'"{column}", ' for column in right.columns)[:-2]
            verbs = ", ".join(f"{verb} ({columns})" if columns else verb for verb in right.verbs)
            script.append(f"grant {verbs} on {right.schema}.{right.table} to {right.role}")
    async with conn.transaction():
        await conn.execute(";".join(script))


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """What Postgres stores for a password (RFC 5802, RFC 7677). Made here, so that no statement, log or
    pg_stat_activity ever shows the password itself."""
    salt = salt or os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    text = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{text[0]}${text[1]}:{text[2]}"
