"""`canbao tail TOPIC`: what is said on a topic, as JSON lines with headers; nothing is skipped."""

import argparse
import asyncio
import base64
import json
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from cli.place import NothingRuns, running_stack

HELP = "print a topic's records as JSON lines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("topic", help="for example billing.bills, channels.wechat.replies")
    parser.add_argument(
        "--from",
        dest="start",
        default="end",
        metavar="WHERE",
        help="beginning, end (default), an offset, or an ISO instant such as 2026-11-23T09:00+08:00",
    )
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="K=V",
        help="only records where it holds; K is key, a header (ce_type) or a path in the body (lines.0.fen)",
    )
    parser.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="stop after N printed records; waits until there are so many, unless --no-follow",
    )
    parser.add_argument(
        "--no-follow", action="store_true", help="stop at what was the topic's end when it started"
    )


def run(args: argparse.Namespace) -> int:
    """Print until Ctrl-C, --count or, with --no-follow, the end. 1: nothing runs. 2: the arguments make no
    sense."""
    from contracts.topics import TOPICS  # noqa: PLC0415 - imported when needed: --help stays instant

    if args.topic not in TOPICS:
        return _say(f"no such topic: {args.topic}; known: {', '.join(TOPICS)}")
    wrong = [text for text in args.filter if not text.partition("=")[0] or "=" not in text]
    if wrong:
        return _say(f"--filter {wrong[0]}: expected K=V")
    if args.count is not None and args.count < 1:
        return _say(f"--count {args.count}: expected 1 or more")
    if args.no_follow and args.start == "end":
        return _say("--no-follow: nothing stands behind the end; add --from beginning")
    start = _start(args.start)
    if start is None:
        return _say(
            f"--from {args.start}: expected beginning, end, an offset or an ISO instant with its zone"
        )
    wanted = [tuple(text.split("=", 1)) for text in args.filter]
    return asyncio.run(_tail(args, start, wanted))


def _start(text: str) -> str | int | datetime | None:
    """Where to begin, None: not understood."""
    if text in ("beginning", "end"):
        return text
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant.tzinfo else None


async def _tail(args: argparse.Namespace, start: str | int | datetime, wanted: list[tuple[str, ...]]) -> int:
    from aiokafka.errors import KafkaError  # noqa: PLC0415 - as above

    from sandbox.partner import read_topics  # noqa: PLC0415 - as above

    try:
        kafka = (await running_stack()).kafka("auditor")
        consumer = await read_topics(kafka, [args.topic], from_start=start != "end")
    except NothingRuns as nothing:
        return _say(str(nothing), 1)
    except KafkaError as error:
        return _say(f"{args.topic}: {error}")
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    tally = Tally(args, wanted)
    try:
        ends = await _place(consumer, start)
        while not stopped.is_set() and not tally.full:
            if args.no_follow and all([await consumer.position(p) >= end for p, end in ends.items()]):
                break
            for partition, records in (await consumer.getmany(timeout_ms=200)).items():
                end = ends[partition] if args.no_follow else None
                tally.take(record for record in records if end is None or record.offset < end)
            sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has gone; Python would complain at exit
        return 0
    finally:
        await consumer.stop()
    sys.stderr.write(f"{args.topic}: {tally.summary()}\n")
    return 0


class Tally:
    """Prints what is wanted and counts everything, so that the end can say that nothing was skipped."""

    def __init__(self, args: argparse.Namespace, wanted: list[tuple[str, ...]]) -> None:
        self._at_most, self._wanted = args.count, wanted
        self._read, self._printed = Counter[int](), 0

    @property
    def full(self) -> bool:
        """As many as were asked for are printed."""
        return self._at_most is not None and self._printed >= self._at_most

    def take(self, records: Iterable[Any]) -> None:
        """Count each record, print it if it is wanted. BrokenPipeError: nobody reads us any more."""
        for record in records:
            if self.full:
                return
            self._read[record.partition] += 1
            line = as_line(record)
            if all(_matches(line, key, value) for key, value in self._wanted):
                sys.stdout.write(_written(line, record.value) + "\n")
                self._printed += 1

    def summary(self) -> str:
        """How many were read and printed, and in which partitions they stand."""
        share = ", ".join(f"partition {number}: {count}" for number, count in sorted(self._read.items()))
        return f"{self._read.total()} read, {self._printed} printed ({share or 'nothing came'})"


async def _place(consumer: Any, start: str | int | datetime) -> dict[Any, int]:
    """Put the consumer where it shall begin; the ends as they are now."""
    partitions = list(consumer.assignment())
    ends: dict[Any, int] = await consumer.end_offsets(partitions)
    if isinstance(start, datetime):
        since = max(int(start.timestamp() * 1000), 0)  # the broker knows no time before 1970
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, since))
        for partition in partitions:
            consumer.seek(partition, found[partition].offset if found[partition] else ends[partition])
    elif isinstance(start, int):
        beginnings = await consumer.beginning_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, min(max(start, beginnings[partition]), ends[partition]))
    return ends


def as_line(record: Any) -> dict[str, Any]:
    """A record for people and programs: whatever its bytes are, they are shown, as base64 if they are nothing
    else.
    """
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "time": datetime.fromtimestamp(record.timestamp / 1000, UTC).isoformat(timespec="milliseconds"),
        "key": _text(record.key),
        "headers": {name: _text(value) for name, value in record.headers},
        "body": _body(record.value),
    }


def _written(line: dict[str, Any], value: bytes | None) -> str:
    """As JSON; a body that is too deep for it is shown as the text it came in."""
    try:
        return json.dumps(line, ensure_ascii=False)
    except RecursionError:
        return json.dumps({**line, "body": {"text": _text(value)}}, ensure_ascii=False)


def _no_number(text: str) -> float:
    raise ValueError(text)  # NaN and Infinity are no JSON: a line that holds them is text


def _text(data: bytes | None) -> Any:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _body(value: bytes | None) -> Any:
    try:
        return None if value is None else json.loads(value, parse_constant=_no_number)
    except (ValueError, RecursionError):
        text = _text(value)
        return text if isinstance(text, dict) else {"text": text}


def _matches(line: dict[str, Any], key: str, value: str) -> bool:
    found: Any = line["key"] if key == "key" else line["headers"].get(key)
    if found is None:
        found = line["body"]
        for part in key.split("."):
            found = _inside(found, part)
    return found is not None and (found == value or json.dumps(found) == value)


def _inside(holder: Any, part: str) -> Any:
    if isinstance(holder, dict):
        return holder.get(part)
    if isinstance(holder, list) and part.isdigit() and int(part) < len(holder):
        return holder[int(part)]
    return None


def _say(text: str, code: int = 2) -> int:
    sys.stderr.write(f"canbao tail: {text}\n")
    return code
