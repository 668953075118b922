"""Are a season's made-up rows what the services would have left: does every invariant hold over them?"""

import time

from bench import season
from bench.season import Questions
from cli.timeline import find
from cli.verify import check
from sandbox.stack import Stack
from tests.ground import Database


async def test_a_small_season_is_in_order_and_told_by_every_id(database: Database, broker: Stack) -> None:
    try:
        began = time.monotonic()
        await season.fill(broker, 300, lambda _: None)
        found = await season.ask(broker, 300, Questions(find, check), time.monotonic() - began)
    finally:
        async with database.connect() as db:
            await db.execute("drop schema if exists season cascade")
    said = found.summary()
    assert set(said["trace_seconds"]) == {
        "person", "enrollment", "bill", "order", "transaction", "event", "request"
    }  # fmt: skip
    assert all(took["n"] == season.ROUNDS for took in said["trace_seconds"].values())
    assert "300 bills" in found.text()
