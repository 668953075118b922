"""What does a broker do in the run that teaches Java which classes to keep ready? What services ask of it."""

import subprocess
from pathlib import Path

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from sandbox.kafka import Kafka
from sandbox.kafka_kit import Kit, KitTrouble
from sandbox.ports import Ports

_TOPIC, _USER, _PASSWORD = "rehearsal", "rehearsal", "rehearsal"
_MESSAGES = 50


def format_node(kit: Kit, scratch: Path) -> Path:
    """The snapshot that Kafka's own tool writes for a new node. KitTrouble when it fails."""
    settings = scratch / "format.properties"
    settings.write_text(f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:9093
listeners=ADMIN://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093
controller.listener.names=CONTROLLER
inter.broker.listener.name=ADMIN
listener.security.protocol.map=ADMIN:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={scratch / "formatted"}
""")
    command = kit.command(
        "kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", str(settings)
    )
    done = subprocess.run(command, env=kit.env, capture_output=True, text=True, check=False)
    found = list((scratch / "formatted").glob("__cluster_metadata-0/*.checkpoint"))
    if done.returncode or not found:
        raise KitTrouble(f"Kafka's format tool failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return found[0]


def rehearse(kit: Kit, folder: Path) -> None:
    """Run a node through login, rights, produce and consume; it writes the archive while it stops."""
    kafka = Kafka(folder, kit, Ports(folder), stop_seconds=90)
    kafka.start()
    try:
        _administer(AdminClient({"bootstrap.servers": kafka.admin, "log_level": 0}))
        _use(
            {
                "bootstrap.servers": kafka.bootstrap,
                "log_level": 0,
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "SCRAM-SHA-256",
                "sasl.username": _USER,
                "sasl.password": _PASSWORD,
            }
        )
    finally:
        kafka.stop()
    if kit.archive is None or not kit.archive.exists():
        raise KitTrouble(f"Java wrote no archive:\n{kafka.log.read_text(errors='replace')[-500:]}")


def _use(login: dict[str, str | int]) -> None:
    producer = Producer(login | {"compression.type": "lz4", "enable.idempotence": True})
    for number in range(_MESSAGES):
        producer.produce(_TOPIC, key=str(number), value=b"x" * 400)
    producer.flush(20)
    consumer = Consumer(
        login | {"group.id": "rehearsal-1", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    consumer.subscribe([_TOPIC])
    if len(consumer.consume(_MESSAGES, timeout=20)) == _MESSAGES:
        consumer.commit(asynchronous=False)
    consumer.close()


def _administer(admin: AdminClient) -> None:
    user = UserScramCredentialUpsertion(
        _USER, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096), _PASSWORD.encode()
    )
    acls = [
        AclBinding(kind, name, pattern, f"User:{_USER}", "*", AclOperation.ALL, AclPermissionType.ALLOW)
        for kind, name, pattern in (
            (ResourceType.TOPIC, _TOPIC, ResourcePatternType.LITERAL),
            (ResourceType.GROUP, "rehearsal-", ResourcePatternType.PREFIXED),
            (ResourceType.BROKER, "kafka-cluster", ResourcePatternType.LITERAL),
        )
    ]
    for asked in (
        admin.create_topics([NewTopic(_TOPIC, 4)]),
        admin.alter_user_scram_credentials([user]),
        admin.create_acls(acls),
    ):
        for future in asked.values():
            future.result()
