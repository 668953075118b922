"""What has arrived, and by which road? The engine's one form for records, requests, timers and outcomes of
calls.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from contracts.answers import Answer
from contracts.reasons import Reason, Refused

if TYPE_CHECKING:
    from services.chassis.subscriptions import Subscription


class RequestKey(NamedTuple):
    """A command's identity for ever: the partner's code and its own request id."""

    partner: str
    request_id: str


class Raw(NamedTuple):
    """The bytes as they came, so that what cannot be handled is kept whole. at_ms: when the broker or the
    door took it.
    """

    topic: str
    partition: int | None
    offset: int | None
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    value: bytes | None
    at_ms: int


class Arrival:
    """One message on its way through the engine.

    event_id: the ce_id of a fact of ours (inbox), None for the rest. request: of a command. digest: HMAC of a
    command's canonical body. refusal: an authentic command that is answered without a handler. parked_seq,
    job_id, call_id: the row that this message came from and that goes in its transaction. run_at: the instant
    of a timer. journey: whose trace it belongs to, "" if nobody knows. seen: its inbox row stands already.
    since: when it first waited (system instant). answer: what the partner hears, once that is known.
    """

    key = time = partner = ""
    digest = b""
    event_id: str | None = None
    request: RequestKey | None = None
    refusal: Refused | None = None
    parked_seq: int | None = None
    job_id: str | None = None
    call_id: str | None = None
    run_at: datetime | None = None
    seen = False
    since: datetime | None = None
    answer: Answer | None = None

    def __init__(
        self, *, type: str, message: Any, subscription: "Subscription | None", refs: tuple[int, ...], raw: Raw
    ) -> None:
        self.type, self.message, self.subscription = type, message, subscription
        self.refs, self.raw = refs, raw
        self.journey: str = getattr(message, "journey", "")

    @property
    def sequence(self) -> int:
        """ce_sequence of a fact: its place among those of its aggregate on this topic, 1 for the first."""
        return int(dict(self.raw.headers)["ce_sequence"] or 0)

    @property
    def traceparent(self) -> str:
        """Where it stands in its partner's own trace, if he says so."""
        said = dict(self.raw.headers).get("traceparent") if self.partner else None
        return (said or b"").decode("ascii", "replace")

    @property
    def waited(self) -> timedelta:
        """How long ago it first waited for its ground, by the system clock; zero for what comes for the
        first time.
        """
        return datetime.now(UTC) - self.since if self.since else timedelta()


class Unreadable(NamedTuple):
    """What nobody can handle: kept with its reason and without refs, so that a forger freezes no citizen.

    secret: keep only the digest, never the bytes. job_id, call_id: the row of ours that it came from and that
    goes when it is kept.
    """

    raw: Raw
    reason: Reason
    detail: str
    type: str = ""
    secret: bool = False
    job_id: str | None = None
    call_id: str | None = None
