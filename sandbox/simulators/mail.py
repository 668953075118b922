"""What does a mail server do? Takes mail over SMTP and keeps it in a book instead of a mailbox."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import cast

from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session
from msgspec import Struct

from sandbox.simulators.faults import Faults, check_faults, read_faults
from sandbox.simulators.process import book, json_answer, listening, main

# timeout: taken, never answered. dropped: taken, then the connection is cut. limited: 451, not taken.
# bad_address: 550 at RCPT. refused: 554 after DATA. no_relay: 550 at MAIL, by the sender's address.
FAULTS = frozenset({"no_relay", "timeout", "dropped", "limited", "bad_address", "refused"})


class Settings(Struct, forbid_unknown_fields=True):
    """listen: host:port of SMTP, port 0 = any. http: of the book.

    faults: named takes mail addresses or Message-IDs.
    """

    listen: str = "127.0.0.1:0"
    http: str = "127.0.0.1:0"
    faults: Faults = Faults()


class Taken(Struct, frozen=True):
    """One line of the book. message_id: without the angle brackets. at: system instant."""

    message_id: str
    sender: str
    to: str
    subject: str
    text: str
    at: str


class Server:
    """The handler that aiosmtpd calls, by the names it expects."""

    def __init__(self, settings: Settings) -> None:
        self.faults = settings.faults
        self.book: list[Taken] = []
        self._tried: Counter[str] = Counter()

    async def handle_MAIL(  # noqa: N802  aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """A sender is named."""
        if self.faults.of(address) == "no_relay":
            return "550 5.7.1 relaying denied"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802  aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """A recipient is named."""
        if self.faults.of(address, tried=self._tried[address]) == "bad_address":
            self._tried[address] += 1
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  as above
        """A mail is complete."""
        content = envelope.content or b""
        mail = message_from_bytes(content if isinstance(content, bytes) else content.encode(), policy=default)
        assert isinstance(mail, EmailMessage)
        message_id, to = str(mail["Message-ID"] or "").strip("<> "), ",".join(envelope.rcpt_tos)
        fault = self.faults.of(message_id, tried=self._tried[message_id], names=tuple(envelope.rcpt_tos))
        self._tried[message_id] += 1
        if fault == "limited":
            return "451 4.7.1 try again later"
        if fault == "refused":
            return "554 5.7.1 message refused"
        text = mail.get_body(("plain",))
        self.book.append(
            Taken(
                message_id=message_id,
                sender=envelope.mail_from or "",
                to=to,
                subject=str(mail["Subject"] or ""),
                text=text.get_content().replace("\r\n", "\n") if text else "",
                at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            )
        )
        if fault == "timeout":
            await asyncio.sleep(60)  # longer than any customer's patience
        if fault == "dropped":
            cast("asyncio.Transport", server.transport).abort()  # uvloop's is one in all but name
        return f"250 2.0.0 queued as {len(self.book):08d}"

    async def show_book(self, request: web.Request) -> web.StreamResponse:
        """GET /simulator/book: NDJSON of the mails taken, in order."""
        return await book(request, list(self.book))

    async def stats(self, _: web.Request) -> web.StreamResponse:
        """GET /simulator/stats: how many it took."""
        return json_answer({"sent": len(self.book)})

    async def change(self, request: web.Request) -> web.StreamResponse:
        """POST /simulator/faults: a new fault menu."""
        try:
            self.faults = read_faults(await request.read(), FAULTS)
        except ValueError as error:
            return json_answer({"code": "PARAM_ERROR", "message": str(error)}, status=400)
        return json_answer({})


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[dict[str, str]]:
    """Start the server; where SMTP and the book listen."""
    check_faults(settings.faults, FAULTS)
    server = Server(settings)
    app = web.Application()
    app.add_routes([web.get("/simulator/book", server.show_book), web.get("/simulator/stats", server.stats),
                    web.post("/simulator/faults", server.change)])
    host, _, port = settings.listen.rpartition(":")
    listener = await asyncio.get_running_loop().create_server(
        lambda: SMTP(server, hostname="mail.example", enable_SMTPUTF8=True, data_size_limit=1 << 20),
        host,
        int(port),
    )
    where = f"{host}:{listener.sockets[0].getsockname()[1]}"
    async with listener, listening(app, settings.http) as url:
        yield {"smtp": where, "url": url}


if __name__ == "__main__":
    main("mail", Settings, serve)
