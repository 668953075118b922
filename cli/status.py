"""`canbao status`: what runs, since when, and does it answer?"""

import argparse
import json
import sys
import time
from typing import Any

from cli.place import STACK_FOLDER, say

HELP = "show what runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """0: everything answers. 1: something does not. 3: nothing runs here."""
    return show(as_json=args.json)


def show(*, as_json: bool = False) -> int:
    """Print it; the exit code."""
    from sandbox.state import is_up, phase_of, read_state  # noqa: PLC0415 -- imported when needed: --help stays instant

    state = read_state(STACK_FOLDER)
    if state is None or not is_up(STACK_FOLDER):
        if as_json:
            sys.stdout.write('{"up":false,"processes":[]}\n')
        else:
            say("nothing runs here: ./canbao up starts it")
        return 3
    if not state.processes and not as_json:
        doing = f": {state.said[-1]}" if state.said and state.phase == "starting" else ""
        say(f"{phase_of(STACK_FOLDER)}{doing}; ./canbao logs supervisor")
        return 1
    rows = rows_of(state.processes)
    if as_json:
        sys.stdout.write(
            json.dumps({"up": True, "phase": state.phase, "supervisor": state.pid, "processes": rows}) + "\n"
        )
    else:
        _print_table(rows)
    return 0 if state.phase == "ready" and all(row["answers"] for row in rows) else 1


def rows_of(processes: list[Any]) -> list[dict[str, Any]]:
    """Each process as it is now, asked whether it answers. processes: as its supervisor wrote them down."""
    import asyncio  # noqa: PLC0415 -- as above

    from sandbox.state import answers  # noqa: PLC0415 -- as above

    async def ask() -> list[bool]:
        return await asyncio.gather(*(answers(seen.door, seen.path) for seen in processes if seen.door))

    replies = iter(asyncio.run(ask()))
    return [
        {
            "name": seen.name,
            "phase": seen.phase,
            "answers": next(replies) if seen.door else seen.phase == "running",
            "pid": seen.pid,
            "door": seen.door,
            "memory_mb": _memory(seen.pid),
            "restarts": seen.restarts,
            "left": seen.left,
            "seconds": round(time.time() - seen.since),
        }
        for seen in processes
    ]


def _memory(pid: int | None) -> int:
    """Resident, with its children, in MB. Memory that Postgres' processes share is counted once."""
    import psutil  # noqa: PLC0415 -- as above

    if pid is None:
        return 0
    try:
        process = psutil.Process(pid)
        infos = [other.memory_info() for other in (process, *process.children(True))]
        used: list[tuple[int, int]] = [(info.rss, getattr(info, "shared", 0)) for info in infos]
    except psutil.Error:
        return 0
    return round((used[0][0] + sum(rss - shared for rss, shared in used[1:])) / 1e6)


def _print_table(rows: list[dict[str, Any]]) -> None:
    lines = [("", "state", "pid", "memory", "restarts", "up", "door")]
    for row in rows:
        state = row["phase"] if row["answers"] or row["phase"] != "running" else "silent"
        lines.append(
            (
                row["name"],
                state,
                str(row["pid"] or "-"),
                f"{row['memory_mb']} MB",
                str(row["restarts"]),
                _span(row["seconds"]),
                row["door"] and f"http://{row['door']}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        sys.stdout.write(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        )
    sys.stdout.write(f"{sum(row['memory_mb'] for row in rows)} MB in all; logs: ./canbao logs NAME\n")


def _span(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
