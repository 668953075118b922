"""What does a partner hear? One answer a request, on channels.<code>.replies or as the HTTP response."""

from typing import Any

from msgspec import Struct

from contracts.message import Instant, RequestId
from contracts.reasons import Refused


class Answer(Struct, frozen=True, kw_only=True, tag_field="outcome"):
    """request_id: the partner's own. command: the type it asked for. answered_at: business instant."""

    request_id: RequestId
    command: str
    answered_at: Instant


class Accepted(Answer, frozen=True, kw_only=True, tag="ACCEPTED"):
    """Done. result holds the fields that the command's docstring names."""

    result: dict[str, Any] = {}


class Rejected(Answer, frozen=True, kw_only=True, tag="REJECTED"):
    """Not done, nothing changed; refusal says why and what to do."""

    refusal: Refused


class Pending(Struct, frozen=True, kw_only=True, tag_field="outcome", tag="PENDING"):
    """Over HTTP only: taken, and not decided yet. query: the path that is asked for the answer."""

    request_id: RequestId
    query: str


# ce_type of the signed query for an answer; its record key is the request id, its value is empty.
ANSWER_QUERY = "answer.query.v1"
ANSWER_TYPES: dict[type[Answer], str] = {Accepted: "answer.accepted.v1", Rejected: "answer.rejected.v1"}


def says_again(answer: Answer) -> bool:
    """Whether the same request, sent again, may be granted: it is not answered from memory."""
    return isinstance(answer, Rejected) and answer.refusal.retryable
