"""What does each container of docker-compose.yml read when it starts, and who makes the servers ready for it?

`python -m sandbox.containers prepare` before Kafka and Postgres start: keys, passwords and settings, into one
volume for each container, so that none sees another's; what exists stays. `… provision` once both servers
run; `… months` from then on.
"""

import asyncio
import os
import secrets
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import msgspec
from confluent_kafka import KafkaException

from contracts.topics import SERVICES, TOPICS
from sandbox.keys import make_keys
from sandbox.ports import LOOPBACK, write_private
from sandbox.stack import SASL, Stack, keep_months, keep_passwords, provision_stack, upkeep
from services.chassis.partitions import Upkeep
from services.chassis.settings import Outside, Settings

VOLUMES = Path("/run/canbao")
KEPT = Path("/tmp/kept")  # noqa: S108 -- of the container alone; its health check looks for it
ADMIN = "admin"  # at Kafka; Postgres' image calls its own postgres
_WAIT_SECONDS, _PAUSE_SECONDS = 120.0, 0.5
_ACCOUNTS = {"payment": "wechatpay.json", "notify": "sms.json"}
_OUTSIDE = Outside(
    wechat="http://wechat:9300",
    sms="http://sms:9300",
    smtp="mail:2525",
    callback="http://payment:8100/v1/wechat/notify",
)
# Two doors with a login, for containers and for this machine's published port. The two without one listen
# inside Kafka's own container only.
_KAFKA = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:9094
listeners=INSIDE://0.0.0.0:9092,HOST://0.0.0.0:9095,BROKER://127.0.0.1:9093,CONTROLLER://127.0.0.1:9094
advertised.listeners=INSIDE://kafka:9092,HOST://127.0.0.1:{port},BROKER://127.0.0.1:9093
listener.security.protocol.map=INSIDE:{sasl},HOST:{sasl},BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKER
sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.inside.scram-sha-256.sasl.jaas.config={jaas}
listener.name.host.scram-sha-256.sasl.jaas.config={jaas}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{admin};User:ANONYMOUS
allow.everyone.if.no.acl.found=false
auto.create.topics.enable=false
message.max.bytes={largest}
log.dirs=/var/lib/kafka/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""
_JAAS = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


def prepare(volumes: Path, *, kafka_port: int, postgres_port: int, begins: str) -> None:
    """Write what every container reads. The ports: published on this machine's loopback.

    begins: the business instant (ISO 8601) at which a new sandbox starts; empty: now. ValueError: it is none.
    The folder `vault` keeps what others are made of; copied out of its volume it is a folder for CANBAO_DATA.
    """
    vault = volumes / "vault"
    make_keys(vault / "keys")
    _skew(vault, begins)
    inside = _stack(vault, kafka="kafka:9092", postgres="postgres:5432")
    _stack(vault, kafka=f"{LOOPBACK}:{kafka_port}", postgres=f"{LOOPBACK}:{postgres_port}").remember(vault)
    admin = _kept(vault / "admin", secrets.token_urlsafe(24))
    write_private(volumes / "postgres" / "password", admin.encode())
    write_private(volumes / "kafka" / "admin", f"SCRAM-SHA-256=[name={ADMIN},password={admin}]".encode())
    largest = max(int(topic.config["max.message.bytes"]) for topic in TOPICS.values())
    kafka = _KAFKA.format(port=kafka_port, sasl=SASL, jaas=_JAAS, admin=ADMIN, largest=largest)
    write_private(volumes / "kafka" / "server.properties", kafka.encode())
    _prepare_outside(volumes, inside)
    for name in (*SERVICES, "console"):
        _prepare_service(volumes, name, inside)
    write_private(volumes / "months" / "settings.toml", msgspec.toml.encode(upkeep(inside)))


def provision(volumes: Path) -> None:
    """Make both servers what contracts and tables ask for, once they answer. TimeoutError: they do not."""
    vault = volumes / "vault"
    stack = _stack(vault, kafka="kafka:9092", postgres="postgres:5432")
    end = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            provision_stack(stack, say=print)
            break
        except (KafkaException, OSError, asyncpg.CannotConnectNowError) as error:
            if time.monotonic() > end:
                raise TimeoutError(f"the servers do not answer: {error}") from error
            time.sleep(_PAUSE_SECONDS)  # servers of other containers raise no event
    asyncio.run(_set_clock(stack, _skew(vault, "")))


def _prepare_outside(volumes: Path, stack: Stack) -> None:
    keys = volumes / "vault" / "keys"
    for name, file in (("wechat", "wechatpay-platform.json"), ("sms", "sms-platform.json")):
        write_private(volumes / name / "account.json", (keys / file).read_bytes())
    account = {"account": str(VOLUMES / "account.json"), "listen": "0.0.0.0:9300"}
    for name, settings in {
        "wechat": {**account, "database": stack.database_url("auditor")},
        "sms": account,
        "mail": {"listen": "0.0.0.0:2525", "http": "0.0.0.0:9300"},
    }.items():
        write_private(volumes / name / "settings.toml", msgspec.toml.encode(settings))


def _prepare_service(volumes: Path, name: str, stack: Stack) -> None:
    """Its settings and keys, and nobody else's."""
    settings = Settings(
        service=name,
        database=stack.database_url(name),
        keys=str(VOLUMES / f"{name}.json"),
        door="0.0.0.0:8100",
        kafka=stack.kafka(name),
        sandbox=True,
        outside=_OUTSIDE,
    )
    write_private(volumes / name / "settings.toml", msgspec.toml.encode(settings))
    for file in (f"{name}.json", *([_ACCOUNTS[name]] if name in _ACCOUNTS else [])):
        write_private(volumes / name / file, (volumes / "vault" / "keys" / file).read_bytes())


def _stack(vault: Path, *, kafka: str, postgres: str) -> Stack:
    """The servers as seen from inside or outside (host:port)."""
    admin, (host, _, port) = _kept(vault / "admin", secrets.token_urlsafe(24)), postgres.rpartition(":")
    return Stack(
        kafka_admin=f"{SASL}://{ADMIN}:{admin}@{kafka}",
        kafka_bootstrap=kafka,
        kafka_security=SASL,
        pg_admin_dsn=f"postgresql://postgres:{admin}@{postgres}/postgres",
        pg_host=host,
        pg_port=int(port),
        secrets=keep_passwords(vault / "secrets.json"),
    )


def _skew(vault: Path, begins: str) -> timedelta:
    """Business clock minus system clock, decided once: it may never go back."""
    skew = datetime.fromisoformat(begins) - datetime.now(UTC) if begins else timedelta(0)
    return timedelta(seconds=float(_kept(vault / "skew", str(skew.total_seconds()))))


def _kept(path: Path, new: str) -> str:
    """What the file says; when there is none, it says `new` from now on."""
    if not path.exists():
        write_private(path, new.encode())
    return path.read_text()


async def _set_clock(stack: Stack, skew: timedelta) -> None:
    """Only where nobody has moved it yet."""
    conn = await asyncpg.connect(stack.pg_admin_dsn, database=stack.database, ssl="disable")
    try:
        for service in (*SERVICES, "console"):
            await conn.execute(
                f"update {service}.clock set skew = $1 where skew = interval '0'",  # noqa: S608 - names of ours
                skew,
            )
    finally:
        await conn.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["prepare"]:
        prepare(
            VOLUMES,
            kafka_port=int(os.environ["CANBAO_PORT_KAFKA"]),
            postgres_port=int(os.environ["CANBAO_PORT_POSTGRES"]),
            begins=os.environ.get("CANBAO_BEGINS", ""),
        )
    elif sys.argv[1:] == ["provision"]:
        provision(VOLUMES)
    elif sys.argv[1:] == ["months"]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())    # as first process it would hear none
        settings = (VOLUMES / "settings.toml").read_bytes()
        asyncio.run(keep_months(msgspec.toml.decode(settings, type=Upkeep), print, KEPT.touch))
    else:
        sys.exit("usage: python -m sandbox.containers prepare|provision|months")
