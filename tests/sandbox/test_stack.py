"""Are existing servers used when they are pointed at, and are passwords kept with the data?"""

from pathlib import Path

import asyncpg
import pytest
from confluent_kafka import KafkaError, KafkaException

from sandbox.stack import Servers, Stack
from services.chassis.topics import Broker


@pytest.fixture
def pointed_at(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The run's stack, named as somebody else's servers."""
    monkeypatch.setenv("CANBAO_KAFKA", stack.kafka_admin)
    monkeypatch.setenv("CANBAO_DATABASE_URL", stack.pg_admin_dsn)
    return stack


def test_nothing_is_started_where_servers_are_named(pointed_at: Stack, tmp_path: Path) -> None:
    servers = Servers(tmp_path)
    found = servers.start()

    assert servers.pids() == {}
    assert (found.kafka_admin, found.pg_admin_dsn) == (pointed_at.kafka_admin, pointed_at.pg_admin_dsn)
    assert (found.pg_host, found.pg_port) == (pointed_at.pg_host, pointed_at.pg_port)


def test_a_broker_named_without_a_login_has_none_for_the_services(pointed_at: Stack, tmp_path: Path) -> None:
    kafka = Servers(tmp_path).start().kafka("billing")

    assert (kafka.bootstrap, kafka.security, kafka.user) == (pointed_at.kafka_admin, "PLAINTEXT", "")


def test_a_broker_named_with_a_login_gives_each_service_its_own(
    monkeypatch: pytest.MonkeyPatch, pointed_at: Stack, tmp_path: Path
) -> None:
    monkeypatch.setenv("CANBAO_KAFKA", "SASL_PLAINTEXT://root:secret@broker.example:9092")
    kafka = Servers(tmp_path).start().kafka("billing")

    assert (kafka.bootstrap, kafka.security, kafka.user) == (
        "broker.example:9092",
        "SASL_PLAINTEXT",
        "billing",
    )
    assert kafka.password != "secret"


def test_an_administrator_who_names_a_login_comes_in_with_it(stack: Stack) -> None:
    admin = f"SASL_PLAINTEXT://billing:{stack.secrets['billing']}@{stack.kafka_bootstrap}"

    with pytest.raises(KafkaException) as refused:
        Broker(admin).plan()

    assert refused.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED, (
        "it is in, and no administrator"
    )


def test_passwords_live_as_long_as_the_folder_and_are_read_by_its_owner_only(
    pointed_at: Stack, tmp_path: Path
) -> None:
    first, again = Servers(tmp_path).start(), Servers(tmp_path).start()

    assert first.secrets == again.secrets == Stack.recall(tmp_path).secrets
    for name in ("secrets.json", "stack.toml"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("role", ["billing", "auditor", "billing_maintenance"])
async def test_every_role_comes_in_with_its_own_password(stack: Stack, role: str) -> None:
    conn = await asyncpg.connect(stack.database_url(role), ssl="disable")

    assert await conn.fetchval("select current_user") == role

    await conn.close()
