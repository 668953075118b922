"""Who pays through Mojaloop during a benchmark? So many transfers in flight, each prepared, then fulfilled.

`python -m bench.peers.mojaloop.client KAFKA`: orders come on standard input as JSON lines, each is answered
by one.
"""

import asyncio
import sys
from base64 import b64encode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench.peers.killbill.client import Order, tell
from bench.peers.mojaloop.server import CURRENCY, FULFIL, NOTICES, PARTITIONS, PAYEE, PAYER, PREPARE
from services.chassis.ids import uuid7

AMOUNT, PATIENCE_SECONDS = 1.25, 60.0
SECRET = bytes(32)
_FULFILMENT = urlsafe_b64encode(SECRET).decode().rstrip("=")
_CONDITION = urlsafe_b64encode(sha256(SECRET).digest()).decode().rstrip("=")
_TYPE = "application/vnd.interoperability.transfers+json;version=1.1"


class Client:
    """waiting: by transfer and what is awaited of it."""

    def __init__(self, kafka: str) -> None:
        self.out = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True)
        self.heard = AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False)
        self.waiting: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def start(self) -> None:
        """Connect; hear notices from now on."""
        await asyncio.gather(self.out.start(), self.heard.start())
        places = [TopicPartition(NOTICES, number) for number in range(PARTITIONS)]
        self.heard.assign(places)
        await self.heard.seek_to_end(*places)
        for place in places:
            await self.heard.position(place)  # seek_to_end is lazy
        self._hearing = asyncio.create_task(self._hear())

    async def stop(self) -> None:
        """Let go."""
        self._hearing.cancel()
        await asyncio.gather(self.out.stop(), self.heard.stop())

    async def _hear(self) -> None:
        while True:
            for records in (await self.heard.getmany(timeout_ms=200)).values():
                for record in records:
                    told = msgspec.json.decode(record.value)
                    event = told["metadata"]["event"]
                    if event["state"]["status"] != "success":
                        raise SystemExit(f"a transfer failed: {event}")
                    number = told["content"].get("uriParams", {}).get("id") or told.get("id")
                    future = self.waiting.pop((number, event["action"]), None)
                    if future is not None:
                        future.set_result(None)

    async def _say(self, topic: str, number: str, action: str, sides: tuple[str, str], payload: Any) -> None:
        """And wait for the notice of it."""
        now = datetime.now(UTC)
        body = "data:" + _TYPE + ";base64," + b64encode(msgspec.json.encode(payload)).decode()
        headers = {
            "fspiop-source": sides[0],
            "fspiop-destination": sides[1],
            "content-type": _TYPE,
            "date": now.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        }
        state = {"status": "success", "code": 0, "description": "action successful"}
        event = {
            "id": uuid7(),
            "type": "prepare" if topic == PREPARE else "fulfil",
            "action": action,
            "createdAt": now.isoformat(),
            "state": state,
        }
        message = {
            "id": number,
            "from": sides[0],
            "to": sides[1],
            "type": "application/json",
            "content": {"uriParams": {"id": number}, "headers": headers, "payload": body},
            "metadata": {"correlationId": number, "event": event},
        }
        future = self.waiting[number, action] = asyncio.get_running_loop().create_future()
        await self.out.send(topic, msgspec.json.encode(message), key=number.encode())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await future

    async def one(self) -> None:
        """A whole transfer."""
        number, now = uuid7(), datetime.now(UTC)
        until = (now + timedelta(minutes=10)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        asked = {
            "transferId": number,
            "payerFsp": PAYER,
            "payeeFsp": PAYEE,
            "condition": _CONDITION,
            "amount": {"amount": str(AMOUNT), "currency": CURRENCY},
            "ilpPacket": "AQ",
            "expiration": until,
        }
        await self._say(PREPARE, number, "prepare", (PAYER, PAYEE), asked)
        done = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        given = {"completedTimestamp": done, "transferState": "COMMITTED", "fulfilment": _FULFILMENT}
        await self._say(FULFIL, number, "commit", (PAYEE, PAYER), given)

    async def do(self, order: Order) -> dict[str, Any]:
        """All of them."""
        todo = iter(range(order.count))

        async def payer() -> None:
            for _ in todo:
                await self.one()

        await asyncio.gather(*(payer() for _ in range(order.at_once)))
        return {"committed": order.count}


async def main(kafka: str) -> None:
    """Obey until standard input ends."""
    client, loop = Client(kafka), asyncio.get_running_loop()
    await client.start()
    tell({"ready": True})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        tell(await client.do(msgspec.json.decode(line, type=Order)))
    await client.stop()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
