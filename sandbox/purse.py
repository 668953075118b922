"""How do citizens pay at the provider's side door? Who pays at the same moment goes in together."""

import asyncio
from typing import Any

import aiohttp

Wish = dict[str, Any]


class Purse:
    """pay() for one; while one request is under way the others gather for the next."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http, self._url = http, url
        self._waiting: list[tuple[Wish, asyncio.Future[Wish]]] = []
        self._going: asyncio.Task[None] | None = None

    async def pay(self, wish: Wish) -> Wish:
        """The provider's word: {"transaction_id", "total"}, or {"code"}: it refuses. Raises ClientError."""
        future: asyncio.Future[Wish] = asyncio.get_running_loop().create_future()
        self._waiting.append((wish, future))
        if self._going is None or self._going.done():
            self._going = asyncio.create_task(self._go())
        return await future

    async def _go(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            try:
                async with self._http.post(self._url, json=[wish for wish, _ in taken]) as response:
                    answers = await response.json()
            except (aiohttp.ClientError, OSError, ValueError) as error:
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(taken, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
