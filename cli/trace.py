"""`canbao trace ID`: one person's way through all services, from any id that belongs to it."""

import argparse
import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.place import NothingRuns, running_stack

if TYPE_CHECKING:
    from cli.timeline import Entry, Timeline

HELP = "show the timeline of a person, enrollment, bill, order, transaction or event"
_ID = re.compile(r"[\x21-\x7e]{1,100}")
_COLOURS = {"command": "cyan", "ledger": "yellow", "receipt": "yellow", "parked": "red"}
_LOOK_SECONDS = 1.0
WIDE = 200  # columns from which all of a row stands beside each other; also where nobody looks at a terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "id",
        help="of a person, enrollment, journey, bill (obligation or obligation/version), order, event,"
        " request;"
        " or a channel's transaction number",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on with what happens next, a line each, until Ctrl-C"
    )


def run(args: argparse.Namespace) -> int:
    """0: shown. 1: nobody knows the id, or nothing runs. 2: it can't be an id."""
    if not _ID.fullmatch(args.id):
        return _say(f"{args.id[:40]!r} is no id: expected 1 to 100 visible ASCII characters", 2)
    from services.console.rules import is_personal  # noqa: PLC0415 - --help stays instant

    if is_personal(args.id):
        return _say("ID numbers and phones are stored sealed and find nobody; give an id of ours", 2)
    import asyncpg  # noqa: PLC0415 - as above

    try:
        return asyncio.run(_show(args))
    except NothingRuns as nothing:
        return _say(str(nothing), 1)
    except BrokenPipeError:
        raise
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return _say(f"the database does not answer: {type(error).__name__}: {error} (./canbao status)", 2)


async def _show(args: argparse.Namespace) -> int:
    found = await _find(args.id)
    if found is None:
        return _say(f"no service knows {args.id}", 1)
    show_json(found) if args.json else show(found)
    if args.follow:
        await _follow(found, as_json=args.json)
    return 0


async def _find(id: str) -> "Timeline | None":
    from cli.timeline import find  # noqa: PLC0415 - --help stays instant

    return await find(await running_stack(), id)


async def _follow(shown: "Timeline", *, as_json: bool) -> None:
    """Until Ctrl-C: each entry that was not there before, when it is."""
    known = {(entry.kind, entry.id) for entry in shown.entries}
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    while not stopped.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await stopped.wait()
        found = await _find(shown.id)
        for entry in found.entries if found else ():
            if (entry.kind, entry.id) not in known:
                known.add((entry.kind, entry.id))
                show_json(entry) if as_json else show_line(entry)


def show_json(value: "Timeline | Entry") -> None:
    """One line of JSON."""
    from msgspec.json import encode  # noqa: PLC0415 - --help stays instant

    sys.stdout.write(encode(value).decode() + "\n")
    sys.stdout.flush()


def show_line(entry: "Entry") -> None:
    """One thing that has just happened, in one line."""
    from services.console.rules import instant  # noqa: PLC0415 - --help stays instant

    told = (instant(entry.at), entry.service, f"{entry.zh} {entry.en}", entry.details, entry.id)
    sys.stdout.write("  ".join(told) + "\n")
    sys.stdout.flush()


def show(found: "Timeline") -> None:
    """The timeline as tables on standard output."""
    from rich.console import Console  # noqa: PLC0415 - --help stays instant

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    with console.capture() as printed:  # rich would end the process when nobody reads
        for part in tables(found, wide=console.width >= WIDE):
            console.print(part)
    sys.stdout.write(printed.get())
    sys.stdout.flush()


def tables(found: "Timeline", *, wide: bool) -> list[Any]:
    """How everything stands, and what led there; to be printed by rich. Not wide: what would not fit beside
    each other stands below each other.
    """
    from rich.markup import escape  # noqa: PLC0415 - --help stays instant

    from services.console.rules import instant  # noqa: PLC0415 - --help stays instant

    names = "、".join(found.names_masked) or "?"
    journeys = ", ".join(found.journeys) or "–"
    head = f"[bold]{escape(names)}[/]  {found.kind} {escape(found.id)}  journeys {journeys}"
    now = [
        (state.service, f"{state.what}  {state.status}", escape(state.details), f"[dim]{escape(state.id)}[/]")
        for state in found.states
    ]
    way = [
        (
            instant(entry.at).removesuffix("+08:00"),
            entry.service,
            f"[{_COLOURS.get(entry.kind, 'default')}]{escape(entry.zh)} {escape(entry.en)}[/]",
            escape(entry.details),
            f"[dim]{escape(entry.id)}[/]",
        )
        for entry in found.entries
    ]
    missing = [
        f"[yellow]{topic}: the console has not read all of it yet; older facts may be missing[/]"
        for topic in found.behind
    ]
    what = ("事项 what", "内容 details", "编号 id")
    return [
        head,
        *missing,
        _table("现状 state", ("服务 service", *what), now, wide=wide),
        _table("时间线 timeline (+08:00)", ("时间 time", "服务 service", *what), way, wide=wide),
    ]


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, wide: bool) -> Any:
    """A table whose last three columns are one where it is narrow."""
    from rich.table import Table  # noqa: PLC0415 - --help stays instant

    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    before = len(columns) - 3
    for column in columns if wide else (*columns[:before], columns[before]):
        whole = column in columns[:before] or (wide and column == columns[-1])  # an id is copied whole
        table.add_column(column, no_wrap=whole, overflow="fold")
    for row in rows:
        below = "\n".join(filter(None, row[before:]))
        table.add_row(*(row if wide else (*row[:before], below)))
    return table


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"canbao trace: {text}\n")
    return code
