"""How is a connection cut between two words? Relays of bytes before Postgres and Kafka that break off."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from typing_extensions import override

from tests.chassis.running import free_port

COMMIT = b"commit\x00"
PRODUCE, METADATA, FIND_COORDINATOR = 0, 3, 10


class Proxy:
    """address: where clients connect. swallow: replies still to be lost, after the server has done what was
    asked; lost: so many. down: nobody gets through.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port, self.address = host, port, f"127.0.0.1:{free_port()}"
        self.swallow = self.lost = 0
        self.down = False
        self._open: set[StreamWriter] = set()

    def url(self, straight: str) -> str:
        """The way through here, instead of the straight one."""
        return straight.replace(f"{self.host}:{self.port}", self.address)

    def cut_all(self) -> None:
        """Every connection breaks off now."""
        for writer in list(self._open):
            writer.transport.abort()

    def shut(self) -> None:
        """Every connection breaks off, and nobody gets a new one until `down` is taken back."""
        self.down = True
        self.cut_all()

    async def serve(self, client: StreamReader, to_client: StreamWriter) -> None:
        """One connection, until either side ends it."""
        try:
            if self.down:
                raise ConnectionRefusedError
            server, to_server = await asyncio.open_connection(self.host, self.port)
        except OSError:
            to_client.transport.abort()
            return
        pair = {to_client, to_server}
        self._open |= pair
        try:
            await self._relay(client, to_client, server, to_server)
        except (OSError, EOFError, RuntimeError, asyncio.CancelledError):
            pass    # RuntimeError: uvloop's word for a connection that we have cut ourselves
        finally:
            self._open -= pair
            for writer in pair:
                writer.transport.abort()

    async def _relay(
        self, client: StreamReader, to_client: StreamWriter, server: StreamReader, to_server: StreamWriter
    ) -> None:
        """Both directions at once; EOFError, OSError: one side has ended it."""
        raise NotImplementedError

    def _lose(self, to_client: StreamWriter) -> None:
        """The reply has nobody to go to any more."""
        self.lost += 1
        to_client.transport.abort()
        raise EOFError


class PostgresProxy(Proxy):
    """Loses replies to COMMIT: the server has committed, and nobody hears of it."""

    @override
    async def _relay(
        self, client: StreamReader, to_client: StreamWriter, server: StreamReader, to_server: StreamWriter
    ) -> None:
        losing = asyncio.Event()

        async def asked() -> None:
            while data := await client.read(65536):
                if self.swallow and COMMIT in data:
                    self.swallow -= 1
                    losing.set()
                to_server.write(data)
                await to_server.drain()
            raise EOFError

        async def told() -> None:
            while data := await server.read(65536):
                if losing.is_set():
                    self._lose(to_client)
                to_client.write(data)
                await to_client.drain()
            raise EOFError

        await asyncio.gather(asked(), told())


class KafkaProxy(Proxy):
    """Loses acks of produce requests, and stands before the one broker's advertised address as well."""

    @override
    async def _relay(
        self, client: StreamReader, to_client: StreamWriter, server: StreamReader, to_server: StreamWriter
    ) -> None:
        kinds: dict[bytes, int] = {}        # of what is under way, by correlation id
        losing: set[bytes] = set()
        real, ours = _broker(f"{self.host}:{self.port}"), _broker(self.address)

        async def asked() -> None:
            while True:
                frame = await _frame(client)
                number, kind = frame[8:12], int.from_bytes(frame[4:6])
                kinds[number] = kind
                if self.swallow and kind == PRODUCE:
                    self.swallow -= 1
                    losing.add(number)
                to_server.write(frame)
                await to_server.drain()

        async def told() -> None:
            while True:
                frame = await _frame(server)
                number = frame[4:8]
                if number in losing:
                    self._lose(to_client)
                if kinds.pop(number, -1) in (METADATA, FIND_COORDINATOR):
                    frame = frame.replace(real, ours)
                to_client.write(frame)
                await to_client.drain()

        await asyncio.gather(asked(), told())


async def _frame(reader: StreamReader) -> bytes:
    """One message of Kafka's protocol, with its length before it."""
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length))


def _broker(address: str) -> bytes:
    """How an answer names a broker: its host, and after it the port in four bytes."""
    host, _, port = address.rpartition(":")
    return host.encode() + int(port).to_bytes(4)


Kind = TypeVar("Kind", bound=Proxy)


@asynccontextmanager
async def listening(proxy: Kind) -> AsyncIterator[Kind]:
    """The relay runs until the end of the block."""
    address, own = proxy.address.split(":")
    server = await asyncio.start_server(proxy.serve, address, int(own))
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut_all()
        await server.wait_closed()
