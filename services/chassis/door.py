"""How does one caller get in? Concurrent requests are handled as one batch (group commit), each with its own
answer.
"""

import asyncio
import time
from typing import Any

import asyncpg
from msgspec import Struct
from msgspec.json import encode
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from contracts.answers import Accepted, Answer, Rejected
from contracts.partners import PARTNERS
from contracts.reasons import Reason, refused
from contracts.topics import MAX_MESSAGE_BYTES
from services.chassis.arrival import Arrival, Raw, Unreadable
from services.chassis.batch import Engine
from services.chassis.subscriptions import Subscriptions
from services.chassis.wire import Reader, internal

AT_MOST = 1000
PATIENCE_SECONDS = 3.0
_OF_SOURCE = {f"/{partner.topic.replace('.', '/')}": partner for partner in PARTNERS.values()}
_SIGNATURE = {"canbao-sig-key": "sig_key", "canbao-sig-at": "sig_at", "canbao-sig": "sig"}
_STATUS = {
    Reason.SIGNATURE_INVALID: 401,
    Reason.CLOCK_SKEW: 401,
    Reason.NOT_PERMITTED: 403,
    Reason.UNDER_REPAIR: 503,
}


Waiting = tuple[Arrival | Unreadable, asyncio.Future[None]]


class Busy(Exception):
    """The database is not there; the caller tries again later, nothing was kept."""


class Door:
    """The engine's entrance for single messages: HTTP commands, providers' callbacks, outcomes of calls."""

    def __init__(self, engine: Engine, subscriptions: Subscriptions, reader: Reader) -> None:
        self.engine, self.subscriptions, self.reader = engine, subscriptions, reader
        self._waiting: list[Waiting] = []
        self._statements: list[tuple[str, tuple[Any, ...]]] = []
        self._work = asyncio.Event()

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
            while self._waiting:
                batch, self._waiting = self._waiting[:AT_MOST], self._waiting[AT_MOST:]
                await self._handle(db, batch)

    async def _handle(self, db: asyncpg.Connection, batch: list[Waiting]) -> None:
        arrivals = [what for what, _ in batch if isinstance(what, Arrival)]
        unreadable = [what for what, _ in batch if isinstance(what, Unreadable)]
        trouble: BaseException | None = None
        try:
            async with asyncio.timeout(10):
                await self.engine.run(db, arrivals, unreadable)
        except BaseException as error:
            trouble = Busy(f"{type(error).__name__}: {error}")
            raise
        finally:
            for done in (done for _, done in batch if not done.done()):
                done.set_exception(trouble) if trouble else done.set_result(None)

    async def enter(self, what: Arrival | Unreadable) -> None:
        """Through the engine with the next batch. Returns when it is committed: done, or parked. Raises Busy:
        also when nobody has taken it up within the patience.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((what, done))
        self._work.set()
        try:
            await asyncio.wait_for(asyncio.shield(done), PATIENCE_SECONDS)
        except TimeoutError:
            if (what, done) in self._waiting:
                self._waiting.remove((what, done))
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

    async def command(self, raw: Raw) -> Answer | Unreadable | None:
        """A signed command. Its answer; Unreadable: forged or not a message; None: accepted, its outcome is
        not known yet.
        """
        what = self.reader.read(raw)
        if what is None:
            return Unreadable(raw, Reason.NOT_PERMITTED, "no command of this service")
        if isinstance(what, Unreadable):
            await self.enter(what)
            return what
        if what.request is None:
            return Unreadable(raw, Reason.NOT_PERMITTED, "not a command")
        outcome = self.engine.answered.setdefault(what.request, asyncio.get_running_loop().create_future())
        try:
            await self.enter(what)
            if what.answer is not None:
                return what.answer
            return await asyncio.wait_for(asyncio.shield(outcome), PATIENCE_SECONDS)
        except TimeoutError:
            return None
        finally:
            self.engine.answered.pop(what.request, None)

    def routes(self) -> list[Route]:
        """POST /v1/commands: a command with its CloudEvents attributes and signature in headers."""
        return [Route("/v1/commands", self._post, methods=["POST"])]

    async def _post(self, request: Request) -> Response:
        if int(request.headers.get("content-length") or 0) > MAX_MESSAGE_BYTES:
            return _json(
                413,
                refused(
                    Reason.SCHEMA_INVALID, field="content-length", expected=f"at most {MAX_MESSAGE_BYTES}"
                ),
            )
        value = await request.body()
        if len(value) > MAX_MESSAGE_BYTES:
            return _json(
                413,
                refused(Reason.SCHEMA_INVALID, field="body", expected=f"at most {MAX_MESSAGE_BYTES} bytes"),
            )
        try:
            answer = await self.command(_raw(request, value))
        except Busy:
            return _json(503, refused(Reason.UNDER_REPAIR))
        if answer is None:
            return Response(b'{"outcome":"PENDING"}', 202, media_type="application/json")
        if isinstance(answer, Unreadable):
            return _json(_STATUS.get(answer.reason, 400), refused(answer.reason, field=answer.detail))
        if isinstance(answer, Rejected):
            code = answer.refusal.code
            return _json(
                503
                if code == Reason.UNDER_REPAIR.name
                else 409
                if code == Reason.IDEMPOTENCY_CONFLICT.name
                else 422,
                answer,
            )
        assert isinstance(answer, Accepted)
        return _json(200, answer)


def _raw(request: Request, value: bytes) -> Raw:
    """An HTTP request in the form of a record: the partner's topic follows from its source, and its
    signature covers it.
    """
    names = {
        "ce-specversion",
        "ce-id",
        "ce-type",
        "ce-time",
        "ce-source",
        "ce-subject",
        "traceparent",
        "content-type",
    }
    headers = [
        (k.replace("ce-", "ce_"), v.encode("latin-1")) for k, v in request.headers.items() if k in names
    ]
    headers += [
        (ours, request.headers[name].encode("latin-1"))
        for name, ours in _SIGNATURE.items()
        if name in request.headers
    ]
    partner = _OF_SOURCE.get(request.headers.get("ce-source", ""))
    key = request.headers.get("canbao-key", "").encode("latin-1")
    return Raw(
        partner.topic if partner else "door", None, None, key, tuple(headers), value, int(time.time() * 1000)
    )


def _json(status: int, body: Struct) -> Response:
    return Response(encode(body), status, media_type="application/json")
