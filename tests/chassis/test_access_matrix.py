"""Who may do what, on the real servers: every principal × topic × operation, every role × table × verb."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicCollection
from confluent_kafka.admin import AdminClient

from contracts.partners import PARTNERS
from contracts.topics import PRINCIPALS, SERVICES, TOPICS
from sandbox.stack import Stack
from services.chassis.migrate import metadata_of
from services.chassis.provision import SCHEMAS
from tests.ground import Database

# Kafka. The broker's own authorizer is asked for every cell; then some cells of each kind are tried for real.


def client(stack: Stack, principal: str, **more: Any) -> dict[str, Any]:
    return {
        "bootstrap.servers": stack.kafka_bootstrap,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": principal,
        "sasl.password": stack.secrets[principal],
        "log_level": 0,
    } | more


def decisions(stack: Stack, principal: str) -> dict[tuple[str, str], frozenset[str]]:
    """(principal, topic) -> what the broker lets it do there; nothing for a topic that it may not even
    see."""
    admin = AdminClient(client(stack, principal))
    found = {}
    for name, future in admin.describe_topics(
        TopicCollection(list(TOPICS)), include_authorized_operations=True
    ).items():
        try:
            found[principal, name] = frozenset(
                operation.name.lower() for operation in future.result().authorized_operations
            )
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise
            found[principal, name] = frozenset()
    return found


def test_every_principal_may_do_to_every_topic_what_contracts_say_and_nothing_else(stack: Stack) -> None:
    expected = {}
    for principal, (name, topic) in product(PRINCIPALS, TOPICS.items()):
        may = {"read"} if principal in topic.readers else set()
        may |= {"write"} if principal in topic.writers else set()
        expected[principal, name] = frozenset(may | {"describe"} if may else may)
    found: dict[tuple[str, str], frozenset[str]] = {}
    with ThreadPoolExecutor(4) as pool:
        for cells in pool.map(lambda principal: decisions(stack, principal), PRINCIPALS):
            found |= cells
    assert len(found) == len(PRINCIPALS) * len(TOPICS)
    assert {cell: may for cell, may in found.items() if may != expected[cell]} == {}


def test_a_partner_writes_its_own_topic_only_and_reads_its_own_answers() -> None:
    for code, partner in PARTNERS.items():
        assert [name for name, topic in TOPICS.items() if code in topic.writers] == [partner.topic]
        answers = [
            name for name, topic in TOPICS.items() if code in topic.readers and name.endswith(".replies")
        ]
        assert answers == [partner.replies]
        published = {name for name, topic in TOPICS.items() if code in topic.readers} - {partner.replies}
        assert not published or partner.kind == "agency"


def test_a_service_publishes_on_its_own_topics_and_nobody_else_does() -> None:
    for name, topic in TOPICS.items():
        if name.split(".")[0] in SERVICES:
            assert topic.writers == (name.split(".")[0],)
    assert not any("auditor" in topic.writers for topic in TOPICS.values())
    said_by_console = {name for name, topic in TOPICS.items() if "console" in topic.writers}
    assert said_by_console == {"console.operations", "operators.replies"}


def test_nobody_but_payment_and_notify_reads_sealed_people() -> None:
    partners = set(PARTNERS)
    assert partners.isdisjoint(TOPICS["enrollment.people"].readers)
    assert not any(partners & set(TOPICS[f"{service}.operations"].readers) for service in SERVICES)


@pytest.mark.parametrize(
    ("principal", "topic", "allowed"),
    [
        ("wechat", "channels.wechat", True),
        ("wechat", "channels.alipay", False),
        ("wechat", "channels.wechat.replies", False),
        ("wechat", "operators", False),
        ("990100", "agencies.990100", True),
        ("990100", "enrollment.enrollments", False),
        ("operators", "operators", True),
        ("operators", "channels.bank", False),
        ("billing", "billing.bills", True),
        ("billing", "channels.bank.replies", True),
        ("billing", "payment.payments", False),
        ("billing", "channels.bank", False),
        ("console", "notify.notifications", False),
        ("auditor", "operators", False),
    ],
)
def test_writing_is_really_taken_or_really_refused(
    stack: Stack, principal: str, topic: str, allowed: bool
) -> None:
    heard: list[KafkaError | None] = []
    writes = any(
        principal in topic.writers for topic in TOPICS.values()
    )  # others may not even draw a producer id
    producer = Producer(
        client(stack, principal, **{"enable.idempotence": writes, "message.timeout.ms": 10_000})
    )
    producer.produce(
        topic, b"garbage of the access test", on_delivery=lambda error, _message: heard.append(error)
    )
    producer.flush(10)
    assert len(heard) == 1
    if allowed:
        assert heard[0] is None
    else:
        assert heard[0] is not None
        assert heard[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


@pytest.mark.parametrize(
    ("principal", "topic", "group", "refusal"),
    [
        ("wechat", "channels.wechat.replies", "wechat-app", None),
        ("wechat", "channels.bank.replies", "wechat-app", KafkaError.TOPIC_AUTHORIZATION_FAILED),
        ("wechat", "enrollment.people", "wechat-app", KafkaError.TOPIC_AUTHORIZATION_FAILED),
        ("wechat", "channels.wechat.replies", "billing-money", KafkaError.GROUP_AUTHORIZATION_FAILED),
        ("990100", "billing.bills", "990100-office", None),
        ("990100", "enrollment.people", "990100-office", KafkaError.TOPIC_AUTHORIZATION_FAILED),
        ("notify", "enrollment.people", "notify-bulk", None),
        ("notify", "channels.wechat", "notify-bulk", KafkaError.TOPIC_AUTHORIZATION_FAILED),
        ("billing", "billing.operations", "billing-bulk", KafkaError.TOPIC_AUTHORIZATION_FAILED),
        ("billing", "payment.payments", "enrollment-money", KafkaError.GROUP_AUTHORIZATION_FAILED),
        ("auditor", "operators", "auditor-1", None),
    ],
)
def test_reading_is_really_answered_or_really_refused(
    stack: Stack, principal: str, topic: str, group: str, refusal: int | None
) -> None:
    consumer = Consumer(
        client(
            stack,
            principal,
            **{"group.id": group, "auto.offset.reset": "earliest", "enable.partition.eof": True},
        )
    )
    try:
        consumer.subscribe([topic])
        heard: Message | None = consumer.poll(20)
        assert heard is not None
        answer = heard.error()
        code = None if answer is None or answer.code() == KafkaError._PARTITION_EOF else answer.code()
        assert code == refusal
    finally:
        consumer.close()


def test_a_wrong_password_and_an_unknown_user_do_not_get_in(stack: Stack) -> None:
    for user, password in (("billing", "guessed"), ("mallory", "guessed")):
        heard: list[KafkaError] = []
        login = client(stack, "billing") | {
            "sasl.username": user,
            "sasl.password": password,
            "error_cb": heard.append,
        }
        admin = AdminClient(login)
        with pytest.raises(KafkaException):
            admin.list_topics(timeout=1)
        admin.poll(1)
        assert KafkaError._AUTHENTICATION in {error.code() for error in heard}


# Postgres. Every cell is tried by a real statement that touches no row.

VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
ROLES = (*SCHEMAS, *(f"{service}_maintenance" for service in SCHEMAS), "auditor")
DENIED = "42501"
# Written down a second time, on purpose: what a service may do to the engine's tables in its schema.
ENGINE = {
    "inbox": "SELECT INSERT",
    "outbox": "SELECT INSERT",
    "unsent": "SELECT INSERT UPDATE DELETE",
    "request": "SELECT INSERT UPDATE",
    "parked": "SELECT INSERT UPDATE DELETE",
    "parked_ref": "SELECT INSERT UPDATE DELETE",
    "job": "SELECT INSERT DELETE",
    "call": "SELECT INSERT UPDATE DELETE",
    "progress": "SELECT INSERT UPDATE DELETE",
    "halt": "SELECT INSERT UPDATE DELETE",
    "clock": "SELECT UPDATE",
    "revision": "SELECT",
}
UNSEEN = {
    ("parked", "key"),
    ("parked", "headers"),
    ("parked", "value"),
    ("job", "payload"),
    ("call", "payload"),
}


def may(role: str, schema: str, table: str, verb: str) -> bool:
    """What the architecture says (§3, Roles)."""
    if table.startswith(("inbox_", "outbox_")) or role.endswith("_maintenance"):
        return False  # a month is reached through its parent only
    if role == "auditor":
        return verb == "SELECT"
    if role != schema:
        return False
    if table in ENGINE:
        return verb in ENGINE[table].split()
    info = metadata_of(schema).tables[f"{schema}.{table}"].info
    if table in ("ledger", "audit") or info.get("append_only"):
        return verb in ("SELECT", "INSERT")
    return verb in ("SELECT", "INSERT", "UPDATE") or (verb == "DELETE" and bool(info.get("deletes")))


def statement(verb: str, table: str, column: str) -> str:
    """SQL that needs the right and touches no row. The names come from the catalog."""
    return {
        "SELECT": f"select 1 from {table} limit 0",
        "INSERT": f'insert into {table} ("{column}") select null where false',
        "UPDATE": f'update {table} set "{column}" = null where false',
        "DELETE": f"delete from {table} where false",
        "TRUNCATE": f"truncate {table}",
    }[verb]


async def is_denied(conn: asyncpg.Connection, sql: str) -> bool:
    try:
        await conn.execute(sql)
    except asyncpg.PostgresError as error:
        if error.sqlstate != DENIED:
            raise
        return True
    return False


async def columns_of(database: Database) -> dict[tuple[str, str], list[str]]:
    """(schema, table) -> its columns, those that a statement may name first."""
    async with database.connect() as conn:
        rows = await conn.fetch(
            "select table_schema, table_name, column_name from information_schema.columns"
            " where table_schema = any($1)"
            " order by table_schema, table_name, is_identity = 'YES', ordinal_position",
            list(SCHEMAS),
        )
    found: dict[tuple[str, str], list[str]] = {}
    for schema, table, column in rows:
        found.setdefault((schema, table), []).append(column)
    return found


@pytest.mark.parametrize("role", ROLES)
async def test_every_role_may_do_to_every_table_what_the_architecture_says_and_nothing_else(
    database: Database, role: str
) -> None:
    tables = await columns_of(database)
    assert {schema for schema, _ in tables} == set(SCHEMAS)
    wrong = {}
    async with database.connect(role) as conn:
        await conn.execute("set default_transaction_read_only = off")  # a belt, not the lock
        for (schema, table), columns in tables.items():
            for verb in VERBS:
                allowed = not await is_denied(conn, statement(verb, f"{schema}.{table}", columns[0]))
                if allowed != may(role, schema, table, verb):
                    wrong[schema, table, verb] = allowed
    assert wrong == {}


async def test_the_auditor_sees_every_column_except_bytes_of_messages_and_personal_data(
    database: Database,
) -> None:
    wrong, hidden = {}, 0
    async with database.connect("auditor") as conn:
        for (schema, table), columns in (await columns_of(database)).items():
            if table.startswith(("inbox_", "outbox_")):
                continue
            declared = metadata_of(schema).tables.get(f"{schema}.{table}")
            for column in columns:
                personal = declared is not None and declared.columns[column].info.get("class") == "C2"
                secret = personal or (declared is None and (table, column) in UNSEEN)
                hidden += secret
                if await is_denied(conn, f'select "{column}" from {schema}.{table} limit 0') != secret:
                    wrong[schema, table, column] = secret
            assert await is_denied(conn, f"select t from {schema}.{table} t limit 0") == any(
                (table, column) in UNSEEN
                if declared is None
                else declared.columns[column].info.get("class") == "C2"
                for column in columns
            )
    assert wrong == {}
    assert hidden >= len(UNSEEN) * len(SCHEMAS)


@pytest.mark.parametrize(
    "sql",
    [
        "create table billing.mine (id int)",
        "create schema mine",
        "create temp table mine (id int)",
        "create table public.mine (id int)",
        "alter table billing.inbox add column note text",
        "drop table billing.halt",
        "set role billing_owner",
        "set role payment",
        "alter table billing.inbox disable trigger all",
        "create function billing.f() returns int language sql as 'select 1'",
        "select * from pg_authid",
        "select pg_read_file('/etc/passwd')",
        "copy billing.halt to program 'true'",
        "select lo_create(0)",
        "select nextval('payment.batch_seq')",
        "set session_replication_role = replica",
        "alter role billing superuser",
    ],
)
@pytest.mark.parametrize("role", ["billing", "billing_maintenance", "auditor"])
async def test_no_role_helps_itself_to_more(database: Database, role: str, sql: str) -> None:
    async with database.connect(role) as conn:
        await conn.execute("set default_transaction_read_only = off")
        if (role, sql) == ("billing_maintenance", "set role billing_owner"):
            assert not await is_denied(conn, sql)  # that is what it is for
        else:
            assert await is_denied(conn, sql)


async def test_a_service_draws_batch_ids_and_a_row_lands_in_its_month(database: Database) -> None:
    async with database.connect("billing") as conn:
        batch_id = await conn.fetchval("insert into unsent default values returning batch_id")
        assert (
            await conn.fetchval(
                "insert into outbox"
                " (batch_id, n, part, topic, type, seq, key, ce_id, subject, ce_time, journey)"
                " values ($1, 0, 0, 't', 't', 1, 'k', uuidv7(), 's', now(), null) returning batch_id",
                batch_id,
            )
            == batch_id
        )


async def test_a_role_enters_only_its_database_and_only_with_its_password(stack: Stack) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(stack.database_url("billing", "postgres"), ssl="disable")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(stack.database_url("billing"), password="guessed", ssl="disable")
    for nobody in ("billing_owner", "mallory"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                stack.database_url("billing"), user=nobody, password="guessed", ssl="disable"
            )
    async with asyncio.timeout(5):
        conn = await asyncpg.connect(stack.database_url("billing"), ssl="disable")
        assert await conn.fetchval("show search_path") == "billing"
        await conn.close()
