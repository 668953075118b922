"""Does the embedded Kafka keep what it acknowledged, and nobody out who belongs in or in who belongs out?"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sandbox.kafka import Kafka
from sandbox.kafka_kit import Jar, KitTrouble, prepare, read_lock, verify
from sandbox.ports import Ports
from sandbox.stack import Stack, cache_folder
from tests.waiting import until

TOPIC = "kept"


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    """A broker of its own, to be killed."""
    folder = Path(tempfile.mkdtemp(prefix="canbao-test-"))
    server = Kafka(folder, prepare(cache_folder()), Ports(folder))
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


def test_what_was_acknowledged_outlives_the_death_of_the_broker(kafka: Kafka) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.admin, "log_level": 0})
    admin.create_topics([NewTopic(TOPIC, 1)])[TOPIC].result()
    send(Producer({"bootstrap.servers": kafka.admin, "log_level": 0}), TOPIC)
    bootstrap, pid = kafka.bootstrap, kafka.pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    until(lambda: kafka.poll() is not None, "the broker's death")
    kafka.start()

    assert kafka.bootstrap == bootstrap, "clients look for it where it was"
    consumer = Consumer({"bootstrap.servers": kafka.admin, "group.id": "canbao-test", "log_level": 0})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    found = consumer.poll(20)
    consumer.close()
    assert found is not None
    assert found.value() == b"said"


def test_a_service_enters_as_itself_and_writes_its_own_topic(broker: Stack) -> None:
    send(Producer(login(broker, "billing")), "billing.bills")


@pytest.mark.parametrize("topic", ["payment.payments", "enrollment.people"])
def test_a_service_cannot_write_another_one_s_topic(broker: Stack, topic: str) -> None:
    with pytest.raises(KafkaException) as refused:
        send(Producer(login(broker, "billing")), topic)

    assert refused.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def test_a_wrong_password_opens_nothing(broker: Stack) -> None:
    heard: list[KafkaError] = []
    producer = Producer(
        login(broker, "billing") | {"sasl.password": "wrong", "error_cb": heard.append, "log_level": 0}
    )

    until(lambda: producer.poll(0.05) or heard, "the refusal")

    assert heard[0].code() == KafkaError._AUTHENTICATION


def test_every_jar_is_the_one_that_the_lock_names() -> None:
    for jar in read_lock():
        verify(jar, jar.path(cache_folder() / "jars"))


def test_another_jar_under_a_right_name_is_refused_and_removed(tmp_path: Path) -> None:
    jar = Jar("org.example", "forged", "1.0", "0" * 64)
    path = jar.path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not it")

    with pytest.raises(KitTrouble, match=r"org\.example:forged:1\.0"):
        verify(jar, path)

    assert not path.exists()


def login(stack: Stack, principal: str) -> dict[str, object]:
    """A client's settings as that principal."""
    kafka = stack.kafka(principal)
    return {
        "bootstrap.servers": kafka.bootstrap,
        "security.protocol": kafka.security,
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": kafka.user,
        "sasl.password": kafka.password,
        "log_level": 0,
    }


def send(producer: Producer, topic: str) -> None:
    """One record, acknowledged. KafkaException when it is refused."""
    outcome: list[KafkaError | None] = []

    def told(error: KafkaError | None, _: Message) -> None:
        outcome.append(error)

    producer.produce(topic, b"said", key=b"k", on_delivery=told)
    producer.flush(20)
    assert outcome, "no answer from the broker"
    if outcome[0] is not None:
        raise KafkaException(outcome[0])
