"""`canbao trace ID`: one person's way through all services, from any id that belongs to it."""

import argparse
import asyncio
import re
import sys
from typing import TYPE_CHECKING, Any

from cli.place import NothingRuns, running_stack

if TYPE_CHECKING:
    from cli.timeline import Timeline

HELP = "show the timeline of a person, enrollment, bill, order, transaction or event"
_ID = re.compile(r"[\x21-\x7e]{1,100}")
_PERSONAL = re.compile(r"\d{17}[\dXx]|1\d{10}")  # an ID number, a phone: those find nobody here
_COLOURS = {"command": "cyan", "ledger": "yellow", "receipt": "yellow", "parked": "red"}
NARROWEST = 150  # columns, where nobody looks at a terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "id",
        help="of a person, enrollment, journey, bill (obligation or obligation/version), order, event,"
        " request;"
        " or a channel's transaction number",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """0: shown. 1: nobody knows the id, or nothing runs. 2: it can't be an id."""
    if not _ID.fullmatch(args.id):
        return _say(f"{args.id[:40]!r} is no id: expected 1 to 100 visible ASCII characters", 2)
    if _PERSONAL.fullmatch(args.id):
        return _say("ID numbers and phones are stored sealed and find nobody; give an id of ours", 2)
    import asyncpg  # noqa: PLC0415 - --help stays instant


    try:
        found = asyncio.run(_find(args.id))
    except NothingRuns as nothing:
        return _say(str(nothing), 1)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return _say(f"the database does not answer: {type(error).__name__}: {error} (./canbao status)", 2)
    if found is None:
        return _say(f"no service knows {args.id}", 1)
    if args.json:
        from msgspec.json import encode  # noqa: PLC0415 - --help stays instant

        sys.stdout.write(encode(found).decode() + "\n")
    else:
        show(found)
    return 0


async def _find(id: str) -> "Timeline | None":
    from cli.timeline import find  # noqa: PLC0415 - --help stays instant

    return await find(await running_stack(), id)


def show(found: "Timeline") -> None:
    """The timeline as tables on standard output."""
    from rich.console import Console  # noqa: PLC0415 - --help stays instant

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    for part in tables(found):
        console.print(part)


def tables(found: "Timeline") -> list[Any]:
    """How everything stands, and what led there; to be printed by rich."""
    from rich.markup import escape  # noqa: PLC0415 - --help stays instant
    from rich.table import Table  # noqa: PLC0415 - --help stays instant

    from services.console.rules import instant  # noqa: PLC0415 - --help stays instant

    names = "、".join(found.names_masked) or "?"
    journeys = ", ".join(found.journeys) or "–"
    head = f"[bold]{escape(names)}[/]  {found.kind} {escape(found.id)}  journeys {journeys}"
    now = Table(title="现状 state", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("服务", "对象", "状态", "内容", "编号"):
        now.add_column(column, no_wrap=column != "内容")
    for state in found.states:
        now.add_row(
            state.service, state.what, state.status, escape(state.details), f"[dim]{escape(state.id)}[/]"
        )
    way = Table(title="时间线 timeline (+08:00)", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("时间", "服务", "事项", "内容", "编号"):
        way.add_column(column, no_wrap=column in ("时间", "服务"), overflow="fold")
    for entry in found.entries:
        colour = _COLOURS.get(entry.kind, "default")
        way.add_row(
            instant(entry.at).removesuffix("+08:00"),
            entry.service,
            f"[{colour}]{escape(entry.zh)} {escape(entry.en)}[/]",
            escape(entry.details),
            f"[dim]{escape(entry.id)}[/]",
        )
    return [head, now, way]


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"canbao trace: {text}\n")
    return code
