"""How does the fuzz come through the doors? The same broken bodies over HTTP, each answered at once."""

import asyncio
from collections import Counter
from typing import Any, NamedTuple

import aiohttp
from msgspec import DecodeError
from msgspec.json import decode

from contracts.reasons import Reason
from contracts.topics import MAX_MESSAGE_BYTES
from sandbox.fuzz.due import Payload
from sandbox.fuzz.payloads import Commands
from sandbox.partner import as_http

_AT_ONCE = 4
_SECONDS = 30.0
_KEPT = {400, 401, 403, 413, 429}
_CODES = set(Reason.__members__)


class Knocks(NamedTuple):
    """statuses: how often each was heard. mistaken: what was answered that must not be, a line each."""

    statuses: Counter[int]
    mistaken: list[str]


async def knock(doors: dict[str, str], commands: Commands, count: int) -> Knocks:
    """So many payloads, each at the door of its service. doors: host:port by service."""
    numbers = iter(range(count))
    heard = Knocks(Counter(), [])
    line = aiohttp.TCPConnector(force_close=True)  # a kept one may be closed just when it is used again
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_SECONDS), connector=line) as http:

        async def one() -> None:
            for number in numbers:
                service, payload = commands.at_a_door(number)
                url = f"http://{doors[service]}/v1/commands"
                letter = payload.letter
                try:
                    async with http.post(url, data=letter.value, headers=as_http(letter)) as response:
                        status, body = response.status, await response.read()
                except aiohttp.ClientError as error:
                    status, body = 0, str(error).encode()
                heard.statuses[status] += 1
                if wrong := _wrong(payload, status, body):
                    heard.mistaken.append(f"{service}'s door, {payload.what}: {wrong}")

        await asyncio.gather(*(one() for _ in range(_AT_ONCE)))
    return heard


def _wrong(payload: Payload, status: int, body: bytes) -> str:
    """Why this answer is not the one that is due; empty: it is. Who talks on for too long is hung up on."""
    if status == 0 and len(payload.letter.value or b"") > MAX_MESSAGE_BYTES:
        return ""
    try:
        said: dict[str, Any] = decode(body)
    except DecodeError:
        return f"HTTP {status} and no JSON: {body[:100]!r}"
    refusal = said.get("refusal", said if status >= 400 else {})
    code, field = refusal.get("code", ""), refusal.get("field", "")
    due = payload.due
    match due.outcome:
        case "handled":
            right = status == 202 or (status in (200, 422) and code in due.reasons)
        case "refused":
            right = status == 422 and code in due.reasons and due.path in ("", field)
        case _:
            known = code in due.reasons or status in (413, 429)
            right = status in _KEPT and code in _CODES and known
    return "" if right else f"HTTP {status} {code} {field!r}, not {due.outcome} {due.reasons} {due.path!r}"
