"""What does somebody hear who does not speak as he should? A refusal in JSON, soon, and no open line."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import NamedTuple

import pytest
from msgspec.json import decode
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from contracts.reasons import Refused
from services.chassis import web

MOST = 1000


class Said(NamedTuple):
    """An answer off the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def refusal(self) -> Refused:
        """In the form of every refusal: both languages, or it is none."""
        found = decode(self.body, type=Refused)
        assert found.zh
        assert found.en
        assert self.headers["content-type"] == "application/json"
        return found


class Line:
    """A connection of somebody who writes bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, text: bytes) -> None:
        """It may be closed at the other end already."""
        with suppress(ConnectionError):
            self.writer.write(text)
            await self.writer.drain()

    async def hears(self) -> Said:
        """The next answer."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Said(int(head[0].split()[1]), headers, body)

    async def is_closed(self) -> bool:
        """Whether nothing more comes, once the other end has had its time."""
        with suppress(ConnectionError):
            async with asyncio.timeout(10):
                return await self.reader.read() == b""
        return True


async def echo(request: Request) -> Response:
    return Response(await web.read_body(request, MOST))


async def fail(_: Request) -> Response:
    raise ZeroDivisionError("a bug")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server = web.server([Route("/echo", echo, methods=["POST"]), Route("/fail", fail)], "127.0.0.1", 0)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(web, "BODY_SECONDS", 0.3)


@pytest.fixture
async def line(port: int) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield Line(reader, writer)
    writer.close()


def posted(body: bytes, *headers: bytes) -> bytes:
    head = [b"POST /echo HTTP/1.1", b"host: x", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


async def test_a_chunked_body_is_not_read_to_its_end(line: Line) -> None:
    await line.says(b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    left = MOST + web.DRAINED_BYTES + 1
    while left:
        size = min(left, 65536)
        await line.says(b"%x\r\n" % size + b"x" * size + b"\r\n")
        left -= size

    said = await line.hears()
    assert (said.status, said.refusal.code, said.refusal.expected) == (413, "TOO_LARGE", "at most 1000 bytes")
    assert said.headers["connection"] == "close"
    assert await line.is_closed()


async def test_a_body_that_is_a_little_too_large_is_read_and_then_refused(line: Line) -> None:
    await line.says(posted(b"x" * (MOST + 1)) + posted(b"the next request, which must not be believed"))

    assert (await line.hears()).refusal.code == "TOO_LARGE"
    assert await line.is_closed()


async def test_the_line_stays_open_after_what_was_taken(line: Line) -> None:
    for body in (b"x" * MOST, b"", b"again"):
        await line.says(posted(body))
        said = await line.hears()
        assert (said.status, said.body) == (200, body)


@pytest.mark.parametrize("trickle", [
    b"",                                                                        # a line, and not a word
    b"POST /echo HTTP/1.1\r\nhost: x\r\n",                                      # headers without an end
    b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\nhalf",        # a body without an end
    b"POST /no HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\nhalf",          # one that nobody reads
    posted(b"whole") + b"POST /echo HTTP/1.1\r\n",                              # and after an answer
])  # fmt: skip
@pytest.mark.usefixtures("hasty")
async def test_who_never_comes_to_an_end_is_hung_up_on(port: int, trickle: bytes) -> None:
    line = Line(*await asyncio.open_connection("127.0.0.1", port))
    await line.says(trickle)
    began, heard = time.monotonic(), asyncio.create_task(line.reader.read())
    while not heard.done() and time.monotonic() - began < 5:
        await asyncio.wait({heard}, timeout=0.05)
        await line.says(b"x" if trickle else b"")

    line.writer.close()
    assert heard.done(), "the line was held open"
    text = heard.result()
    assert b"HTTP/1.1 500" not in text
    if trickle:
        assert decode(text.rpartition(b"\r\n\r\n")[2], type=Refused).zh


@pytest.mark.parametrize(("request_line", "status", "code", "field"), [
    (b"GET /nowhere HTTP/1.1", 404, "PATH_UNKNOWN", "path"),
    (b"GET /" + b"x" * 8000 + b" HTTP/1.1", 404, "PATH_UNKNOWN", "path"),
    (b"GET /" + b"x" * 300_000 + b" HTTP/1.1", 431, "TOO_LARGE", "headers"),
    (b"POST /echo/ HTTP/1.1", 404, "PATH_UNKNOWN", "path"),         # no redirect to what the Host says
    (b"GET /echo HTTP/1.1", 405, "PATH_UNKNOWN", "method"),
    (b"BREW /echo HTTP/1.1", 405, "PATH_UNKNOWN", "method"),
    (b"OPTIONS * HTTP/1.1", 404, "PATH_UNKNOWN", "path"),
    (b"POST /echo HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6", 400, "BODY_INVALID", "headers"),
    (b"POST /echo HTTP/1.1\r\ncontent-length: -5", 400, "BODY_INVALID", "headers"),
    (b"\x16\x03\x01 hello", 400, "BODY_INVALID", "headers"),
    (b"GET /fail HTTP/1.1", 500, "HANDLER_FAILED", ""),
    (b"GET /echo HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade", 405, "PATH_UNKNOWN", "method"),
])  # fmt: skip
async def test_whatever_is_no_request_of_ours_is_refused_in_one_form(
    line: Line, request_line: bytes, status: int, code: str, field: str
) -> None:
    await line.says(request_line + b"\r\nhost: x\r\n\r\n")

    said = await line.hears()
    assert (said.status, said.refusal.code, said.refusal.field) == (status, code, field)
    assert b"Traceback" not in said.body


async def test_a_head_request_is_answered_without_a_body(line: Line) -> None:
    await line.says(b"HEAD /fail HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")

    assert (await line.reader.read()).endswith(b"\r\n\r\n")


async def test_a_flood_of_headers_is_cut_off(line: Line) -> None:
    await line.says(b"POST /echo HTTP/1.1\r\n")
    for n in range(10_000):
        await line.says(b"x-%d: y\r\n" % n)

    assert (await line.hears()).status == 431
    assert await line.is_closed()
