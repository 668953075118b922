"""What may come over HTTP at all, and how is what may not refused? Sizes, patience, one form of refusal."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from http import HTTPStatus
from typing import Any

import uvicorn
from msgspec import Struct
from msgspec.json import encode
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from contracts.reasons import Reason, Refused, refused

MOST_HEAD_BYTES = 16_384        # request line and headers; ours are about 1 KB
HEAD_SECONDS = 10.0             # from the connection, or the answer before, to the end of the next headers
BODY_SECONDS = 10.0             # 256 KB at the speed of a bad mobile line
# A refused body is read on so far before we hang up: who is cut off while he sends never reads why.
DRAINED_BYTES = 1_048_576


class NotTaken(Exception):
    """A request that is refused before anybody looks at what it says. headers: beside the body's type."""

    def __init__(self, status: int, refusal: Refused, **headers: str) -> None:
        super().__init__(f"{status} {refusal.code} {refusal.field}")
        self.status, self.refusal = status, refusal
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}


def said(status: int, body: Struct, headers: dict[str, str] | None = None) -> Response:
    """A struct as the answer."""
    return Response(encode(body), status, headers, media_type="application/json")


async def read_body(request: Request, most_bytes: int) -> bytes:
    """The whole body. Raises NotTaken: larger than that (413), too slow (408), or cut off (400); the
    connection is closed after it, because the rest of such a body must not be read as the next request.
    """
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                size += len(piece)
                if size <= most_bytes:
                    body += piece
                elif size > most_bytes + DRAINED_BYTES:
                    break
    except TimeoutError:
        if size <= most_bytes:
            slow = refused(Reason.BODY_INVALID, field="body", expected=f"whole within {BODY_SECONDS:.0f} s")
            raise NotTaken(408, slow, connection="close") from None
    except ClientDisconnect:
        raise NotTaken(400, refused(Reason.BODY_INVALID, field="body", expected="all of it")) from None
    if size > most_bytes:
        large = refused(Reason.TOO_LARGE, field="body", expected=f"at most {most_bytes} bytes")
        raise NotTaken(413, large, connection="close")
    return bytes(body)


def application(routes: Sequence[Route]) -> Starlette:
    """The routes, and a refusal in JSON for everything else: no page of a framework, no traceback."""

    async def not_taken(_: Request, why: Exception) -> Response:
        assert isinstance(why, NotTaken)
        return said(why.status, why.refusal, why.headers)

    async def nowhere(request: Request, why: Exception) -> Response:
        assert isinstance(why, HTTPException)
        refusal = refused(Reason.PATH_UNKNOWN, field="path" if why.status_code == 404 else "method",
                          expected=(why.headers or {}).get("allow", ""), got=request.method)
        return said(why.status_code, refusal, dict(why.headers or {}))

    async def our_bug(_: Request, __: Exception) -> Response:
        return said(500, refused(Reason.HANDLER_FAILED))

    handlers: dict[Any, Any] = {NotTaken: not_taken, HTTPException: nowhere, Exception: our_bug}
    app = Starlette(routes=list(routes), exception_handlers=handlers)
    app.router.redirect_slashes = False  # one address for each thing; a redirect repeats what the Host says
    return app


def server(routes: Sequence[Route], host: str, port: int) -> uvicorn.Server:
    """The routes behind a socket; the caller serves it and ends it. Signals stay the caller's."""
    config = uvicorn.Config(
        application(routes), host=host, port=port, http=Connection, ws="none", lifespan="off",
        h11_max_incomplete_event_size=MOST_HEAD_BYTES, log_config=None, access_log=False, server_header=False,
    )
    made = uvicorn.Server(config)
    made.capture_signals = nullcontext  # type: ignore[method-assign,assignment]
    return made


class Connection(H11Protocol):
    """One connection. uvicorn itself waits for ever for the end of headers, and for the rest of a body that
    was answered already; here who has no request under way has 10 s to say the next one.
    """

    _deadline: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    @override
    def on_response_complete(self) -> None:
        self._forget()
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        if self.transport.is_closing() or (self.cycle and not self.cycle.response_complete):
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        if self.conn.trailing_data[0] and not self.transport.is_closing():
            self._refuse(408, f"whole within {HEAD_SECONDS:.0f} s")
        else:
            self.transport.close()

    @override
    def send_400_response(self, msg: str) -> None:
        large = len(self.conn.trailing_data[0]) > MOST_HEAD_BYTES
        self._refuse(431 if large else 400, f"HTTP/1.1, at most {MOST_HEAD_BYTES} bytes of headers")

    def _refuse(self, status: int, expected: str) -> None:
        """What is no request gets an answer all the same, unless one is on its way, and then we hang up."""
        on_its_way = self.cycle and self.cycle.response_started and not self.cycle.response_complete
        if not on_its_way:
            reason = Reason.TOO_LARGE if status == 431 else Reason.BODY_INVALID
            body = encode(refused(reason, field="headers", expected=expected))
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%s"
                % (status, HTTPStatus(status).phrase.encode(), len(body), body)
            )
        self.transport.close()
