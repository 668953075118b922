"""Do the peers do the same work as ours, by the same gate, and is a peer that loses some of it refused?"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka.admin import AdminClient

from bench import pipeline
from bench.comparison import Size, world
from bench.ours import BEGINS
from bench.peers.ground import Careful, Tutorial, lay_peer
from bench.peers.report import as_text, summary
from bench.pipeline import Broken, Ground, Outside, Round, outside, play
from bench.raw.ground import RawLoop
from cli.__main__ import main
from sandbox.keys import make_keys
from sandbox.people import REGION
from sandbox.stack import Stack
from services.chassis.ids import uuid7
from services.chassis.settings import Kafka
from tests.ground import Database

FEW = 4

# The first bill that payment hears of meets a fault of the database; sequences stand outside of
# transactions, so it is met once.
ONE_FAULT = """
create sequence {p}_payment.faults;
create function {p}_payment.fail() returns trigger language plpgsql security definer as $$
begin
    if nextval('{p}_payment.faults') = 1 then raise exception 'a fault of the test'; end if;
    return new;
end $$;
create trigger fails before insert on {p}_payment.obligation for each row execute function {p}_payment.fail()
"""


@asynccontextmanager
async def running(
    peer: type[RawLoop], folder: Path, database: Database
) -> AsyncIterator[tuple[Ground, RawLoop, Outside, list[str]]]:
    """The peer and its driver on the test's servers, with people whom it knows; nothing of it stays."""
    stack, name = database.stack, peer.name
    skew = (BEGINS - datetime.now(UTC)).total_seconds()
    make_keys(folder / "keys")
    people = [uuid7() for _ in range(2 * FEW)]
    kafka = AIOKafkaConsumer(bootstrap_servers=stack.kafka_admin)
    await kafka.start()
    async with database.connect() as db:
        try:
            dsn = await lay_peer(db, stack, peer)
            await db.execute(
                f"insert into {name}_enrollment.person"
                f" select u, u::text::bytea, '{REGION}', '', '', '', now(), 1 from unnest($1::uuid[]) u",
                people,
            )
            await db.execute(
                f"insert into {name}_notify.addressee select u, '{REGION}', '李**', '{{}}', 1"
                f" from unnest($1::uuid[]) u",
                people,
            )
            plain = Kafka(bootstrap=stack.kafka_admin)
            size = Size(rounds=1, transactions=2 * FEW, warming=0)
            told = world(folder, size, skew, f"{peer.prefix}.", bank=plain, agency=plain)
            loop = peer(stack, dsn, folder, skew)
            async with outside(told, folder / "driver.json") as driver:
                await loop.up()
                try:
                    ground = Ground(db=db, kafka=kafka, postgres=0, broker=0, topics=folder)
                    yield ground, loop, driver, people
                finally:
                    await loop.down()
        finally:
            await kafka.stop()
            for service in ("enrollment", "billing", "payment", "notify"):
                await db.execute(f"drop schema if exists {name}_{service} cascade")
            await db.execute(f"drop owned by {name}; drop role {name}")
            forget_topics(stack, f"{name}.")


def forget_topics(stack: Stack, prefix: str) -> None:
    """Delete the topics of a peer."""
    admin = AdminClient({"bootstrap.servers": stack.kafka_admin})
    mine = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(prefix)]
    for gone in admin.delete_topics(mine).values():
        gone.result()


@pytest.mark.timeout(180)
async def test_the_tutorials_way_passes_the_gate_until_it_loses_a_message(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Tutorial, tmp_path, database) as (ground, loop, driver, people):
        played = await play(ground, loop, driver, 0, FEW, people)
        assert played.transactions == FEW

        await ground.db.execute(ONE_FAULT.format(p=Tutorial.name))
        monkeypatch.setattr(pipeline, "PATIENCE_SECONDS", 4.0)
        with pytest.raises(Broken, match="act 1 is not over"):
            await play(ground, loop, driver, FEW, FEW, people)
        bills = await ground.db.fetchval("select count(*) from tutorial_billing.bill")
        heard = await ground.db.fetchval("select count(*) from tutorial_payment.obligation")
        assert (bills, heard) == (2 * FEW, 2 * FEW - 1)


@pytest.mark.timeout(180)
async def test_the_careful_way_passes_the_gate_although_the_database_fails_once(
    tmp_path: Path, database: Database
) -> None:
    async with running(Careful, tmp_path, database) as (ground, loop, driver, people):
        await ground.db.execute(ONE_FAULT.format(p=Careful.name))
        played = await play(ground, loop, driver, 0, FEW, people)

        assert played.transactions == FEW
        assert await ground.db.fetchval("select last_value from careful_payment.faults") > FEW


def round_of(loop: str, app_ms: int, seconds: float) -> Round:
    ns = {"app": app_ms * 1_000_000, "postgres": 0, "broker": 0, "load_generator": 0}
    return Round(loop=loop, transactions=100, seconds=seconds, ns=ns, foreign_share=0.3)


def test_a_peer_is_compared_with_the_round_of_ours_before_it() -> None:
    first = [round_of("ours", 10, 1), round_of("careful", 200, 20)]
    second = [round_of("ours", 20, 2), round_of("careful", 600, 20)]
    told = summary([*first, *second])

    assert told["careful"]["times_ours"] == {
        "cpu_per_bt": {"median": 25, "min": 20, "max": 30},
        "bt_per_s": {"median": 15, "min": 10, "max": 20},
    }
    assert "careful: 25 [20–30] times our CPU per BT" in as_text(told)
    assert "in 4 of 4 rounds" in as_text(told)


def test_only_what_is_known_can_stand_beside_the_peers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "peers", "--with", "killbill,openimis"])
    assert "openimis: known are killbill, mojaloop" in capsys.readouterr().err

    assert main(["bench", "exact", "--with", "killbill"]) == 2
    assert "--with stands beside peers only" in capsys.readouterr().err
