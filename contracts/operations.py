"""What operators order and what the engine of each service tells them."""

from msgspec import Struct

from contracts.message import Code, Instant, RequestId, command, fact

OPERATORS = "operators"   # the topic of their orders


class _Order(Struct, frozen=True, kw_only=True):
    """service: who shall do it; every other service skips it. operator: who asks, for the audit."""

    request_id: RequestId
    service: Code
    operator: Code


@command(to="any", key="service")
class Redrive(_Order, frozen=True, kw_only=True):
    """Run parked messages again, each with everything that waits behind it. Accepted: {"redriven", "left",
    "why"}; why: for the first rows that stayed, what keeps them there.

    seqs: rows of the service's parked table; empty: all that carry the reason. dry_run: only count.
    """

    seqs: list[int] = []
    reason: Code = "HANDLER_FAILED"
    dry_run: bool = True


@command(to="any", key="service")
class Resume(_Order, frozen=True, kw_only=True):
    """Clear a halt; the service consumes again. Accepted: {"was_halted"}."""


@command(to="any", key="service")
class AdvanceClock(_Order, frozen=True, kw_only=True):
    """Move the business clock forward to an instant (sandbox only), from due time to due time. Accepted:
    {"now"}.
    """

    to: Instant


OPERATIONS = "{service}.operations"  # each service says these of itself, on its own topic


@command(to="any", key="service")
class Republish(_Order, frozen=True, kw_only=True):
    """Send again what the service has said since an instant (system clock), under the same ids: a lost tail
    of a topic is filled, everybody else knows the ids already. Accepted: {"batches"}."""

    since: Instant


@command(to="any", key="service")
class Reread(_Order, frozen=True, kw_only=True):
    """Read all topics again from the first record since an instant (the records' time); what is known changes
    nothing. For a broker that has forgotten records and given their offsets to others: order it of every
    service, then `Republish` of those who had said them. since: earlier than the loss by what clocks differ.
    A batch that was on its way may pass it by: order it again half a minute later. Accepted: {"partitions"},
    those that were beyond it.
    """

    since: Instant


@fact(by="any", topic=OPERATIONS, subject="parked_id", key="service")
class MessageParked(Struct, frozen=True, kw_only=True):
    """Something could not be handled and is kept. parked_id: its seq in the service's parked table. No
    bytes, no data.

    reason: a code of contracts.reasons. source: topic/partition/offset, or the door.
    """

    service: str
    parked_id: str
    reason: str
    type: str
    source: str
    refs: int
    at: Instant


@fact(by="any", topic=OPERATIONS, subject="parked_id", key="service")
class MessageRedriven(Struct, frozen=True, kw_only=True):
    """A parked message was handled after all."""

    service: str
    parked_id: str
    operator: str
    at: Instant


@fact(by="any", topic=OPERATIONS, subject="service", key="service")
class ServiceHalted(Struct, frozen=True, kw_only=True):
    """Handlers failed too often: the code is wrong, not the data. An operator resumes. failures: of the last
    handled.
    """

    service: str
    failures: int
    handled: int
    last_error: str
    at: Instant


@fact(by="any", topic=OPERATIONS, subject="service", key="service")
class ServiceResumed(Struct, frozen=True, kw_only=True):
    """An operator cleared the halt."""

    service: str
    operator: str
    at: Instant
