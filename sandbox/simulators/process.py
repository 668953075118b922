"""How does a simulator run?

One process, one settings file, one ready line on stdout, SIGTERM ends it cleanly.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import uvloop
from aiohttp import web
from msgspec import Struct

Form = TypeVar("Form", bound=Struct)


Serve = Callable[[Form], AbstractAsyncContextManager[dict[str, str]]]


def main(name: str, form: type[Form], serve: Serve[Form]) -> None:
    """Run one simulator until SIGTERM or SIGINT.

    serve starts it and says where it listens; that goes to stdout as {"ready": name, …} once it answers.
    """
    parser = argparse.ArgumentParser(prog=f"python -m sandbox.simulators.{name}")
    known = ", ".join(form.__struct_fields__)
    parser.add_argument("--settings", type=Path, required=True, metavar="FILE", help=f"TOML: {known}")
    path: Path = parser.parse_args().settings
    try:
        settings = msgspec.toml.decode(path.read_bytes(), type=form)
    except (OSError, msgspec.MsgspecError) as error:
        raise SystemExit(f"{path}: {error}") from None
    uvloop.run(_until_told(name, settings, serve))


async def _until_told(name: str, settings: Form, serve: Serve[Form]) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    try:
        async with serve(settings) as where:
            sys.stdout.write(json.dumps({"ready": name, **where}) + "\n")
            sys.stdout.flush()
            await told.wait()
    except (OSError, ValueError) as error:
        raise SystemExit(f"{name}: {error}") from None


@asynccontextmanager
async def listening(app: web.Application, address: str) -> AsyncIterator[str]:
    """Serve an application at host:port (port 0: any free one); gives its URL."""
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=60, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, int(port), backlog=1024, reuse_address=True).start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def json_answer(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON response of anything msgspec can write."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=headers
    )


async def book(request: web.Request, rows: list[Struct]) -> web.StreamResponse:
    """A book as NDJSON, one row a line, in the order of its writing."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    for start in range(0, len(rows), 1000):
        await response.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows[start:start + 1000]))
    await response.write_eof()
    return response
