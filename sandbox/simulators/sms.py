"""What does an SMS provider do?

Takes signed requests, sends what it takes, every time, and keeps its own book.
"""

import asyncio
import hashlib
import hmac
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import msgspec
from aiohttp import web
from msgspec import Struct

from sandbox.simulators.faults import Faults, check_faults, read_faults
from sandbox.simulators.process import book, json_answer, listening, main

# timeout: sent, never answered. answer_lost: sent, then the connection is cut. dropped: cut before anything.
# limited: 429. down: 503, nothing sent. bad_number, day_limit: refused. undelivered: taken, but the receipt
# says FAILED.
FAULTS = frozenset(
    {"timeout", "answer_lost", "dropped", "limited", "down", "bad_number", "day_limit", "undelivered"}
)
SCHEME = "ACS3-HMAC-SHA256"
_AUTHORIZATION = re.compile(
    r"ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([a-z0-9;-]+),Signature=([0-9a-f]{64})"
)
_MUST_SIGN = {
    "host",
    "x-acs-action",
    "x-acs-version",
    "x-acs-date",
    "x-acs-signature-nonce",
    "x-acs-content-sha256",
}
_HOLE = re.compile(r"\$?\{(\w+)\}")


class Settings(Struct, forbid_unknown_fields=True):
    """listen: host:port, port 0 = any. account: the file of accounts.make_sms. templates: texts by code, with
    {name} for params; empty: every code is known and the text is made of the params. day_limit: per phone
    and template. receipt_seconds: until a receipt says DELIVERED. retry_after_seconds: what a 429 asks
    for.
    """

    account: str
    listen: str = "127.0.0.1:0"
    templates: dict[str, str] = {}
    day_limit: int = 50
    receipt_seconds: float = 0.0
    retry_after_seconds: int = 1
    faults: Faults = Faults()


class Account(Struct, frozen=True):
    """The access key that both sides hold."""

    access_key: str
    secret: str
    sign_name: str


class Wish(Struct, frozen=True):
    """The body of a send."""

    phone: str
    template: str
    out_id: str
    params: dict[str, str] = {}
    sign_name: str = ""


class Sent(Struct, frozen=True):
    """One line of the book: one message that went out. at: system instant."""

    out_id: str
    biz_id: str
    phone: str
    template: str
    text: str
    at: str
    reached: bool
    receipt_at: float


class Provider:
    """All of it, in memory: a restart forgets, as no real provider does; keep it alive through a test."""

    def __init__(self, settings: Settings, account: Account) -> None:
        self.settings, self.account, self.faults = settings, account, settings.faults
        self.book: list[Sent] = []
        self._by_out_id: dict[str, list[Sent]] = {}
        self._tried: Counter[str] = Counter()
        self._today: Counter[tuple[str, str, str]] = Counter()
        self._nonces: set[str] = set()
        self._not_before: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self._born = time.time_ns() // 1_000_000

    async def send(self, request: web.Request) -> web.StreamResponse:
        """POST /send: signature, the fault of the day, the provider's own rules, then it goes out."""
        body = await request.read()
        if refusal := self._stranger(request, body):
            return json_answer({"code": refusal}, status=403)
        try:
            wish = msgspec.json.decode(body, type=Wish)
        except msgspec.MsgspecError:
            return json_answer({"code": "isv.INVALID_PARAMETERS"})
        fault = self.faults.of(wish.out_id, tried=self._tried[wish.out_id], names=(wish.phone,))
        self._tried[wish.out_id] += 1
        self.counts["asked"] += 1
        self.counts["impatient"] += time.time() < self._not_before.get(wish.out_id, 0.0)
        if fault != "ok":
            self.counts[fault] += 1
        if fault in ("limited", "down", "dropped"):
            return self._not_taken(request, wish, fault)
        if code := self._refusal(wish, fault):
            return json_answer({"code": code, "message": f"{wish.phone} {code}"})
        sent = self._go_out(wish, reached=fault != "undelivered")
        if fault == "answer_lost":
            return _cut(request)
        if fault == "timeout":
            await asyncio.sleep(60)  # longer than any customer's patience
        return json_answer({"code": "OK", "message": "OK", "biz_id": sent.biz_id})

    def _not_taken(self, request: web.Request, wish: Wish, fault: str) -> web.StreamResponse:
        if fault == "down":
            return json_answer({"code": "ServiceUnavailable"}, status=503)
        if fault == "limited":
            wait = self.settings.retry_after_seconds
            self._not_before[wish.out_id] = time.time() + wait
            return json_answer({"code": "Throttling.User"}, status=429, headers={"Retry-After": str(wait)})
        return _cut(request)

    def _refusal(self, wish: Wish, fault: str) -> str:
        if fault == "bad_number" or not re.fullmatch(r"1[3-9][0-9]{9}", wish.phone):
            return "isv.MOBILE_NUMBER_ILLEGAL"
        if self.settings.templates and wish.template not in self.settings.templates:
            return "isv.SMS_TEMPLATE_ILLEGAL"
        missing = set(_HOLE.findall(self.settings.templates.get(wish.template, ""))) - wish.params.keys()
        if missing:
            return "isv.TEMPLATE_MISSING_PARAMETERS"
        if fault == "day_limit" or self._today[_day(wish)] >= self.settings.day_limit:
            return "isv.BUSINESS_LIMIT_CONTROL"
        return ""

    def _go_out(self, wish: Wish, *, reached: bool) -> Sent:
        template = self.settings.templates.get(wish.template)
        text = f"【{self.account.sign_name}】" + (
            _HOLE.sub(lambda hole: wish.params[hole[1]], template)
            if template is not None
            else f"{wish.template} "
            + "；".join(f"{name}={value}" for name, value in sorted(wish.params.items()))
        )
        sent = Sent(
            out_id=wish.out_id,
            biz_id=f"{self._born}{len(self.book):08d}",
            phone=wish.phone,
            template=wish.template,
            text=text,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            reached=reached,
            receipt_at=time.time() + self.settings.receipt_seconds,
        )
        self.book.append(sent)
        self._by_out_id.setdefault(wish.out_id, []).append(sent)
        self._today[_day(wish)] += 1
        return sent

    async def query(self, request: web.Request) -> web.StreamResponse:
        """GET /query?out_id=: every message that went out under it, with its receipt."""
        if refusal := self._stranger(request, b""):
            return json_answer({"code": refusal}, status=403)
        self.counts["queried"] += 1
        found = self._by_out_id.get(request.query.get("out_id", ""), [])
        return json_answer({"code": "OK", "sent": [
            {"biz_id": each.biz_id, "out_id": each.out_id, "sent_at": each.at, "status": _status(each),
             "err_code": "" if each.reached else "UNDELIV"} for each in found]})

    def _stranger(self, request: web.Request, body: bytes) -> str:
        """The code of the refusal when our customer did not sign this, now and once; else empty."""
        said = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
        if said is None:
            return "MissingAuthorization"
        names, digest = said[2].split(";"), hashlib.sha256(body).hexdigest()
        if said[1] != self.account.access_key:
            return "InvalidAccessKeyId.NotFound"
        if not set(names) >= _MUST_SIGN or request.headers.get("x-acs-content-sha256") != digest:
            return "IncompleteSignature"
        lines = "".join(f"{name}:{request.headers.get(name, '').strip()}\n" for name in names)
        query = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(request.query.items()))
        canonical = "\n".join((request.method, request.path, query, lines, said[2], digest))
        text = f"{SCHEME}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        mine = hmac.new(self.account.secret.encode(), text.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(mine, said[3]):
            return "SignatureDoesNotMatch"
        try:
            signed_at = datetime.fromisoformat(request.headers["x-acs-date"].removesuffix("Z") + "+00:00")
        except ValueError:
            return "InvalidTimeStamp.Format"
        if abs(time.time() - signed_at.timestamp()) > 900:
            return "InvalidTimeStamp.Expired"
        nonce = request.headers["x-acs-signature-nonce"]
        if nonce in self._nonces:
            return "SignatureNonceUsed"
        self._nonces.add(nonce)
        return ""

    async def show_book(self, request: web.Request) -> web.StreamResponse:
        """GET /simulator/book: NDJSON of what went out, in order."""
        return await book(request, list(self.book))

    async def stats(self, _: web.Request) -> web.StreamResponse:
        """GET /simulator/stats: asked, queried, faults met; impatient: sends before a Retry-After passed."""
        return json_answer({"sent": len(self.book), **self.counts})

    async def change(self, request: web.Request) -> web.StreamResponse:
        """POST /simulator/faults: a new fault menu; named takes phones or out_ids."""
        try:
            self.faults = read_faults(await request.read(), FAULTS)
        except ValueError as error:
            return json_answer({"code": "PARAM_ERROR", "message": str(error)}, status=400)
        return json_answer({})


def _cut(request: web.Request) -> web.Response:
    """Nobody hears the answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _day(wish: Wish) -> tuple[str, str, str]:
    return wish.phone, wish.template, datetime.now(UTC).date().isoformat()


def _status(sent: Sent) -> str:
    if time.time() < sent.receipt_at:
        return "WAITING"
    return "DELIVERED" if sent.reached else "FAILED"


def read_account(path: Path) -> Account:
    """The access key from its file. OSError or msgspec.ValidationError: there is none, or it is not one."""
    return msgspec.json.decode(path.read_bytes(), type=Account)


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[dict[str, str]]:
    """Start the provider; where it listens."""
    check_faults(settings.faults, FAULTS)
    provider = Provider(settings, read_account(Path(settings.account)))
    app = web.Application()
    app.add_routes([
        web.post("/send", provider.send), web.get("/query", provider.query),
        web.get("/simulator/book", provider.show_book), web.get("/simulator/stats", provider.stats),
        web.post("/simulator/faults", provider.change),
    ])
    async with listening(app, settings.listen) as url:
        yield {"url": url}


if __name__ == "__main__":
    main("sms", Settings, serve)
