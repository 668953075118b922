"""How often did somebody wait for Postgres? A door before it that counts what passes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct

_HEAD = 5  # a type and a length, before each message of the server
_IDLE = b"I"  # ReadyForQuery outside of a transaction


class Passed(Struct):
    """What passed since somebody set it to nought. round_trips: a client cannot go on before its answer.

    commits: transactions that wrote something.
    """

    round_trips: int = 0
    commits: int = 0

    def forget(self) -> None:
        """Begin again."""
        self.round_trips = self.commits = 0


class _Frames:
    """The server's messages, as they come in pieces. Ends of statements and of transactions are counted."""

    def __init__(self, passed: Passed) -> None:
        self._passed, self._left, self._wrote = passed, bytearray(), False

    def take(self, piece: bytes) -> None:
        """More of them."""
        left = self._left
        left += piece
        at = 0
        while len(left) >= at + _HEAD:
            length = 1 + int.from_bytes(left[at + 1 : at + _HEAD], "big")
            if len(left) < at + length:
                break
            self._see(left[at : at + 1], bytes(left[at + _HEAD : at + length]))
            at += length
        del left[:at]

    def _see(self, kind: bytes | bytearray, body: bytes) -> None:
        if kind == b"C":
            verb = body.partition(b" ")[0].rstrip(b"\0")
            self._wrote = verb in (b"INSERT", b"UPDATE", b"DELETE", b"COPY", b"COMMIT")
        elif kind == b"Z":
            self._passed.round_trips += 1
            self._passed.commits += body == _IDLE and self._wrote
            self._wrote = False
        elif kind == b"G":  # it asks for the rows of a COPY
            self._passed.round_trips += 1


@asynccontextmanager
async def tapped(host: str, port: int, passed: Passed) -> AsyncIterator[int]:
    """A port that leads to this server, for as long as the block lasts."""
    lines: set[asyncio.Task[None]] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        for task in (
            asyncio.create_task(_pass_on(reader, far_writer)),
            asyncio.create_task(_pass_on(far_reader, writer, _Frames(passed))),
        ):
            lines.add(task)
            task.add_done_callback(lines.discard)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(lines):
            task.cancel()
        await asyncio.gather(*lines, return_exceptions=True)


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: _Frames | None = None
) -> None:
    try:
        while piece := await reader.read(1 << 16):
            if frames is not None:
                frames.take(piece)
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass  # the other end hung up in the middle
    finally:
        writer.close()
