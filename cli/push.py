"""`canbao push CHANNEL [FILE|-]`: says commands as a channel, signed, and prints each answer."""

import argparse
import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.place import STACK_FOLDER, NothingRuns, running_stack

if TYPE_CHECKING:
    from sandbox.stack import Stack

HELP = "send commands as a channel and print the answers"
_LOOK_SECONDS = 0.02    # answers and parkings come by two roads: whichever is first
_MOST_BYTES = 256_000_000
TAMPERINGS = ("body", "signature", "key", "type", "id", "unsigned")
_FORGERIES = {
    "body": "changed body",
    "signature": "flipped signature",
    "key": "changed key",
    "type": "changed type",
    "id": "changed id",
    "unsigned": "unsigned",
}


class Wish(NamedTuple):
    """One line of the input, ready to be sealed and signed."""

    type: str
    key: str
    request_id: str
    body: dict[str, Any]


class Misread(ValueError):
    """A line of the input makes no sense; the text says which and why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("channel", help="wechat, alipay, bank, counter, 990100 (the agency) or operators")
    parser.add_argument(
        "file",
        nargs="?",
        default="-",
        metavar="FILE",
        help='NDJSON of {"type", "body", "key"?, "request_id"?}; - or nothing: standard input',
    )
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="send each command N times under its request id"
    )
    parser.add_argument(
        "--delay", type=float, default=0.0, metavar="SECONDS", help="pause between two commands"
    )
    parser.add_argument(
        "--tamper", choices=TAMPERINGS, help="change this after signing: it must be parked, not answered"
    )
    parser.add_argument(
        "--wait", type=float, default=20.0, metavar="SECONDS", help="how long to wait for an answer (20)"
    )


def run(args: argparse.Namespace) -> int:
    """0: every command was answered (a refusal is an answer), every tampered one was not. 1: otherwise,
    or nothing runs. 2: the input makes no sense.
    """
    from contracts.partners import PARTNERS  # noqa: PLC0415 - imported when needed: --help stays instant
    from contracts.topics import OPERATED  # noqa: PLC0415 - as above

    if args.channel not in PARTNERS:
        return _say(f"no such channel: {args.channel}; known: {', '.join(PARTNERS)}")
    if args.repeat < 1 or not 0 <= args.delay < math.inf or not 0 < args.wait < math.inf:
        return _say("--repeat must be at least 1, --delay at least 0, --wait more than 0")
    try:
        text = _read(args.file)
        wishes = [read_wish(line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    except UnicodeDecodeError as error:
        return _say(f"{args.file}: not UTF-8: {error.reason} at byte {error.start}")
    except Misread as wrong:
        return _say(str(wrong))
    if not wishes:
        return _say("no command to send: expected a JSON object a line")
    if stray := next((wish for wish in wishes if not _is_for_somebody(wish)), None):
        service, known = stray.body["service"], ", ".join(OPERATED)
        return _say(f"{stray.request_id}: no such service: {service!r}; known: {known}; nothing was sent")
    return asyncio.run(_push(args, wishes))


def _read(file: str) -> str:
    """The whole input. OSError, UnicodeDecodeError: it can't be read. Misread: it never ends."""
    if file == "-" and sys.stdin is None:
        return ""
    with Path(file).open("rb") if file != "-" else sys.stdin.buffer as source:
        data = source.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise Misread(f"more than {_MOST_BYTES // 1_000_000} MB: send it in parts")
    return data.decode()


def read_wish(line: str, number: int) -> Wish:
    """One line of NDJSON. The request id may stand beside the body or in it; missing in both, one is made.
    Raises Misread.
    """
    from contracts.message import CONTRACTS  # noqa: PLC0415 - as above
    from services.chassis.ids import uuid7  # noqa: PLC0415 - as above

    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Misread(f"line {number}: not JSON: {error}") from None
    if (
        not isinstance(given, dict)
        or not isinstance(given.get("type"), str)
        or not isinstance(given.get("body"), dict)
    ):
        raise Misread(f'line {number}: expected {{"type": "enrollment.register_account.v1", "body": {{…}}}}')
    if strange := given.keys() - {"type", "body", "key", "request_id"}:
        raise Misread(f"line {number}: unknown field {', '.join(sorted(strange))}")
    contract = CONTRACTS.get(given["type"])
    if contract is None or contract.kind != "command":
        commands = ", ".join(name for name, known in CONTRACTS.items() if known.kind == "command")
        raise Misread(f"line {number}: no such command: {given['type']}; known: {commands}")
    request_id = given.get("request_id") or given["body"].get("request_id") or f"push-{uuid7()}"
    body = {**given["body"], "request_id": request_id}
    return Wish(given["type"], str(given.get("key") or body.get(contract.key, "")), str(request_id), body)


def _is_for_somebody(wish: Wish) -> bool:
    """An order that names a service which does not exist is skipped by all: nobody would answer."""
    from contracts.message import CONTRACTS  # noqa: PLC0415 - as above
    from contracts.topics import OPERATED  # noqa: PLC0415 - as above

    return CONTRACTS[wish.type].owner != "any" or wish.body.get("service", "") in ("", *OPERATED)


async def _push(args: argparse.Namespace, wishes: list[Wish]) -> int:
    from aiokafka.errors import KafkaError  # noqa: PLC0415 - as above

    from sandbox.partner import Partner  # noqa: PLC0415 - as above
    from services.chassis.keys import load_keyring  # noqa: PLC0415 - as above

    try:
        stack = await running_stack()
        keys = load_keyring(STACK_FOLDER / "keys" / f"{args.channel}.json")
        partner = Partner(args.channel, stack.kafka(args.channel), keys, await _business_clock(stack))
        await partner.start()
    except NothingRuns as nothing:
        return _say(str(nothing), 1)
    except (KafkaError, OSError) as error:
        return _say(str(error))
    unexpected = 0
    try:
        async with Parkings.heard(stack) as parkings:
            for number, wish in enumerate(wishes):
                if number and args.delay:
                    await asyncio.sleep(args.delay)     # asked for: --delay
                unexpected += await _say_once(partner, parkings, wish, args) == bool(args.tamper)
    except (KafkaError, ValueError) as error:
        return _say(str(error))
    finally:
        await partner.stop()
    return 1 if unexpected else 0


class Parkings:
    """What services say that they have parked since we began to listen, by where the record stands."""

    def __init__(self) -> None:
        self.by_source: dict[str, dict[str, Any]] = {}

    @classmethod
    @asynccontextmanager
    async def heard(cls, stack: "Stack") -> "AsyncIterator[Parkings]":
        """Listening for as long as the block lasts; every service, since a forged type may be anybody's."""
        from contracts.operations import OPERATIONS  # noqa: PLC0415 - as above
        from contracts.topics import OPERATED  # noqa: PLC0415 - as above
        from sandbox.partner import read_topics  # noqa: PLC0415 - as above

        parkings = cls()
        topics = [OPERATIONS.format(service=service) for service in OPERATED]
        consumer = await read_topics(stack.kafka("auditor"), topics, from_start=False)
        listening = asyncio.create_task(parkings._listen(consumer))
        try:
            yield parkings
        finally:
            listening.cancel()
            await consumer.stop()

    async def _listen(self, consumer: Any) -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                for record in records:
                    body = json.loads(record.value)
                    if "parked_id" in body and "source" in body:
                        self.by_source[body["source"]] = body


async def _business_clock(stack: "Stack") -> Callable[[], datetime]:
    """The sandbox's business clock, as enrollment keeps it."""
    import asyncpg  # noqa: PLC0415 - as above

    conn = await asyncpg.connect(stack.database_url("auditor"), ssl="disable")
    try:
        skew: timedelta = await conn.fetchval("select skew from enrollment.clock")
    finally:
        await conn.close()
    return lambda: datetime.now(UTC) + skew


async def _say_once(partner: Any, parkings: Parkings, wish: Wish, args: argparse.Namespace) -> bool:
    """Send one wish as often as asked for, print what each came to; False: no answer to any."""
    from msgspec.json import encode  # noqa: PLC0415 - as above

    answers: list[Any] = []
    partner.answers[wish.request_id] = answers
    letters = []
    for _ in range(args.repeat):
        body = encode(_sealed(wish, partner.who.code, partner.keys))
        letters.append(
            _tampered(partner, wish, body, args.tamper)
            if args.tamper
            else partner.signed(wish.type, wish.key, body)
        )
    sent = list(map(str, await asyncio.gather(*map(partner.post, letters))))
    end, shown = time.monotonic() + args.wait, 0
    while shown < len(sent) and time.monotonic() < end:
        for answer in answers[shown:]:
            _print({"sent": sent, **json.loads(encode(answer))})
        shown = len(answers)
        if sum(place in parkings.by_source for place in sent) + shown >= len(sent):
            break
        await asyncio.sleep(_LOOK_SECONDS)
    parked = [parkings.by_source[place] for place in sent if place in parkings.by_source]
    for parking in parked:
        _print({"outcome": "PARKED", "request_id": wish.request_id, "command": wish.type, **parking})
    if shown + len(parked) < len(sent):
        _print(_silence(wish, sent, missing=len(sent) - shown - len(parked)))
    return bool(answers)


def _silence(wish: Wish, sent: list[str], *, missing: int) -> dict[str, Any]:
    """missing: how many of those that were sent came to nothing."""
    from contracts.message import CONTRACTS  # noqa: PLC0415 - as above
    from contracts.operations import OPERATIONS  # noqa: PLC0415 - as above

    owner = CONTRACTS[wish.type].owner
    topic = OPERATIONS.format(service=wish.body.get("service", owner) if owner == "any" else owner)
    return {
        "sent": sent,
        "outcome": "NO_ANSWER",
        "request_id": wish.request_id,
        "command": wish.type,
        "missing": missing,
        "todo": f"was it parked? ./canbao tail {topic} --from beginning --no-follow",
    }


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _sealed(wish: Wish, partner: str, keys: Any) -> dict[str, Any]:
    """The body with what was given in clear sealed, as a channel's own software does before anything leaves
    it.
    """
    from msgspec import ValidationError, convert, to_builtins  # noqa: PLC0415 - as above

    from contracts.enrollment import Identity, Registration  # noqa: PLC0415 - as above

    body = dict(wish.body)
    for field, kind, reader, place in (
        ("registration", Registration, "enrollment", wish.request_id),
        ("payer_saw", Identity, "payment", str(body.get("channel_ref", ""))),
    ):
        clear = body.get(field)
        if isinstance(clear, dict) and "box" not in clear:
            try:
                body[field] = to_builtins(keys.seal(convert(clear, kind), reader=reader, place=place))
            except KeyError:  # keys are given out as rights are
                raise ValueError(f"{wish.request_id}: {partner} may not send {wish.type}") from None
            except ValidationError as error:
                raise ValueError(f"{wish.request_id}: {field} can't be sealed: {error}") from None
    return body


def _tampered(partner: Any, wish: Wish, body: bytes, what: str) -> Any:
    from sandbox.forger import forge  # noqa: PLC0415 - as above

    return forge(_FORGERIES[what], partner, partner, type_name=wish.type, key=wish.key, body=body)


def _say(text: str, code: int = 2) -> int:
    sys.stderr.write(f"canbao push: {text}\n")
    return code
