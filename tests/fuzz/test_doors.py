"""Does anything that comes over HTTP end in a 5xx? Hypothesis knocks at every door, in every way."""

import http.client
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.json import decode

from contracts.partners import PARTNERS
from contracts.reasons import Reason
from contracts.topics import OPERATED
from tests.fuzz.conftest import Running

pytestmark = pytest.mark.timeout(240)

# The doors: what each answers, and which fields of the head it reads. GET includes HEAD.
EVERYWHERE = ("/v1/commands", "/v1/commands/{id}", "/health/live", "/health/ready", "/metrics")
ALSO = {
    "payment": ("/v1/wechat/notify",),
    "console": ("/", "/live", "/timeline", "/timeline/{id}", "/sealed", "/style.css", "/live.js"),
}
HEAD = (
    "ce-specversion", "ce-id", "ce-type", "ce-time", "ce-source", "ce-subject", "traceparent", "content-type",
    "content-encoding", "canbao-key", "canbao-sig-key", "canbao-sig-at", "canbao-sig", "accept", "host",
    "wechatpay-timestamp", "wechatpay-nonce", "wechatpay-signature", "wechatpay-serial", "range", "cookie",
)  # fmt: skip
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW")
SOURCES = [f"/{partner.topic.replace('.', '/')}" for partner in PARTNERS.values()]
JSON = ("application/json", "application/cloudevents+json; charset=x")
AWAY = {Reason.UNDER_REPAIR.name}  # the one 503 that is documented: try again, nothing is lost

field = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=200)
segment = st.binary(max_size=40).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw)) | st.text(
    "abcxyz0189.-_~/?&=%;:@'", max_size=60
)
body = st.one_of(
    st.binary(max_size=2_000),
    st.sampled_from(
        [b"", b"{}", b"[]", b"[" * 5_000, b"\xef\xbb\xbf{}", b'{"resource": {}}', b"x" * 300_000]
    ),
    st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(), max_size=5).map(
        lambda value: repr(value).replace("'", '"').encode("utf-8", "replace")
    ),
)


class Knock(NamedTuple):
    """One request."""

    service: str
    method: str
    path: str
    head: list[tuple[str, str]]
    body: bytes


@st.composite
def knocks(draw: st.DrawFn) -> Knock:
    """Any request, mostly to an address that exists, mostly from a partner."""
    service = draw(st.sampled_from(OPERATED))
    path = draw(st.sampled_from(EVERYWHERE + ALSO.get(service, ()))) if draw(st.integers(0, 9)) else "/{id}"
    head = draw(st.lists(st.tuples(st.sampled_from(HEAD), field), max_size=8))
    if draw(st.booleans()):
        head += [("content-type", draw(st.sampled_from(JSON))), ("ce-source", draw(st.sampled_from(SOURCES)))]
    method = draw(st.sampled_from(METHODS) if draw(st.integers(0, 3)) == 0 else st.sampled_from(METHODS[:2]))
    return Knock(service, method, path.replace("{id}", draw(segment)), head, draw(body))


def answer(running: Running, knock: Knock) -> tuple[int, bytes]:
    """Status and body; 0: the line was closed without a word, which is an answer to what is no request."""
    line = http.client.HTTPConnection(running.door(knock.service), timeout=20)
    try:
        line.putrequest(knock.method, knock.path or "/", skip_host=True, skip_accept_encoding=True)
        if not any(name == "host" for name, _ in knock.head):
            line.putheader("host", running.door(knock.service))
        for name, text in knock.head:
            line.putheader(name, text.encode("latin-1"))
        line.putheader("content-length", str(len(knock.body)))
        line.endheaders(knock.body)
        response = line.getresponse()
        return response.status, response.read()
    except (http.client.HTTPException, ConnectionError):
        return 0, b""
    finally:
        line.close()


def wrong(status: int, body: bytes) -> str:
    """Why this is no answer of ours; empty: it is."""
    if status < 500:
        return ""
    code = decode(body).get("code") if status == 503 and body[:1] == b"{" else ""
    return "" if code in AWAY else f"HTTP {status}: {body[:300]!r}"


@pytest.fixture(autouse=True)
def nobody_ends(running: Running) -> Iterator[None]:
    """Whatever knocks: the same processes answer before and after it."""
    before = running.pids()
    yield
    assert running.pids() == before
    for service in OPERATED:
        assert answer(running, Knock(service, "GET", "/health/live", [], b""))[0] == 200


quickly = settings(
    max_examples=400, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def test_no_request_is_answered_with_an_error_of_ours(running: Running) -> None:
    statuses: set[int] = set()

    @quickly
    @given(knock=knocks())
    def is_answered(knock: Knock) -> None:
        status, said = answer(running, knock)
        statuses.add(status)
        assert not wrong(status, said)

    is_answered()
    assert statuses >= {200, 400, 401, 404, 405, 413, 415}, "the knocks reach hardly anything"


@quickly
@given(
    service=st.sampled_from(OPERATED),
    said=st.binary(max_size=3_000) | st.text("GETPOSHV1/. \r\n:x0", max_size=400).map(str.encode),
)
def test_bytes_that_are_no_request_are_refused_or_hung_up_on(
    running: Running, service: str, said: bytes
) -> None:
    host, _, port = running.door(service).rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall(said + b"\r\n\r\n")
        line.shutdown(socket.SHUT_WR)
        try:
            heard = line.recv(65_536)
        except ConnectionError:
            heard = b""
    status = int(heard.split(b" ", 2)[1]) if heard.startswith(b"HTTP/1.1 ") else 0
    assert status < 500, heard


@pytest.mark.parametrize(
    ("status", "body"), [(500, b'{"code":"HANDLER_FAILED"}'), (503, b"{}"), (502, b"<html>"), (503, b"away")]
)
def test_an_error_of_ours_would_be_noticed(status: int, body: bytes) -> None:
    assert wrong(status, body)
    assert not wrong(503, b'{"code":"UNDER_REPAIR"}')
