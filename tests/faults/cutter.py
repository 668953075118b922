"""How is a connection cut between two words? A relay of bytes before Postgres that breaks off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.chassis.running import free_port

COMMIT = b"commit\x00"


class Cutter:
    """address: where members connect. swallow: replies to a COMMIT still to be lost; lost: so many."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port, self.address = host, port, f"127.0.0.1:{free_port()}"
        self.swallow = self.lost = 0
        self._open: set[asyncio.StreamWriter] = set()

    def url(self, straight: str) -> str:
        """The way through here, instead of the straight one."""
        return straight.replace(f"{self.host}:{self.port}", self.address)

    def cut_all(self) -> None:
        """Every connection breaks off now."""
        for writer in list(self._open):
            writer.transport.abort()

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        try:
            server, to_server = await asyncio.open_connection(self.host, self.port)
        except OSError:
            to_client.transport.abort()
            return
        pair = {to_client, to_server}
        self._open |= pair
        try:
            await asyncio.gather(self._asked(client, to_server, to_client), self._told(server, to_client))
        except (OSError, EOFError):
            pass
        finally:
            self._open -= pair
            for writer in pair:
                writer.transport.abort()

    async def _asked(
        self, client: asyncio.StreamReader, server: asyncio.StreamWriter, to_client: asyncio.StreamWriter
    ) -> None:
        while data := await client.read(65536):
            if self.swallow and COMMIT in data:
                self.swallow -= 1
                self.lost += 1
                to_client.transport.abort()         # the reply has nobody to go to; the COMMIT goes on
            server.write(data)
            await server.drain()
        raise EOFError

    async def _told(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await server.read(65536):
            client.write(data)
            await client.drain()
        raise EOFError


@asynccontextmanager
async def cutting(host: str, port: int) -> AsyncIterator[Cutter]:
    """The relay runs until the end of the block."""
    cutter = Cutter(host, port)
    address, own = cutter.address.split(":")
    server = await asyncio.start_server(cutter.serve, address, int(own))
    try:
        yield cutter
    finally:
        server.close()
        cutter.cut_all()
        await server.wait_closed()
