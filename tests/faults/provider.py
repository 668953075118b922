"""What did the outside see? A provider that keeps a book of all sends and questions, and has bad moments."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.chassis.running import free_port


class Provider:
    """accepted: sends taken, by number. blind: those taken once more although nobody had asked before.

    cut, refused: the shares of sends whose answer is lost, and that are turned away unread. silent: it takes
    what is sent and says nothing.
    """

    def __init__(self, seed: int = 1, cut: float = 0.0, refused: float = 0.0) -> None:
        self.accepted: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.blind: list[str] = []
        self.address = f"127.0.0.1:{free_port()}"
        self.silent = False
        self.cut, self.refused, self._chance = cut, refused, random.Random(seed)

    async def send(self, request: web.Request) -> web.Response:
        number = request.match_info["number"]
        if self._chance.random() < self.refused:
            return web.Response(status=429)
        if self.accepted[number] and not self.asked[number]:
            self.blind.append(number)
        self.accepted[number] += 1
        while self.silent:
            await asyncio.sleep(0.02)
        if self._chance.random() < self.cut and request.transport is not None:
            request.transport.abort()
        return web.Response(status=200)

    async def ask(self, request: web.Request) -> web.Response:
        number = request.match_info["number"]
        self.asked[number] += 1
        return web.Response(status=200 if self.accepted[number] else 404)


@asynccontextmanager
async def providing(provider: Provider) -> AsyncIterator[Provider]:
    """The provider answers until the end of the block."""
    app = web.Application()
    app.router.add_post("/send/{number}", provider.send)
    app.router.add_post("/ask/{number}", provider.ask)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, port = provider.address.split(":")
    await web.TCPSite(runner, host, int(port)).start()
    try:
        yield provider
    finally:
        await runner.cleanup()
