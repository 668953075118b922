"""How do the same partners come in over HTTP? So many requests at once, each waits for its answer.

`python -m bench.peers.over_http FILE`: the benchmark's driver with another road. What we publish is heard
from Kafka, as Kill Bill's pushes are heard by its client.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop
from typing_extensions import override

from bench.clients import Record
from bench.driver import AGENCY, BANK, Driver, Submitted, World, decode_answer, main
from bench.gate import GROWS
from bench.ours import Ours
from contracts.answers import Rejected
from contracts.enrollment import ENROLLMENTS
from sandbox.partner import Letter, as_http

# Commands come in through the doors; their answers are said on the topics as well.
GROWS_OVER_HTTP = {name: 0 if name in (BANK, AGENCY) else count for name, count in GROWS.items()}


class HttpWorld(World, frozen=True, kw_only=True):
    """doors: host:port by service. at_once: requests that wait for their answers."""

    doors: dict[str, str]
    at_once: int


class OurDoors(Ours):
    """The four services; this name stands in the report."""

    name = "ours_http"


class HttpDriver(Driver):
    """The same words, said to doors."""

    world: HttpWorld

    @override
    async def start(self) -> None:
        await super().start()
        heard = [place for place in self._heard.assignment() if place.topic != ENROLLMENTS]
        self._heard.assign(heard)  # the agency does not hear of applications, so it does not answer there
        await self._heard.seek_to_end(*heard)
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    @override
    async def stop(self) -> None:
        await self._http.close()
        await super().stop()

    @override
    async def apply(self, count: int) -> dict[str, Any]:
        """Act one: each applies, and the agency approves at once what it hears in the answer."""
        self._bills = []
        work = asyncio.create_task(self._all(self.ready, self._one))
        await self._listen([], bills=count, covered=0)
        await work
        return {"bills": len(self._bills)}

    @override
    async def pay(self, count: int) -> dict[str, Any]:
        """Act two: the bank reports each payment."""
        work = asyncio.create_task(self._all(self._signed, self._report))
        await self._listen([], bills=0, covered=count)
        await work
        return {"covered": count}

    async def _all(self, records: Iterable[Record], do: Callable[[Record], Awaitable[None]]) -> None:
        todo = iter(records)

        async def client() -> None:
            for record in todo:
                await do(record)

        await asyncio.gather(*(client() for _ in range(self.world.at_once)))

    async def _one(self, record: Record) -> None:
        result = await self._post("enrollment", BANK, record)
        person = record.key.decode()
        decision = self.decision(Submitted(person, result["enrollment_id"]), record.part)
        await self._post("enrollment", AGENCY, decision)

    async def _report(self, record: Record) -> None:
        await self._post("payment", BANK, record)

    async def _post(self, service: str, topic: str, record: Record) -> dict[str, Any]:
        letter = Letter(topic, record.key, record.value, list(record.headers))
        url = f"http://{self.world.doors[service]}/v1/commands"
        async with self._http.post(url, data=record.value, headers=as_http(letter)) as response:
            body = await response.read()
        answer = decode_answer(body)
        if isinstance(answer, Rejected):
            raise SystemExit(f"refused: {answer.refusal.code}")
        result: dict[str, Any] = answer.result
        return result


if __name__ == "__main__":
    uvloop.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=HttpWorld), HttpDriver))
