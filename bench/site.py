"""On what does a measurement of the services alone stand? Servers, four processes, applicants, a driver."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from bench import ours
from bench.comparison import Say, Size, register, standing, watching, world
from bench.driver import Order
from bench.pipeline import Ground, Outside, Round, outside, play
from sandbox.keys import make_keys
from sandbox.people import REGION
from sandbox.stack import Servers, Stack


class Site(Struct, kw_only=True):
    """people: ids of everybody who has an account. next: the first of them who has not applied yet."""

    folder: Path
    stack: Stack
    servers: Servers
    ground: Ground
    driver: Outside
    people: list[str]
    next: int = 0

    def services(self, *, traced: bool = True, members: int = 1) -> ours.Ours:
        """The four, not started."""
        otlp = self.driver.otlp if traced else ""
        return ours.Ours(self.folder, self.stack, self.servers, otlp, members=members)

    def take(self, count: int) -> int:
        """So many of those who have not applied yet; the first one's number."""
        first, self.next = self.next, self.next + count
        assert self.next <= len(self.people), "more people apply than there are"
        return first

    async def register(self, count: int) -> None:
        """So many more have an account, while the services run; it is not measured."""
        order = Order(do="register", first=len(self.people), count=count)
        self.people += (await self.driver.do(order))["people"]
        await ours.until_known(self.ground.db, len(self.people))

    async def play(self, services: ours.Ours, count: int) -> Round:
        """A closed round of so many."""
        return await play(self.ground, services, self.driver, self.take(count), count, self.people)


@asynccontextmanager
async def site(folder: Path, people: int, say: Say, *, most: int = 0) -> AsyncIterator[Site]:
    """For as long as the block lasts, over an empty folder; commits are stamped. most: people that may be
    registered in all, if that is more than those that are.

    Raises the servers' troubles, AlreadyUp, Broken.
    """
    async with standing(folder, say) as (stack, servers):
        await _stamp_commits(stack, servers)
        async with watching(stack, servers) as ground:
            skew = (await ours.set_clock(ground.db)).total_seconds()
            await ours.silence_gateway(ground.db)
            make_keys(folder / "keys")
            size, whole = (Size(rounds=1, transactions=n, warming=0) for n in (people, max(people, most)))
            known = world(folder, whole, skew, "", bank=stack.kafka("bank"), agency=stack.kafka(REGION))
            async with outside(known, folder / "driver.json") as driver:
                services = ours.Ours(folder, stack, servers, driver.otlp)
                ids = await register(ground, services, driver, size, say)
                yield Site(
                    folder=folder, stack=stack, servers=servers, ground=ground, driver=driver, people=ids
                )


async def _stamp_commits(stack: Stack, servers: Servers) -> None:
    """Postgres remembers when each transaction was committed; it must start again for that."""
    db = await ours.admin(stack)
    try:
        await db.execute("alter system set track_commit_timestamp = on")
    finally:
        await db.close()
    await asyncio.to_thread(servers.revive, "postgres")
