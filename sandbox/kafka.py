"""How does a real Apache Kafka run here without being installed?

One KRaft node with two doors: SASL for the services, each as itself under ACLs, and a plain one for the
administrator. Whoever reaches the loopback reaches the plain one: a sandbox's rule, never a deployment's.
"""

import base64
import time
import uuid
from pathlib import Path
from typing import cast

from confluent_kafka import Consumer, KafkaException, TopicPartition

from contracts.topics import TOPICS
from sandbox.kafka_kit import Kit
from sandbox.lifeline import Child
from sandbox.ports import LOOPBACK, Ports, listens

_START_SECONDS = 60.0
_TRIES = 3
_DOORS = ("admin", "sasl", "controller")
_JAAS = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=ADMIN://127.0.0.1:{admin},SASL://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=ADMIN://127.0.0.1:{admin},SASL://127.0.0.1:{sasl}
controller.listener.names=CONTROLLER
inter.broker.listener.name=ADMIN
listener.security.protocol.map=ADMIN:PLAINTEXT,SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.sasl.scram-sha-256.sasl.jaas.config={jaas}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=false
log.dirs={data}
message.max.bytes={largest}
auto.create.topics.enable=false
num.partitions=4
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
offsets.topic.segment.bytes=1048576
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=200
group.consumer.heartbeat.interval.ms=500
group.consumer.min.session.timeout.ms=2000
group.consumer.session.timeout.ms=6000
log.segment.bytes=16777216
log.cleaner.dedupe.buffer.size=2097152
log.cleaner.threads=1
log.flush.start.offset.checkpoint.interval.ms=250
num.network.threads=2
num.io.threads=2
background.threads=2
num.recovery.threads.per.data.dir=2
controlled.shutdown.enable=true
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=300
"""


class KafkaTrouble(RuntimeError):
    """The broker does not run; the text says why and ends with its log."""


class Kafka:
    """One embedded node over `folder`, with the jars, the Java and the start-up cache of `kit`.

    stop_seconds: from the request to stop until it is killed. data: its log folder.
    """

    def __init__(self, folder: Path, kit: Kit, ports: Ports, *, stop_seconds: float = 20) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "kafka.log"
        self._ports, self._taken = ports, dict[str, int]()
        self.data, self._settings, self._kit = folder / "kafka", folder / "server.properties", kit
        self._stop_seconds, self._child = stop_seconds, cast(Child | None, None)

    @property
    def admin(self) -> str:
        """host:port of the administrator's door: no login, every right."""
        return f"{LOOPBACK}:{self._taken['admin']}"

    @property
    def bootstrap(self) -> str:
        """host:port of everybody else's door: SASL_PLAINTEXT with SCRAM-SHA-256."""
        return f"{LOOPBACK}:{self._taken['sasl']}"

    @property
    def pid(self) -> int | None:
        """The broker's process id, None when it does not run."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start it and return when it stores and coordinates. KafkaTrouble when it cannot."""
        self.stop()  # what is left of one that was killed
        if not (self.data / "meta.properties").exists():
            self._format()
        text = ""
        for _ in range(_TRIES):
            other = "Address already in use" in text
            self._taken = {door: self._ports.take(f"kafka-{door}", other=other) for door in _DOORS}
            begin = self.log.stat().st_size if self.log.exists() else 0
            if self._launch():
                return
            text = self.log.read_bytes()[begin:].decode(errors="replace")
            if "Failed to acquire lock" not in text and "Address already in use" not in text:
                break
        lines = [line for line in text.splitlines() if not line.startswith("\tat ")]
        raise KafkaTrouble("Kafka did not start:\n" + "\n".join(lines[-10:]))

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._child.poll() if self._child else 0

    def stop(self, how: str = "TERM") -> None:
        """Stop it; everything acknowledged is on disk."""
        if self._child is not None:
            self._child.stop(how)
            self._child = None

    def _format(self) -> None:
        """A node is the formatted tool's first snapshot, which names no cluster, and its own identity."""
        (self.data / "__cluster_metadata-0").mkdir(parents=True, exist_ok=True)
        (self.data / "__cluster_metadata-0" / self._kit.checkpoint.name).write_bytes(
            self._kit.checkpoint.read_bytes()
        )
        (self.data / "meta.properties").write_text(
            f"version=1\ncluster.id={_identity()}\nnode.id=1\ndirectory.id={_identity()}\n"
        )

    def _launch(self) -> bool:
        self._settings.write_text(
            _SETTINGS.format(data=self.data.resolve(), largest=_largest_message(), jaas=_JAAS, **self._taken)
        )
        self._child = Child(
            self._kit.broker_command(self._settings),
            log=self.log,
            env=self._kit.env,
            grace_seconds=self._stop_seconds,
        )
        end = time.monotonic() + _START_SECONDS
        while self._child.poll() is None and time.monotonic() < end:
            if listens(self._taken["admin"]) and _coordinates(self.admin):
                return True
            time.sleep(0.02)    # a port that opens raises no event
        self.stop()
        return False


def _coordinates(bootstrap: str) -> bool:
    """Whether a consumer group has a coordinator: the broker has then made a topic of its own and leads it.

    Asked as a consumer: librdkafka's admin client crashes when it lists a group's offsets of a broker that
    still wakes up.
    """
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "canbao-ready", "log_level": 0})
    try:
        consumer.committed([TopicPartition("canbao-ready", 0)], timeout=10)
    except KafkaException:
        return False
    finally:
        consumer.close()
    return True


def _largest_message() -> int:
    return max(int(topic.config.get("max.message.bytes", "0")) for topic in TOPICS.values())


def _identity() -> str:
    """Kafka's form of a uuid. One that begins with a dash is not taken."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
