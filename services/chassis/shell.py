"""What of FastStream does a lane stand in? A batch subscriber that acknowledges nothing and reads nothing by
itself.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka.abc import ConsumerRebalanceListener
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.kafka.message import KafkaAckableMessage

from services.chassis.lenient import Record
from services.chassis.polling import Fetching, patiently

Records = tuple[Record, ...]


def subscriber(
    broker: KafkaBroker, topics: list[str], handle: Callable[[Records], Awaitable[None]], *, group: str,
    member: str, listener: ConsumerRebalanceListener, max_records: int, fetching: Fetching,
) -> Any:
    """Registered, not started. Nothing may raise before the handler: the parser reads no header, the decoder
    no body. member: its static name in the group, or "". fetching: see there.
    """

    async def parser(records: Records) -> KafkaAckableMessage:
        first = records[0]
        return KafkaAckableMessage(
            body=b"",
            headers={},
            batch_headers=[],
            reply_to="",
            content_type=None,
            correlation_id=None,
            message_id=f"{first.topic}-{first.partition}-{first.offset}",
            raw_message=records,
            path={},
            consumer=sub.consumer,
        )

    async def decoder(message: KafkaMessage) -> Records:
        records: Records = message.raw_message
        return records

    sub: Any = broker.subscriber(
        *topics,
        group_id=group,
        group_instance_id=member or None,
        batch=True,
        ack_policy=AckPolicy.MANUAL,
        parser=parser,
        decoder=decoder,
        listener=listener,
        auto_offset_reset="earliest",
        max_records=max_records,
        session_timeout_ms=10_000 if member else 6_000,
        heartbeat_interval_ms=1_000,
        rebalance_timeout_ms=60_000,
    )
    sub(handle)
    sub.get_msg = patiently(sub, fetching)
    return sub


def say_goodbye(consumer: object) -> None:
    """aiokafka sends no LeaveGroup for a static member; without its instance id the ordinary one goes out on
    stop.
    """
    coordinator = getattr(consumer, "_coordinator", None)
    if coordinator is not None:
        coordinator._group_instance_id = None
