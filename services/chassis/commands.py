"""How is a command taken over HTTP, and what does its sender hear? Signed like a record, answered with its
outcome.
"""

import asyncio
import re
import time
from math import ceil
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from contracts.answers import ANSWER_QUERY, Answer, Pending, Rejected
from contracts.partners import PARTNERS
from contracts.reasons import Reason, refused
from contracts.topics import MAX_MESSAGE_BYTES
from services.chassis import metrics, trust
from services.chassis.arrival import Raw, RequestKey, Unreadable
from services.chassis.door import PATIENCE_SECONDS, Busy, Door
from services.chassis.forgers import Forgers
from services.chassis.outcomes import Outcomes
from services.chassis.web import NotTaken, read_body, said
from services.chassis.wire import LONGEST_KEY, REQUEST_ID, Reader

FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.05, 0.4       # pauses between looks for an answer; they double
_OF_SOURCE = {f"/{partner.topic.replace('.', '/')}": partner for partner in PARTNERS.values()}
_SIGNATURE = {"canbao-sig-key": "sig_key", "canbao-sig-at": "sig_at", "canbao-sig": "sig"}
_ATTRIBUTES = (
    "ce-specversion", "ce-id", "ce-type", "ce-time", "ce-source", "ce-subject", "traceparent", "content-type",
)  # fmt: skip
_ONCE = (*_ATTRIBUTES, *_SIGNATURE, "canbao-key")
_JSON = re.compile(r"application/(cloudevents\+)?json\s*(;.*)?", re.IGNORECASE)
_STATUS = {
    Reason.SIGNATURE_INVALID: 401,
    Reason.CLOCK_SKEW: 401,
    Reason.NOT_PERMITTED: 403,
    Reason.UNDER_REPAIR: 503,
}
_OF_REFUSAL = {Reason.UNDER_REPAIR.name: 503, Reason.IDEMPOTENCY_CONFLICT.name: 409}


class Commands:
    """The HTTP road of commands, through a service's door."""

    def __init__(self, door: Door, reader: Reader) -> None:
        self.door, self.engine, self.reader = door, door.engine, reader
        self.outcomes, self._forgers = Outcomes(), Forgers()

    def routes(self) -> list[Route]:
        """POST /v1/commands: a command with its CloudEvents attributes and signature in headers.
        GET /v1/commands/{request_id}: what became of it, signed in the same way.
        """
        return [
            Route("/v1/commands", self._post, methods=["POST"]),
            Route("/v1/commands/{request_id:path}", self._get, methods=["GET"]),
        ]

    async def _post(self, request: Request) -> Response:
        value = await read_body(request, MAX_MESSAGE_BYTES)
        check_form(request)
        raw = _raw(request, value, request.headers.get("canbao-key", ""))
        try:
            answer = await self._take(raw, request.client.host if request.client else "")
        except Busy:
            return said(503, refused(Reason.UNDER_REPAIR))
        if isinstance(answer, Pending):
            return said(202, answer, {"location": answer.query, "retry-after": "1"})
        if isinstance(answer, Unreadable):
            # which field, or in which way
            where = "field" if answer.reason is Reason.SECRET_IN_MESSAGE else "rule"
            return said(_STATUS.get(answer.reason, 400), refused(answer.reason, **{where: answer.detail}))
        if isinstance(answer, Rejected):
            return said(_OF_REFUSAL.get(answer.refusal.code, 422), answer)
        return said(200, answer)

    async def _get(self, request: Request) -> Response:
        """200: the answer, be it a refusal. 202: still being worked on. 404: not this partner's, or nothing
        that is remembered.
        """
        await read_body(request, 0)
        check_form(request)
        raw = _raw(request, b"", request.path_params["request_id"])
        if (reason := self._unproven(raw)) is not None:
            metrics.forged(self.engine.service, "query", kept=False)
            return said(401, refused(reason))
        if request.headers["ce-type"] != ANSWER_QUERY:
            return said(403, refused(Reason.NOT_PERMITTED, field="ce-type", expected=ANSWER_QUERY))
        asked = RequestKey(_OF_SOURCE[request.headers["ce-source"]].code, request.path_params["request_id"])
        known = REQUEST_ID.fullmatch(asked.request_id)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                stored = await self.outcomes.look(asked) if known else None
        except TimeoutError:
            return said(503, refused(Reason.UNDER_REPAIR))
        if stored is None:
            return said(404, refused(Reason.REQUEST_UNKNOWN, field="request_id"))
        if stored.answer is None:
            pending = Pending(request_id=asked.request_id, query=_query(asked))
            return said(202, pending, {"retry-after": "1"})
        return said(200, stored.answer)

    async def _take(self, raw: Raw, address: str) -> Answer | Pending | Unreadable:
        """A signed command. Its answer; Pending: taken, its outcome is not known yet; Unreadable: forged or
        not a message. address: who is at the other end. Raises Busy, NotTaken.
        """
        what = self.reader.read(raw)
        if what is None:
            return Unreadable(raw, Reason.NOT_PERMITTED, "no command of this service: try another door")
        if isinstance(what, Unreadable):
            if self._unproven(raw) is not None:
                self._bound(raw, address)
            await self.door.enter(what)
            return what
        if what.request is None:
            return Unreadable(raw, Reason.NOT_PERMITTED, "not a command")
        heard = self.engine.answered.setdefault(what.request, asyncio.get_running_loop().create_future())
        try:
            await self.door.enter(what)
            answer = what.answer or await self._later(what.request, heard)
        finally:
            self.engine.answered.pop(what.request, None)
        return answer or Pending(request_id=what.request.request_id, query=_query(what.request))

    def _bound(self, raw: Raw, address: str) -> None:
        """Raises NotTaken when too many forgeries came lately: this one is counted and not kept."""
        wait_seconds = self._forgers.wait_seconds(raw.topic, address, time.monotonic())
        metrics.forged(self.engine.service, "command", kept=not wait_seconds)
        if wait_seconds:
            raise NotTaken(429, refused(Reason.TOO_MANY_FORGED), retry_after=str(ceil(wait_seconds)))

    async def _later(self, request: RequestKey, heard: asyncio.Future[Answer]) -> Answer | None:
        """The outcome, if it comes within the patience: heard from this process, or found in the table."""
        clock = asyncio.get_running_loop().time
        end, pause = clock() + PATIENCE_SECONDS, FIRST_LOOK_SECONDS
        while not heard.done() and clock() < end:
            await asyncio.wait({heard}, timeout=min(pause, end - clock()))
            seen = self.outcomes.look(request)
            either: list[asyncio.Future[Any]] = [heard, seen]
            await asyncio.wait(either, timeout=end - clock(), return_when=asyncio.FIRST_COMPLETED)
            if seen.done() and (stored := seen.result()) and stored.answer:
                return stored.answer
            seen.cancel()
            pause = min(2 * pause, LAST_LOOK_SECONDS)
        return heard.result() if heard.done() else None

    def _unproven(self, raw: Raw) -> Reason | None:
        """Why nobody knows that the partner sent this; None: he did, whatever is wrong with it otherwise."""
        return trust.verify(
            self.reader.keys, topic=raw.topic, key=raw.key or b"", headers=dict(raw.headers),
            value=raw.value or b"", broker_ms=raw.at_ms, money=False,
        )  # fmt: skip


def _query(request: RequestKey) -> str:
    return f"/v1/commands/{quote(request.request_id, safe='')}"


def check_form(request: Request) -> None:
    """Raises NotTaken: not JSON as it is, or two may read two things in it."""
    head = request.headers
    if not _JSON.fullmatch(head.get("content-type", "" if request.method == "POST" else "application/json")):
        raise NotTaken(415, refused(Reason.BODY_INVALID, field="content-type", expected="application/json"))
    if head.get("content-encoding", "identity") != "identity":
        raise NotTaken(415, refused(Reason.BODY_INVALID, field="content-encoding", expected="none"))
    twice = next((name for name in _ONCE if len(head.getlist(name)) > 1), "")
    if twice:
        raise NotTaken(400, refused(Reason.BODY_INVALID, field=twice, expected="once"))
    if len(head.get("canbao-key", "")) > LONGEST_KEY:
        raise NotTaken(400, refused(Reason.SCHEMA_INVALID, field="canbao-key", expected="128 bytes"))


def _raw(request: Request, value: bytes, key: str) -> Raw:
    """An HTTP request in the form of a record: the partner's topic follows from its source, and its
    signature covers it. Raises NotTaken: no partner's.
    """
    head = request.headers
    partner = _OF_SOURCE.get(head.get("ce-source", ""))
    if partner is None:
        raise NotTaken(401, refused(Reason.SIGNATURE_INVALID, field="ce-source", expected="a partner's"))
    names = {**{name: name.replace("ce-", "ce_") for name in _ATTRIBUTES}, **_SIGNATURE}
    headers = tuple((ours, head[name].encode("latin-1")) for name, ours in names.items() if name in head)
    at_ms = int(time.time() * 1000)
    return Raw(partner.topic, None, None, key.encode("latin-1", "replace"), headers, value, at_ms)
