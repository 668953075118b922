"""What does a fresh server need before the services can run? Roles, schemas, tables, partitions, users,
topics, ACLs.

Idempotent: run at every start of the sandbox, by the Helm hook, and after every change of a contract.
"""

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import asyncpg

from contracts.topics import SERVICES
from services.chassis import roles
from services.chassis.migrate import administrator, upgrade
from services.chassis.partitions import make_partitions
from services.chassis.topics import Broker

SCHEMAS = (*SERVICES, "console")


def provision(
    *,
    pg_admin_dsn: str,
    kafka_admin: str,
    secrets: Mapping[str, str],
    database: str = "canbao",
    now: datetime,
) -> list[str]:
    """Make Postgres and Kafka what contracts and tables ask for; what was noteworthy, one line each.

    secrets: password by principal (contracts.topics.PRINCIPALS; `<service>_maintenance` optional).
    kafka_admin: "host:port", or "SASL_PLAINTEXT://user:password@host:port". now: system clock, for the
    partitions' months.
    """
    with ThreadPoolExecutor(max_workers=1) as beside:
        kafka = beside.submit(provision_kafka, kafka_admin, secrets)
        asyncio.run(provision_postgres(pg_admin_dsn, secrets, database=database, now=now))
        return kafka.result()


async def provision_postgres(
    dsn: str, secrets: Mapping[str, str], *, database: str, now: datetime, services: Iterable[str] = SCHEMAS
) -> None:
    """Roles, database, schemas, migrations, partitions and grants, as the administrator of `dsn`."""
    services = list(services)
    conn = await asyncpg.connect(dsn, ssl="disable")
    try:
        await roles.make_roles(conn, services, secrets)
        if not await conn.fetchval("select true from pg_database where datname = $1", database):
            await conn.execute(f"create database {database}")
    finally:
        await conn.close()
    conn = await asyncpg.connect(dsn, database=database, ssl="disable")
    engine = administrator(dsn, database)
    try:
        await roles.close_database(conn, database, services)
        for service in services:
            await upgrade(service, engine)
            await make_partitions(conn, service, now=now)
        await roles.grant(conn, services)
    finally:
        await engine.dispose()
        await conn.close()


def provision_kafka(address: str, secrets: Mapping[str, str]) -> list[str]:
    """Users, topics and ACLs, as the administrator of `address`. Topics whose partition count is wrong
    are reported, not touched."""
    broker = Broker(address)
    said = []
    if broker.has_authorizer():
        broker.make_users(secrets)
    else:
        said.append(
            "Kafka has no authorizer: users and ACLs are skipped, anybody may read and write every topic"
        )
    plan = broker.plan()
    broker.apply(plan)
    return said + [line for line in plan.lines() if line.startswith("!")]
