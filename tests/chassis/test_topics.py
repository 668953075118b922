"""Do topics and rights agree with contracts, is a drift seen and mended, and what is left to a person?"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from cli import topics as verb
from contracts.topics import TOPICS, Topic
from sandbox import kafka
from sandbox.kafka_kit import prepare
from sandbox.ports import Ports
from sandbox.stack import Stack, cache_folder
from services.chassis.provision import provision_kafka
from services.chassis.topics import Broker

LETTERS = Topic(
    name="provision-test.letters",
    owner="billing",
    writers=("billing",),
    readers=("payment",),
    retention_days=3,
)


@pytest.fixture
def letters(stack: Stack) -> Iterator[Broker]:
    """A broker as contracts with one more topic would see it; without that topic afterwards."""
    yield (broker := Broker(stack.kafka_admin, TOPICS | {LETTERS.name: LETTERS}))
    if LETTERS.name in broker.admin.list_topics(timeout=10).topics:
        broker.admin.delete_topics([LETTERS.name])[LETTERS.name].result()
        end = time.monotonic() + 30
        while LETTERS.name in broker.admin.list_topics(timeout=10).topics:
            assert time.monotonic() < end, "the topic is still there"
    plain = Broker(stack.kafka_admin)
    plain.apply(plain.plan())


def test_a_missing_topic_is_planned_with_its_rights_and_made(letters: Broker) -> None:
    assert letters.plan().lines() == [
        "+ topic      provision-test.letters  4 partitions, cleanup.policy=delete, retention.ms=259200000,"
        " compression.type=producer, max.message.bytes=1048576, message.timestamp.type=CreateTime",
        "+ acl        billing allow describe topic provision-test.letters",
        "+ acl        billing allow write topic provision-test.letters",
        "+ acl        payment allow describe topic provision-test.letters",
        "+ acl        payment allow read topic provision-test.letters",
    ]
    letters.apply(letters.plan())
    assert not letters.plan()


def test_a_changed_setting_is_put_right_and_a_foreign_one_removed(letters: Broker) -> None:
    letters.apply(letters.plan())
    drift = [
        ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
        for key, value in (("retention.ms", "1000"), ("segment.bytes", "1048576"))
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, LETTERS.name, incremental_configs=drift)
    letters.admin.incremental_alter_configs([resource])[resource].result()

    assert letters.plan().lines() == [
        "~ config     provision-test.letters retention.ms  1000 -> 259200000",
        "- config     provision-test.letters segment.bytes  1048576",
    ]
    letters.apply(letters.plan())
    assert not letters.plan()


def test_partitions_are_added_only_while_nobody_has_written(letters: Broker) -> None:
    letters.admin.create_topics([NewTopic(LETTERS.name, 2, config=LETTERS.config)])[LETTERS.name].result()
    letters.apply(letters.plan())
    assert len(letters.admin.list_topics(timeout=10).topics[LETTERS.name].partitions) == 4

    delivered: list[KafkaError | None] = []
    producer = Producer({"bootstrap.servers": letters.admin_address, "log_level": 0})
    producer.produce(LETTERS.name, b"x", on_delivery=lambda error, _: delivered.append(error))
    producer.flush(30)
    assert delivered == [None]
    grown = Broker(letters.admin_address, letters.topics, partitions=6)
    line = next(line for line in grown.plan().lines() if LETTERS.name in line)
    assert line == (
        "! partitions provision-test.letters  4 -> 6   (it holds records and keys would move:"
        " stop the writers and let every reader finish first)"
    )
    shrunk = Broker(letters.admin_address, {LETTERS.name: LETTERS}, partitions=2)
    assert "Kafka cannot take partitions away" in shrunk.plan().lines()[0]


def test_a_right_that_contracts_do_not_give_is_shown_and_taken_back(stack: Stack) -> None:
    broker = Broker(stack.kafka_admin)
    spy = AclBinding(
        ResourceType.TOPIC,
        "enrollment.people",
        ResourcePatternType.LITERAL,
        "User:wechat",
        "*",
        AclOperation.READ,
        AclPermissionType.ALLOW,
    )
    stranger = AclBinding(
        ResourceType.TOPIC,
        "enrollment.people",
        ResourcePatternType.LITERAL,
        "User:mallory",
        "10.0.0.1",
        AclOperation.READ,
        AclPermissionType.ALLOW,
    )
    for future in broker.admin.create_acls([spy, stranger]).values():
        future.result()
    expected = [
        "- acl        mallory allow read topic enrollment.people from 10.0.0.1"
        "   (extra: contracts do not grant it)",
        "- acl        wechat allow read topic enrollment.people   (extra: contracts do not grant it)",
    ]
    _until_equal(lambda: list(broker.plan().lines()), list(expected))
    broker.apply(broker.plan())
    assert not broker.plan()


def test_somebody_elses_wide_right_is_shown_but_left_to_a_person(stack: Stack) -> None:
    broker = Broker(stack.kafka_admin)
    wide = AclBinding(
        ResourceType.TOPIC,
        "billing",
        ResourcePatternType.PREFIXED,
        "User:backup",
        "*",
        AclOperation.READ,
        AclPermissionType.ALLOW,
    )
    broker.admin.create_acls([wide])[wide].result()
    line = "! acl        backup allow read topic billing*   (covers our topics, contracts do not grant it)"
    try:
        _until_equal(lambda: list(broker.plan().lines()), [line])
        broker.apply(broker.plan())
        assert broker.plan().lines() == [line]
    finally:
        mine = AclBindingFilter(
            ResourceType.TOPIC,
            "billing",
            ResourcePatternType.PREFIXED,
            "User:backup",
            "*",
            AclOperation.READ,
            AclPermissionType.ALLOW,
        )
        broker.admin.delete_acls([mine])[mine].result()
        _until_equal(lambda: list(broker.plan().lines()), [])


def _until_equal(look: Callable[[], list[object]], expected: list[object]) -> None:
    end = time.monotonic() + 10
    while (found := look()) != expected:
        assert time.monotonic() < end, found


def test_a_broker_without_an_authorizer_gets_topics_and_one_clear_line(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out = ("authorizer", "super.users")
    settings = [line for line in kafka._SETTINGS.splitlines() if not line.startswith(left_out)]
    monkeypatch.setattr(kafka, "_SETTINGS", "\n".join(settings))
    open_to_all = kafka.Kafka(tmp_path, prepare(cache_folder()), Ports(tmp_path))
    open_to_all.start()
    try:
        said = provision_kafka(open_to_all.admin, stack.secrets)
        plan = Broker(open_to_all.admin).plan()
        said_again = provision_kafka(open_to_all.admin, stack.secrets)
    finally:
        open_to_all.stop("KILL")
    assert (
        said
        == said_again
        == ["Kafka has no authorizer: users and ACLs are skipped, anybody may read and write every topic"]
    )
    assert not plan
    assert not plan.authorizer


# The verb


def say(stack: Stack, *words: str) -> int:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([*words, "--kafka", stack.kafka_admin]))


def test_plan_says_what_differs_by_its_exit_code_and_apply_mends_it(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say(stack, "plan") == 0
    assert capsys.readouterr().out == f"{len(TOPICS)} topics and their rights are as contracts ask\n"

    broker = Broker(stack.kafka_admin)
    broker.admin.delete_topics(["billing.operations"])["billing.operations"].result()
    _until_equal(lambda: [say(stack, "plan")], [1])
    assert "+ topic      billing.operations  4 partitions" in capsys.readouterr().out

    assert say(stack, "apply") == 0
    assert capsys.readouterr().out.endswith("applied\n")
    assert say(stack, "plan", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "equal": True,
        "authorizer": True,
        "applied": False,
        "differences": [],
        "left": [],
    }


def test_a_broker_that_does_not_answer_is_one_line_and_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    assert verb.run(parser.parse_args(["plan", "--kafka", "127.0.0.1:1"])) == 2
    assert capsys.readouterr().err.startswith(
        "canbao topics: the broker at 127.0.0.1:1 refused or did not answer"
    )
