"""Which topics exist, how long they keep, who writes and who reads them: retention and ACLs come from here.
"""

from msgspec import Struct

from contracts import billing, enrollment, notify, operations, payment
from contracts.partners import PARTNERS

# the same everywhere: what concerns one person shares a partition number on every topic
PARTITIONS = 4
SERVICES = ("enrollment", "billing", "payment", "notify")
OPERATED = (*SERVICES, "console")    # who parks and halts, says so, and takes operators' orders
MAX_MESSAGE_BYTES = 262_144


class Topic(Struct, frozen=True, kw_only=True):
    """One topic. owner: the service that publishes it, or that parks what nobody can decode on an inbound
    one.

    writers, readers: principals. A service reads under the consumer groups `<service>-<lane>`.
    """

    name: str
    owner: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    retention_days: int
    compacted: bool = False
    inbound: bool = False

    @property
    def config(self) -> dict[str, str]:
        """The topic's settings on the broker. Inbound records carry the broker's own time: a signature's age
        is judged by it.
        """
        return {
            "cleanup.policy": "compact" if self.compacted else "delete",
            "retention.ms": str(-1 if self.compacted else self.retention_days * 86_400_000),
            "compression.type": "producer",
            "max.message.bytes": str(MAX_MESSAGE_BYTES * 4),
            "message.timestamp.type": "LogAppendTime" if self.inbound else "CreateTime",
        }


_AGENCIES = tuple(p.code for p in PARTNERS.values() if p.kind == "agency")
_WATCHERS = ("console", "auditor")


def _published(
    name: str, owner: str, *readers: str, days: int = 30, compacted: bool = False, agencies: bool = True
) -> Topic:
    return Topic(name=name, owner=owner, writers=(owner,), retention_days=days, compacted=compacted,
                 readers=(*readers, *_WATCHERS, *(_AGENCIES if agencies else ())))


def _inbound(partner_topic: str, partner: str, owner: str, *readers: str) -> Topic:
    # 10 MB records from a partner must reach us to be refused with a reason, not die silently in its
    # client's retries: the broker's own limit stays and the partner's client hears it. What passes the limit
    # we judge.
    return Topic(
        name=partner_topic,
        owner=owner,
        writers=(partner,),
        readers=(owner, *readers, "auditor"),
        retention_days=14,
        inbound=True,
    )


def _all() -> tuple[Topic, ...]:
    topics = [
        _published(enrollment.ENROLLMENTS, "enrollment", "billing", "payment", "notify"),
        _published(enrollment.COVERAGES, "enrollment", "payment", "notify"),
        _published(enrollment.PEOPLE, "enrollment", "payment", "notify", compacted=True, agencies=False),
        _published(billing.BILLS, "billing", "enrollment", "payment", "notify"),
        _published(payment.PAYMENTS, "payment", "billing", "notify"),
        _published(notify.NOTIFICATIONS, "notify"),
        *(_published(operations.OPERATIONS.format(service=s), s, agencies=False) for s in OPERATED),
        _inbound("operators", "operators", *OPERATED),
    ]
    for partner in PARTNERS.values():
        if partner.kind == "channel":
            topics.append(_inbound(partner.topic, partner.code, "enrollment", "billing", "payment"))
        elif partner.kind == "agency":
            topics.append(_inbound(partner.topic, partner.code, "enrollment"))
        writers = OPERATED if partner.kind == "operator" else SERVICES
        topics.append(
            Topic(
                name=partner.replies,
                owner="enrollment",
                writers=writers,
                readers=(partner.code, *_WATCHERS),
                retention_days=7,
            )
        )
    return tuple(topics)


TOPICS: dict[str, Topic] = {topic.name: topic for topic in _all()}
PRINCIPALS = tuple(sorted({*SERVICES, *_WATCHERS, *(p.code for p in PARTNERS.values())}))
