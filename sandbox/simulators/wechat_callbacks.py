"""When does the provider call back? At once, then at the real schedule, until 200 or 204."""

import asyncio
from typing import Protocol

import aiohttp
import msgspec
from aiohttp import web

from sandbox.simulators.wechat_signing import Keys

# Pauses before the repeats of one callback, seconds: 15 tries over 24 h 4 min, as documented.
REPEATS = (15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600)
PATIENCE_SECONDS = 5.0


class Told(Protocol):
    """What the book notes about a callback."""

    transaction_id: str
    paid_at: str
    callbacks: int
    answered: bool


class Courier:
    """Sends callbacks and repeats them.

    A repeat is the same notice, sealed and signed anew, as the real one does.
    """

    def __init__(self, keys: Keys, *, speed: float, connections: int) -> None:
        self._keys, self._speed, self._connections = keys, speed, connections
        self._under_way: set[asyncio.Task[None]] = set()
        self._counts = {"callbacks": 0, "answered": 0, "refused": 0, "unreachable": 0, "given_up": 0}
        self._urgent: asyncio.Semaphore

    async def start(self, _: web.Application) -> None:
        """Called once, on the loop that will send."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS), connector=aiohttp.TCPConnector(limit=0),
            headers={"Content-Type": "application/json", "User-Agent": "Mozilla/4.0", "Accept": "*/*"},
        )
        self._urgent = asyncio.Semaphore(
            self._connections
        )  # so that waiting for a turn is not the merchant's time

    async def stop(self, _: web.Application) -> None:
        """Called once: what is not delivered yet is lost with the process."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._session.close()

    def counts(self) -> dict[str, int]:
        """Callbacks sent and what came of them; pending: tasks that still send, wait or will repeat."""
        return {**self._counts, "pending": len(self._under_way)}

    def send(self, url: str, clear: bytes, told: Told, *, delay: float, copies: int) -> None:
        """Deliver a paid order, `copies` times side by side, after `delay` seconds."""
        for _ in range(copies):
            task = asyncio.get_running_loop().create_task(self._deliver(url, clear, told, delay))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _deliver(self, url: str, clear: bytes, told: Told, delay: float) -> None:
        if delay:
            await asyncio.sleep(delay)  # the payer asked for it
        for pause in (*REPEATS, None):
            if await self._try(url, clear, told):
                told.answered = True
                return
            if pause is not None:
                await asyncio.sleep(pause / self._speed)  # the documented schedule
        self._counts["given_up"] += 1

    async def _try(self, url: str, clear: bytes, told: Told) -> bool:
        async with self._urgent:
            body, headers = self._letter(clear, told)
            told.callbacks += 1
            self._counts["callbacks"] += 1
            try:
                async with self._session.post(
                    url, data=body, headers=headers, allow_redirects=False
                ) as response:
                    taken = response.status in (200, 204)
            except (aiohttp.ClientError, TimeoutError, OSError):
                self._counts["unreachable"] += 1
                return False
        self._counts["answered" if taken else "refused"] += 1
        return taken

    def _letter(self, clear: bytes, told: Told) -> tuple[bytes, dict[str, str]]:
        body = msgspec.json.encode(
            {
                "id": f"EV-{told.transaction_id}",
                "create_time": told.paid_at,
                "resource_type": "encrypt-resource",
                "event_type": "TRANSACTION.SUCCESS",
                "summary": "支付成功",
                "resource": self._keys.seal(clear),
            }
        )
        return body, self._keys.sign_headers(body)
