"""Who uses Kill Bill during a benchmark? So many clients at once; each lets a person in, bills, is paid and
looks.

`python -m bench.peers.killbill.client URL`: orders come on standard input as JSON lines, each is answered by
one line. Its pushes are taken here as well.
"""

import asyncio
import sys
import time
from base64 import b64encode
from statistics import quantiles
from typing import Any

import aiohttp
import msgspec
import uvloop
from aiohttp import web
from msgspec import Struct

# The war's own user, on loopback.
WHO = {
    "Authorization": "Basic " + b64encode(b"admin:password").decode(),
    "X-Killbill-ApiKey": "canbao",
    "X-Killbill-ApiSecret": "canbao",
    "X-Killbill-CreatedBy": "bench",
}
PUSHED = ("ACCOUNT_CREATION", "INVOICE_CREATION", "PAYMENT_SUCCESS", "INVOICE_PAYMENT_SUCCESS")
AMOUNT, PATIENCE_SECONDS = 400.0, 30.0


class Order(Struct, frozen=True):
    """One line: so many transactions, so many at once."""

    count: int
    at_once: int


class Client:
    """pushes: how many came, by event."""

    def __init__(self, url: str) -> None:
        self.url, self.pushes = url + "/1.0/kb", dict.fromkeys(PUSHED, 0)
        self.number = 0

    async def start(self) -> None:
        """A tenant, and where it pushes to."""
        app = web.Application()
        app.router.add_post("/", self._pushed)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self._http = aiohttp.ClientSession(headers=WHO, connector=aiohttp.TCPConnector(limit=0))
        await self._call("POST", "/tenants", {"apiKey": "canbao", "apiSecret": "canbao"})
        await self._call("POST", f"/tenants/registerNotificationCallback?cb=http://127.0.0.1:{port}/", None)

    async def stop(self) -> None:
        """Let go."""
        await self._http.close()
        await self._runner.cleanup()

    async def _pushed(self, request: web.Request) -> web.Response:
        kind = msgspec.json.decode(await request.read())["eventType"]
        if kind in self.pushes:
            self.pushes[kind] += 1
        return web.Response()

    async def _call(self, method: str, path: str, body: Any) -> tuple[Any, str]:
        data = None if body is None else msgspec.json.encode(body)
        headers = {"content-type": "application/json"}
        async with self._http.request(method, self.url + path, data=data, headers=headers) as response:
            said = await response.read()
            if response.status >= 300:
                raise SystemExit(f"{method} {path}: {response.status} {said[:500]!r}")
            return msgspec.json.decode(said) if said else None, response.headers.get("location", "")

    async def one(self) -> float:
        """A whole business transaction; seconds."""
        began, self.number = time.monotonic(), self.number + 1
        person = {
            "name": f"P{self.number}",
            "externalKey": f"p-{self.number}",
            "email": "p@example.org",
            "currency": "EUR",
            "locale": "en",
        }
        _, location = await self._call("POST", "/accounts", person)
        account = location.rpartition("/")[2]
        charge = {"accountId": account, "amount": AMOUNT, "currency": "EUR", "description": "premium"}
        billed, _ = await self._call("POST", f"/invoices/charges/{account}?autoCommit=true", [charge])
        invoice = billed[0]["invoiceId"]
        paid = {"accountId": account, "targetInvoiceId": invoice, "purchasedAmount": AMOUNT}
        await self._call("POST", f"/invoices/{invoice}/payments?externalPayment=true", paid)
        settled, _ = await self._call("GET", f"/invoices/{invoice}", None)
        if float(settled["balance"]) != 0:
            raise SystemExit(f"invoice {invoice} is not settled")
        return time.monotonic() - began

    async def do(self, order: Order) -> dict[str, Any]:
        """All of them, until every push has come."""
        goal = {kind: count + order.count for kind, count in self.pushes.items()}
        todo, took = iter(range(order.count)), list[float]()

        async def client() -> None:
            took.extend([await self.one() for _ in todo])

        await asyncio.gather(*(client() for _ in range(order.at_once)))
        end = time.monotonic() + PATIENCE_SECONDS
        while any(self.pushes[kind] < goal[kind] for kind in PUSHED):
            if time.monotonic() > end:
                raise SystemExit(f"pushes {self.pushes}, expected {goal}")
            await asyncio.sleep(0.02)
        return {"ms": [round(1000 * q) for q in (quantiles(took, n=100)[49], quantiles(took, n=100)[98])]}


async def main(url: str) -> None:
    """Obey until standard input ends."""
    client, loop = Client(url), asyncio.get_running_loop()
    await client.start()
    tell({"ready": True})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        tell(await client.do(msgspec.json.decode(line, type=Order)))
    await client.stop()


def tell(what: dict[str, Any]) -> None:
    """One line on standard output."""
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
