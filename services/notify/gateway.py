"""How do we reach a phone and a mailbox? Signs, calls, translates; decides nothing."""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP as CRLF
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import aiosmtplib
import msgspec
from msgspec import Struct

from contracts.enrollment import Contact
from services.chassis.calls import NotSent, Unknown
from services.chassis.keys import Keyring
from services.notify.rules import MailTaken, SendMail, SendRefused, SendSms, SmsTaken

SmsOutcome = SmsTaken | SendRefused

SCHEME = "ACS3-HMAC-SHA256"
NOT_TODAY = frozenset({"isv.BUSINESS_LIMIT_CONTROL", "isv.DAY_LIMIT_CONTROL"})
OURS_TO_MEND = frozenset(
    {"isv.AMOUNT_NOT_ENOUGH", "isv.OUT_OF_SERVICE", "isp.SYSTEM_ERROR", "isv.ACCOUNT_ABNORMAL"}
)
MEND_SECONDS = 60.0            # nothing was sent and only people can mend it: our keys, our credit
_ADDRESS = re.compile(r"[!-?A-~]{1,64}@[A-Za-z0-9.-]{1,190}")
_PHONE = re.compile(r"1[3-9][0-9]{9}")

Form = TypeVar("Form", bound=Struct)


class SmsAccount(Struct, frozen=True, kw_only=True):
    """Who we are to the SMS provider. sign_name: what stands in 【】 before every text."""

    access_key: str
    secret: str
    sign_name: str


def read_sms_account(path: Path) -> SmsAccount:
    """The account from its file. OSError or msgspec.ValidationError: there is none, or it is not one."""
    return msgspec.json.decode(path.read_bytes(), type=SmsAccount)


class _Answer(Struct, frozen=True):
    code: str
    message: str = ""
    biz_id: str = ""


class _Sent(Struct, frozen=True):
    biz_id: str


class _Found(Struct, frozen=True):
    code: str
    sent: list[_Sent] = []


class _Doubts:
    """Which notifications may be out already, as far as this process knows.

    An earlier attempt is in doubt unless this process saw that it surely was not sent.
    """

    def __init__(self) -> None:
        self._not_sent: set[str] = set()
        self._may_be_out: set[str] = set()

    def asked_in_vain(self, notification_id: str) -> None:
        """There was an earlier attempt, and the provider does not say that it has it."""
        if notification_id not in self._not_sent:
            self._may_be_out.add(notification_id)

    @contextmanager
    def sending(self, notification_id: str) -> Iterator[bool]:
        """One attempt; whether an earlier one may be out."""
        self._not_sent.discard(notification_id)
        try:
            yield notification_id in self._may_be_out
        except NotSent:
            if notification_id not in self._may_be_out:
                self._not_sent.add(notification_id)
            raise
        self._may_be_out.discard(notification_id)


class Sms:
    """An SMS provider over signed HTTP (Aliyun's ACS3-HMAC-SHA256). Use as `async with`; one a process.

    Sending the same out_id twice sends two messages: after Unknown, ask. The provider's book may lag by
    seconds, so the first question should wait a while. The phone number is clear only inside one call.
    """

    def __init__(
        self,
        account: SmsAccount,
        *,
        url: str,
        keys: Keyring,
        timeout_seconds: float = 5.0,
        connections: int = 32,
        clock: Callable[[], float] = time.time,  # noqa: TID251  signatures are by the system clock
    ) -> None:
        self.account, self.url, self._keys, self._clock = account, url.rstrip("/"), keys, clock
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=timeout_seconds / 2)
        self._connections, self._doubts = connections, _Doubts()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self.url, timeout=self._timeout, connector=aiohttp.TCPConnector(limit=self._connections))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, request: SendSms) -> SmsOutcome:
        """Send one SMS. Raises NotSent (a 429 says after how long) or Unknown."""
        phone = self._keys.open(request.contact, Contact, place=request.person_id).phone
        if not _PHONE.fullmatch(phone):
            return _refused(request, "SMS", "NO_PHONE", "", final=True)
        body = msgspec.json.encode(
            {
                "phone": phone,
                "sign_name": self.account.sign_name,
                "template": request.template,
                "params": request.params,
                "out_id": request.notification_id,
            }
        )
        with self._doubts.sending(request.notification_id) as doubtful:
            answer = _read(await self._call("SendSms", "POST", "/send", {}, body), _Answer)
            if answer.code in OURS_TO_MEND:
                raise NotSent(answer.code, after_seconds=MEND_SECONDS)
        if answer.code == "OK":
            return SmsTaken(**_names(request), provider_ref=answer.biz_id, doubtful=doubtful)
        return _refused(request, "SMS", answer.code, answer.message, final=answer.code not in NOT_TODAY)

    async def ask(self, request: SendSms) -> SmsTaken | None:
        """Did the provider take an SMS whose sending ended unknown? None: it does not know it."""
        sent = await self._sent(request.notification_id)
        if sent:
            return SmsTaken(**_names(request), provider_ref=sent[0].biz_id, doubtful=True)
        self._doubts.asked_in_vain(request.notification_id)
        return None

    async def _sent(self, out_id: str) -> list[_Sent]:
        found = _read(await self._call("QuerySendDetails", "GET", "/query", {"out_id": out_id}, b""), _Found)
        if found.code != "OK":
            raise Unknown(f"query: {found.code}")
        return found.sent

    async def _call(
        self, action: str, method: str, path: str, query: Mapping[str, str], body: bytes
    ) -> bytes:
        text = "&".join(
            f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in sorted(query.items())
        )
        headers = self._signed(action, method, path, text, body)
        async with _outcomes(), self._session.request(
            method, path, params=text or None, data=body or None, headers=headers, allow_redirects=False
        ) as response:
            answer = await response.read()
        if response.status == 429:
            wait = response.headers.get("Retry-After", "")
            raise NotSent("asked for patience", after_seconds=float(wait) if wait.isdecimal() else 1.0)
        if response.status >= 500:
            raise Unknown(f"{action}: {response.status}")
        if response.status != 200:
            raise NotSent(f"{action}: {response.status}", after_seconds=MEND_SECONDS)
        return answer

    def _signed(self, action: str, method: str, path: str, query: str, body: bytes) -> dict[str, str]:
        """The headers of one request; the last signs the others, the address and the body's digest."""
        digest = hashlib.sha256(body).hexdigest()
        headers = {
            "content-type": "application/json; charset=utf-8",
            "host": urlsplit(self.url).netloc,
            "x-acs-action": action,
            "x-acs-content-sha256": digest,
            "x-acs-signature-nonce": secrets.token_hex(16),
            "x-acs-version": "2017-05-25",
            "x-acs-date": datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        canonical = "\n".join((method, path, query, lines, names, digest))
        text = f"{SCHEME}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.new(self.account.secret.encode(), text.encode(), hashlib.sha256).hexdigest()
        credential = f"Credential={self.account.access_key},SignedHeaders={names},Signature={signature}"
        return headers | {"Authorization": f"{SCHEME} {credential}"}


class Mail:
    """A mail server over SMTP, on a few connections that stay open. Use as `async with`; one a process."""

    def __init__(
        self,
        *,
        server: str,
        sender: str,
        keys: Keyring,
        domain: str = "canbao.example",
        timeout_seconds: float = 10.0,
        connections: int = 4,
    ) -> None:
        self._host, _, port = server.rpartition(":")
        self._port, self._sender, self._keys, self._domain = int(port), sender, keys, domain
        self._timeout, self._connections, self._doubts = timeout_seconds, connections, _Doubts()

    async def __aenter__(self) -> Self:
        self._free: asyncio.LifoQueue[aiosmtplib.SMTP] = asyncio.LifoQueue()
        for _ in range(self._connections):
            self._free.put_nowait(aiosmtplib.SMTP(
                hostname=self._host, port=self._port, timeout=self._timeout, start_tls=None,
                local_hostname=self._domain,
            ))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while not self._free.empty():
            self._free.get_nowait().close()

    async def send(self, request: SendMail) -> MailTaken | SendRefused:
        """Hand one mail to the server. Raises NotSent or Unknown."""
        to = self._keys.open(request.contact, Contact, place=request.person_id).email
        if not _ADDRESS.fullmatch(to):
            return _refused(request, "EMAIL", "NO_ADDRESS", "", final=True)
        letter = self._letter(request, to)
        with self._doubts.sending(request.notification_id) as doubtful:
            reply = await self._offer(to, letter)
        if isinstance(reply, str):
            return MailTaken(**_names(request), provider_ref=reply, doubtful=doubtful)
        return _refused(request, "EMAIL", str(reply.code), reply.message, final=True)

    async def _offer(self, to: str, letter: bytes) -> str | aiosmtplib.SMTPResponseException:
        """The server's last reply, or why it will never take this mail."""
        line = await self._free.get()
        try:
            return await self._hand_over(line, to, letter)
        except aiosmtplib.SMTPResponseException as error:
            line.close()                # the next mail starts from a clean session
            about_this_mail = isinstance(error, aiosmtplib.SMTPRecipientRefused | aiosmtplib.SMTPDataError)
            if error.code < 500 or not about_this_mail:  # busy, or it does not like *us*: no mailbox's fault
                raise NotSent(f"smtp {error.code}", after_seconds=MEND_SECONDS) from error
            return error
        except BaseException:
            line.close()
            raise
        finally:
            self._free.put_nowait(line)

    async def ask(self, request: SendMail) -> None:
        """SMTP can't be asked. None: send again; it carries the same Message-ID, and mailboxes show one."""
        self._doubts.asked_in_vain(request.notification_id)

    async def _hand_over(self, line: aiosmtplib.SMTP, to: str, letter: bytes) -> str:
        try:
            if not line.is_connected:
                await line.connect()
            await line.mail(self._sender)
            await line.rcpt(to)
        except aiosmtplib.SMTPResponseException:
            raise
        except (
            aiosmtplib.SMTPException,
            OSError,
        ) as error:  # also a kept connection that the server had closed
            raise NotSent(type(error).__name__) from error
        try:
            return (await line.data(letter)).message
        except aiosmtplib.SMTPResponseException:
            raise
        except (aiosmtplib.SMTPException, OSError) as error:
            raise Unknown(type(error).__name__) from error

    def _letter(self, request: SendMail, to: str) -> bytes:
        letter = EmailMessage(policy=CRLF)
        letter["From"], letter["To"], letter["Subject"] = self._sender, to, " ".join(request.subject.split())
        letter["Date"], letter["Message-ID"] = formatdate(), f"<{request.notification_id}@{self._domain}>"
        letter["Auto-Submitted"] = "auto-generated"
        letter.set_content(request.text, charset="utf-8", cte="base64")
        return letter.as_bytes()


@asynccontextmanager
async def _outcomes() -> AsyncIterator[None]:
    """What the network did, in the two words the chassis knows. No connection: surely not sent.

    Else we can't tell.
    """
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise NotSent(type(error).__name__) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unknown(type(error).__name__) from error


def _names(request: SendSms | SendMail) -> dict[str, Any]:
    return {"notification_id": request.notification_id, "person_id": request.person_id}


def _refused(request: SendSms | SendMail, road: str, code: str, detail: str, *, final: bool) -> SendRefused:
    return SendRefused(**_names(request), road=road, code=code, detail=_without_address(detail), final=final)


def _without_address(detail: str) -> str:
    """A provider's words may repeat the number or the mailbox; neither may stand in a log or a row."""
    return re.sub(r"\S*@\S*|[0-9]{7,}", "…", detail)[:200]


def _read(answer: bytes, form: type[Form]) -> Form:
    try:
        return msgspec.json.decode(answer, type=form)
    except msgspec.MsgspecError as error:
        raise Unknown(f"the provider's answer is no {form.__name__}") from error
