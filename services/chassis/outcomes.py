"""Has the answer come meanwhile, in whichever process? All who wait in this one look by one statement."""

import asyncio
from typing import NamedTuple

import asyncpg
from msgspec.json import Decoder

from contracts.answers import Accepted, Answer, Rejected
from services.chassis.arrival import RequestKey

BETWEEN_SECONDS = 0.05
AT_MOST = 1000
_decode_answer = Decoder(Accepted | Rejected).decode
_LOOK = """
select partner, request_id, answer from request
where (partner, request_id) in (select * from unnest($1::text[], $2::text[]))"""


class Stored(NamedTuple):
    """A request that is remembered. answer: None while it is still being worked on."""

    answer: Answer | None


Look = asyncio.Future[Stored | None]


class Outcomes:
    """Looks into `request` for whoever asks, at most 20 times a second, on a connection of its own: a batch
    that waits for locks delays nobody's answer.
    """

    def __init__(self) -> None:
        self._looks: list[tuple[RequestKey, Look]] = []
        self._work = asyncio.Event()

    def look(self, request: RequestKey) -> Look:
        """What stands under this request id now, None: nothing. It comes when the database answers; the
        caller has his own deadline.
        """
        seen: Look = asyncio.get_running_loop().create_future()
        self._looks.append((request, seen))
        self._work.set()
        return seen

    async def run(self, db: asyncpg.Connection) -> None:
        """Until cancelled or an error; the caller opens a new connection and starts again."""
        self._work.set()
        while True:
            await self._work.wait()
            self._work.clear()
            self._looks = [look for look in self._looks if not look[1].done()]     # who gave up asks no more
            looks = self._looks[:AT_MOST]
            if looks:
                keys = sorted({request for request, _ in looks})
                rows = await db.fetch(_LOOK, [key.partner for key in keys], [key.request_id for key in keys])
                self._looks = self._looks[len(looks):]  # only now: a broken connection leaves them
                _tell(looks, {RequestKey(r[0], r[1]): Stored(_answer(r[2])) for r in rows})
                await asyncio.sleep(BETWEEN_SECONDS)
                if self._looks:
                    self._work.set()


def _tell(looks: list[tuple[RequestKey, Look]], found: dict[RequestKey, Stored]) -> None:
    for request, seen in looks:
        if not seen.done():
            seen.set_result(found.get(request))


def _answer(stored: bytes | None) -> Answer | None:
    return None if stored is None else _decode_answer(stored)
