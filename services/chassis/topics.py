"""Do the broker's topics, settings and ACLs agree with contracts/topics.py, and what would make them agree?

Only what is ours is compared: our topics, groups that begin with a principal's name, and the rights of our
principals; somebody else's wide rule over our topics is shown. Used by the provisioning and by `canbao
topics plan|apply`.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from msgspec import Struct
from typing_extensions import override

from contracts.topics import PARTITIONS, PRINCIPALS, TOPICS, Topic

_WAIT_SECONDS = 60.0
# of a topic just made; of a partition the library does not call them retriable
_LEADERLESS = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
_ANSWER_SECONDS = 5.0  # from a broker that is there


class Acl(NamedTuple):
    """One rule of the broker's authorizer, in the words of the Kafka admin API (resource: topic, group,
    broker = the cluster; pattern: literal or prefixed)."""

    principal: str
    operation: str
    resource: str
    name: str
    pattern: str = "literal"
    effect: str = "allow"
    host: str = "*"

    def covers(self, topic: str) -> bool:
        """Whether it speaks about this topic."""
        if self.resource != "topic":
            return False
        return topic.startswith(self.name) if self.pattern == "prefixed" else self.name in (topic, "*")

    @override
    def __str__(self) -> str:
        name = self.name + "*" * (self.pattern == "prefixed")
        host = "" if self.host == "*" else f" from {self.host}"
        return f"{self.principal} {self.effect} {self.operation} {self.resource} {name}{host}"


class Step(Struct, frozen=True, kw_only=True):
    """One difference. sign: + missing, - too much, ~ differs, ! a person must decide. what: topic,
    partitions, config or acl; wanted and found as texts (empty: absent)."""

    sign: str
    what: str
    name: str
    wanted: str = ""
    found: str = ""
    note: str = ""

    @override
    def __str__(self) -> str:
        change = f"{self.found} -> {self.wanted}" if self.found and self.wanted else self.found or self.wanted
        return f"{self.sign} {self.what:<10} {self.name}  {change}".rstrip() + (
            f"   ({self.note})" if self.note else ""
        )


class Plan(Struct, frozen=True, kw_only=True):
    """All differences between contracts and broker. authorizer: whether the broker has ACLs at all."""

    steps: tuple[Step, ...]
    missing: tuple[Acl, ...]
    extra: tuple[Acl, ...]
    authorizer: bool

    def __bool__(self) -> bool:
        return bool(self.steps or self.missing or self.extra)

    def lines(self) -> list[str]:
        """What a person reads, one difference a line."""
        return [
            *map(str, self.steps),
            *(f"+ acl        {acl}" for acl in self.missing),
            *(f"- acl        {acl}   (extra: contracts do not grant it)" for acl in self.extra),
        ]


def wanted_acls(topics: Iterable[Topic]) -> frozenset[Acl]:
    """What each principal may do, from the topics' writers and readers; everything else is denied."""
    acls = set()
    for topic in topics:
        for principal in topic.writers:
            acls |= {Acl(principal, operation, "topic", topic.name) for operation in ("write", "describe")}
            acls.add(Acl(principal, "idempotent_write", "broker", "kafka-cluster"))
        for principal in topic.readers:
            acls |= {Acl(principal, operation, "topic", topic.name) for operation in ("read", "describe")}
            acls.add(Acl(principal, "read", "group", f"{principal}-", "prefixed"))
    return frozenset(acls)


class Broker:
    """A Kafka cluster seen by its administrator. address: "host:port[,…]", or
    "SASL_PLAINTEXT://user:password@host:port" (SCRAM-SHA-256). Every call is one request for all topics,
    and raises KafkaException when the broker refuses."""

    def __init__(
        self, address: str, topics: Mapping[str, Topic] = TOPICS, partitions: int = PARTITIONS
    ) -> None:
        self.topics, self.partitions, self.admin_address = dict(topics), partitions, address
        settings: dict[str, Any] = {
            "bootstrap.servers": address,
            "socket.timeout.ms": 10_000,
            "log_level": 0,
            "client.id": "canbao-admin",
        }
        if "://" in address:
            scheme, _, rest = address.partition("://")
            parts = urlsplit(f"//{rest}")   # a scheme with an underscore is not seen as one
            settings |= {
                "bootstrap.servers": parts.netloc.rpartition("@")[2],
                "security.protocol": scheme.upper(),
                "sasl.mechanism": "SCRAM-SHA-256",
                "sasl.username": unquote(parts.username or ""),
                "sasl.password": unquote(parts.password or ""),
            }
        self.admin: Any = AdminClient(settings)  # its own types say less than it does

    def has_authorizer(self) -> bool:
        """Whether ACLs mean anything here.

        Asked by deleting the ACL of nobody: describing answers "none" on a broker without an authorizer as
        well.
        """
        nobody = AclBindingFilter(
            ResourceType.TOPIC,
            "canbao-nothing",
            ResourcePatternType.LITERAL,
            "User:canbao-nobody",
            "*",
            AclOperation.READ,
            AclPermissionType.ALLOW,
        )
        try:
            _all(self.admin.delete_acls([nobody]))
        except KafkaException as error:
            if error.args[0].code() == KafkaError.SECURITY_DISABLED:
                return False
            raise
        return True

    def plan(self) -> Plan:
        """What differs. A pure look: changes nothing."""
        present = self.admin.list_topics(timeout=_ANSWER_SECONDS).topics
        known = [name for name in self.topics if name in present]
        configs = self._configs(known)
        steps: list[Step] = []
        for name, topic in self.topics.items():
            if name not in present:
                keep = ", ".join(f"{key}={value}" for key, value in topic.config.items())
                steps.append(
                    Step(sign="+", what="topic", name=name, wanted=f"{self.partitions} partitions, {keep}")
                )
                continue
            count = len(present[name].partitions)
            if count != self.partitions:
                steps.append(self._resize(name, count))
            steps += _config_steps(topic, configs[name])
        if not self.has_authorizer():
            return Plan(steps=tuple(steps), missing=(), extra=(), authorizer=False)
        wanted, found = wanted_acls(self.topics.values()), self._present_acls()
        extra = sorted(acl for acl in found - wanted if self._is_ours(acl))
        return Plan(
            steps=(*steps, *self._foreign(found)),
            missing=tuple(sorted(wanted - found)),
            extra=tuple(extra),
            authorizer=True,
        )

    def apply(self, plan: Plan) -> None:
        """Carry a plan out, except what a person must decide (!); returns when the broker answers with
        the new state."""
        new = [
            NewTopic(step.name, self.partitions, config=self.topics[step.name].config)
            for step in plan.steps
            if (step.sign, step.what) == ("+", "topic")
        ]
        _all(self.admin.create_topics(new) if new else {})
        grow = [
            NewPartitions(step.name, self.partitions)
            for step in plan.steps
            if (step.sign, step.what) == ("~", "partitions")
        ]
        _all(self.admin.create_partitions(grow) if grow else {})
        entries: dict[str, list[ConfigEntry]] = {}
        for step in plan.steps:
            if step.what == "config":
                topic, _, key = step.name.rpartition(" ")
                how = AlterConfigOpType.DELETE if step.sign == "-" else AlterConfigOpType.SET
                entries.setdefault(topic, []).append(
                    ConfigEntry(key, step.wanted or None, incremental_operation=how)
                )
        changes = [
            ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=change)
            for topic, change in entries.items()
        ]
        _all(self.admin.incremental_alter_configs(changes) if changes else {})
        _all(self.admin.create_acls([_binding(acl) for acl in plan.missing]) if plan.missing else {})
        _all(
            self.admin.delete_acls([_binding(acl, AclBindingFilter) for acl in plan.extra])
            if plan.extra
            else {}
        )
        if plan:
            _until(
                lambda: all(line.startswith("!") for line in self.plan().lines()),
                "the topics to appear as applied",
            )

    def make_users(self, secrets: Mapping[str, str]) -> None:
        """Set the SCRAM-SHA-256 password of every principal; returns when the broker knows them all."""
        strength = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        users = [UserScramCredentialUpsertion(name, strength, secrets[name].encode()) for name in PRINCIPALS]
        _all(self.admin.alter_user_scram_credentials(users))
        _until(
            lambda: set(PRINCIPALS) <= set(self.admin.describe_user_scram_credentials().result()),
            "the users to appear",
        )

    def _resize(self, name: str, count: int) -> Step:
        """A new partition moves keys, and what concerns one person must share a partition number
        everywhere."""
        if count > self.partitions:
            return Step(
                sign="!",
                what="partitions",
                name=name,
                wanted=str(self.partitions),
                found=str(count),
                note="Kafka cannot take partitions away: drain it, delete it, apply again",
            )
        if self._is_empty(name, count):
            return Step(sign="~", what="partitions", name=name, wanted=str(self.partitions), found=str(count))
        return Step(
            sign="!",
            what="partitions",
            name=name,
            wanted=str(self.partitions),
            found=str(count),
            note="it holds records and keys would move: stop the writers and let every reader finish first",
        )

    def _is_empty(self, name: str, count: int) -> bool:
        parts = [TopicPartition(name, number) for number in range(count)]
        begin, end = (self._offsets(parts, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest()))
        return all(begin[part].offset == end[part].offset for part in parts)

    def _offsets(self, parts: list[TopicPartition], spec: OffsetSpec) -> dict[Any, Any]:
        """Where partitions begin or end; those of a topic just made may have no leader yet."""
        found: dict[Any, Any] = {}

        def answered() -> bool:
            try:
                found.update(_all(self.admin.list_offsets(dict.fromkeys(parts, spec))))
            except KafkaException as error:
                if error.args[0].code() not in _LEADERLESS and not error.args[0].retriable():
                    raise
                return False
            return True

        _until(answered, "the partitions to have leaders")
        return found

    def _configs(self, names: list[str]) -> dict[str, dict[str, ConfigEntry]]:
        if not names:
            return {}
        asked = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
        return {resource.name: found for resource, found in _all(self.admin.describe_configs(asked)).items()}

    def _present_acls(self) -> frozenset[Acl]:
        anything: Any = None  # a filter takes it, its types don't say so
        every = AclBindingFilter(
            ResourceType.ANY,
            anything,
            ResourcePatternType.ANY,
            anything,
            anything,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        return frozenset(_acl(binding) for binding in self.admin.describe_acls(every).result())

    def _is_ours(self, acl: Acl) -> bool:
        """Whether contracts alone decide about it: our principals, our topics, groups of our principals."""
        group = acl.resource == "group" and acl.name.partition("-")[0] in PRINCIPALS
        return acl.principal in PRINCIPALS or group or (acl.resource == "topic" and acl.name in self.topics)

    def _foreign(self, found: Iterable[Acl]) -> list[Step]:
        """Somebody else's wide rule that covers a topic of ours: shown, not removed, since it may serve
        others too."""
        wide = [acl for acl in sorted(found) if not self._is_ours(acl) and any(map(acl.covers, self.topics))]
        return [
            Step(sign="!", what="acl", name=str(acl), note="covers our topics, contracts do not grant it")
            for acl in wide
        ]


def _config_steps(topic: Topic, found: Mapping[str, Any]) -> list[Step]:
    steps = [
        Step(sign="~", what="config", name=f"{topic.name} {key}", wanted=value, found=found[key].value)
        for key, value in topic.config.items()
        if found[key].value != value
    ]
    own = (entry for entry in found.values() if entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value)
    return steps + [
        Step(sign="-", what="config", name=f"{topic.name} {entry.name}", found=entry.value)
        for entry in own
        if entry.name not in topic.config
    ]


def _acl(binding: Any) -> Acl:
    return Acl(
        binding.principal.removeprefix("User:"),
        binding.operation.name.lower(),
        binding.restype.name.lower(),
        binding.name,
        binding.resource_pattern_type.name.lower(),
        binding.permission_type.name.lower(),
        binding.host,
    )


def _binding(acl: Acl, kind: type[AclBinding] | type[AclBindingFilter] = AclBinding) -> Any:
    return kind(
        ResourceType[acl.resource.upper()],
        acl.name,
        ResourcePatternType[acl.pattern.upper()],
        f"User:{acl.principal}",
        acl.host,
        AclOperation[acl.operation.upper()],
        AclPermissionType[acl.effect.upper()],
    )


def _all(futures: Mapping[Any, Any]) -> dict[Any, Any]:
    """Wait for every future of an admin call; the first error is raised."""
    return {key: future.result() for key, future in futures.items()}


def _until(holds: Callable[[], bool], what: str) -> None:
    """The broker applies its metadata a moment after it has answered."""
    end = time.monotonic() + _WAIT_SECONDS
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {_WAIT_SECONDS:.0f} s for {what}")
        time.sleep(0.02)
