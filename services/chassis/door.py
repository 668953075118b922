"""How does one caller get in? Concurrent requests are handled as one batch (group commit), each with its own
answer.
"""

import asyncio
import re
import time
from math import ceil
from typing import Any
from urllib.parse import quote

import asyncpg
from msgspec import Struct
from msgspec.json import encode
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from contracts.answers import ANSWER_QUERY, Answer, Pending, Rejected
from contracts.partners import PARTNERS
from contracts.reasons import Reason, refused
from contracts.topics import MAX_MESSAGE_BYTES
from services.chassis import metrics, trust
from services.chassis.arrival import Arrival, Raw, RequestKey, Unreadable
from services.chassis.batch import Engine
from services.chassis.database import ATTEMPT_SECONDS, is_broken
from services.chassis.forgers import Forgers
from services.chassis.halt import Halted
from services.chassis.outcomes import Outcomes
from services.chassis.subscriptions import Subscriptions
from services.chassis.telemetry import batch_span
from services.chassis.web import NotTaken, read_body, said
from services.chassis.wire import LONGEST_KEY, REQUEST_ID, Reader, internal

AT_MOST = 1000
TRIES_REMEMBERED = 10_000
PATIENCE_SECONDS = 3.0
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


Waiting = tuple[Arrival | Unreadable, asyncio.Future[None]]


class Busy(Exception):
    """The database is not there; the caller tries again later, nothing was kept."""


def _identity(arrival: Arrival) -> object:
    """By what a message is known when it comes again; a callback by its words."""
    return arrival.request or arrival.call_id or (arrival.type, arrival.raw.value)


class Door:
    """The engine's entrance for single messages: HTTP commands, providers' callbacks, outcomes of calls.

    Whoever knocks comes again by himself when he is told Busy. What was in a batch that did not end is tried
    apart from then on, so that it takes nobody along, and after five times it is parked.
    """

    deadline_seconds = ATTEMPT_SECONDS

    def __init__(self, engine: Engine, subscriptions: Subscriptions, reader: Reader) -> None:
        self.engine, self.subscriptions, self.reader = engine, subscriptions, reader
        self._waiting: list[Waiting] = []
        self._apart: list[Waiting] = []         # those that were in a batch that did not end, one at a time
        self._tries: dict[object, int] = {}     # in how many of such batches a message was
        self._statements: list[tuple[str, tuple[Any, ...]]] = []
        self._work = asyncio.Event()
        self._forgers = Forgers()
        self.outcomes = Outcomes()

    async def run(self, db: asyncpg.Connection) -> None:
        """Handle whatever waits, all of it at once, until cancelled or an error."""
        self._work.set()
        while True:
            await self._work.wait()
            self._work.clear()
            while self._statements:
                sql, args = self._statements[0]
                await db.execute(sql, *args)
                del self._statements[0]  # only now: a broken connection leaves it for the next one
            while self._waiting or self._apart:
                batch, self._waiting = self._waiting[:AT_MOST], self._waiting[AT_MOST:]
                if batch:
                    await self._handle(db, batch)
                if self._apart:
                    await self._handle(db, [self._apart.pop(0)])

    async def _handle(self, db: asyncpg.Connection, batch: list[Waiting]) -> None:
        arrivals = [what for what, _ in batch if isinstance(what, Arrival)]
        unreadable = [what for what, _ in batch if isinstance(what, Unreadable)]
        known = [_identity(arrival) for arrival in arrivals]
        failures = max((self._tries.get(each, 0) for each in known), default=0)
        trouble: BaseException | None = None
        try:
            with batch_span(self.engine.service, "door", len(arrivals)):
                await self.engine.run_within(
                    db, arrivals, unreadable, seconds=self.deadline_seconds, failures=failures
                )
            for each in known if self._tries else ():
                self._tries.pop(each, None)
        except BaseException as error:
            trouble = Busy(f"{type(error).__name__}: {error}")
            if not isinstance(error, Halted) and not is_broken(error) and not db.is_closed():
                self._remember(known)
            raise
        finally:
            for done in (done for _, done in batch if not done.done()):
                done.set_exception(trouble) if trouble else done.set_result(None)

    def _remember(self, known: list[object]) -> None:
        for each in known:
            self._tries[each] = self._tries.pop(each, 0) + 1
        while len(self._tries) > TRIES_REMEMBERED:
            del self._tries[next(iter(self._tries))]

    async def enter(self, what: Arrival | Unreadable) -> None:
        """Through the engine with the next batch. Returns when it is committed: done, or parked. Raises Busy:
        also when nobody has taken it up within the patience.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        suspect = isinstance(what, Arrival) and _identity(what) in self._tries
        queue = self._apart if suspect else self._waiting
        queue.append((what, done))
        self._work.set()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.shield(done)
        except TimeoutError:
            queue = self._apart if suspect else self._waiting
            if (what, done) in queue:
                queue.remove((what, done))
                raise Busy("the database does not answer") from None
            await done  # it is being handled, and that has its own deadline

    async def later(self, sql: str, *args: Any) -> None:
        """One small statement of the engine's own on the door's connection."""
        self._statements.append((sql, args))
        self._work.set()

    async def tell(self, message: Struct) -> None:
        """An internal message (a provider's verified word) through the engine: when this returns it is kept.
        Raises Busy.
        """
        subscription = self.subscriptions.by_type[type(message).__name__]
        await self.enter(
            internal(
                subscription, Raw("door", None, None, None, (), encode(message), int(time.time() * 1000))
            )
        )

    async def command(self, raw: Raw, address: str) -> Answer | Pending | Unreadable:
        """A signed command. Its answer; Pending: taken, its outcome is not known yet; Unreadable: forged or
        not a message. address: who is at the other end. Raises Busy, NotTaken.
        """
        what = self.reader.read(raw)
        if what is None:
            return Unreadable(raw, Reason.NOT_PERMITTED, "no command of this service: try another door")
        if isinstance(what, Unreadable):
            if self._unproven(raw) is not None:
                self._bound(raw, address)
            await self.enter(what)
            return what
        if what.request is None:
            return Unreadable(raw, Reason.NOT_PERMITTED, "not a command")
        heard = self.engine.answered.setdefault(what.request, asyncio.get_running_loop().create_future())
        try:
            await self.enter(what)
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
            answer = await self.command(raw, request.client.host if request.client else "")
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
    if not _JSON.fullmatch(head.get("content-type", "application/json")):
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
