"""When is a process restarted, when is it only kept from requests, and is every metric explained?"""

import time
from pathlib import Path
from typing import get_args

import pytest
from aiohttp import ClientSession
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from sandbox.stack import Stack
from services.chassis import health, metrics
from services.chassis.health import LaneVitals, Vitals, live, ready, routes
from services.chassis.service import Running
from tests.chassis.running import producing, running, say, until
from tests.chassis.toys import approved, toy
from tests.ground import Database

WELL = Vitals(now=1000.0, beat_at=999.5, lanes=(), broker_up=True, database_up=True)


def waiting(records: int, since: float | None, patience_seconds: float = 60.0) -> Vitals:
    lane = LaneVitals(
        name="bulk", records=records, seconds=1.0, since=since, patience_seconds=patience_seconds
    )
    return replace(WELL, lanes=(replace(lane, name="money", records=0, since=None), lane))


STUCK = waiting(5, since=900.0)        # 100 s without a commit although records wait


@pytest.mark.parametrize(("vitals", "is_live", "is_ready"), [
    (WELL, True, True),
    (STUCK, False, True),
    (waiting(5, since=945.0), True, True),
    (waiting(0, since=900.0), True, True),
    (waiting(5, since=900.0, patience_seconds=600.0), True, True),
    (replace(STUCK, broker_up=False), True, True),          # callbacks are still taken
    (replace(STUCK, database_up=False), True, False),
    (replace(STUCK, halted=True), True, True),              # a restart would change nothing
    (replace(WELL, beat_at=989.0), False, True),
    (replace(WELL, stopped=("money",)), False, True),
    (replace(WELL, halted=True, stopped=("relay",)), False, True),
])
def test_a_process_is_restarted_only_when_that_helps(vitals: Vitals, is_live: bool, is_ready: bool) -> None:
    assert live(vitals).ok is is_live
    assert ready(vitals).ok is is_ready


async def test_the_pages_say_why() -> None:
    now = [STUCK]
    pages = {route.path: route.endpoint for route in routes(lambda: now[0])}

    async def get(path: str) -> Response:
        response: Response = await pages[path](Request({"type": "http"}))
        return response

    assert (await get("/health/ready")).status_code == 200
    assert (await get("/health/live")).status_code == 503
    assert b"5 records wait in bulk and nothing was committed for 100 s" in bytes(
        (await get("/health/live")).body
    )
    assert b"# HELP canbao_halted " in bytes((await get("/metrics")).body)
    now[0] = WELL
    assert (await get("/health/live")).status_code == 200


async def test_a_lane_that_is_stuck_in_its_very_first_batch_is_seen_until_it_moves(
    database: Database, broker: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "SILENT_SECONDS", 0.5)
    async with (
        toy(database) as made,
        producing(broker) as producer,
        running(broker, tmp_path, made.on) as run,
        ClientSession() as http,
    ):
        for lane in run.lanes:
            lane.deadline_seconds = 0.2

        async def answers(status: int) -> bool:
            async with http.get(f"http://{run.settings.door}/health/live") as page:
                return page.status == status

        await until(lambda: answers(200))
        async with run.lanes[0].lock:       # as if whoever has it never gave it back
            await say(producer, approved())
            await until(lambda: answers(503))
            (why,) = live(run.vitals()).why
            assert why.startswith("1 records wait in money and nothing was committed for")
            lag = b'canbao_lag_records{lane="money",service="billing"} 1.0'
            await until(lambda: _scraped(http, run, lag))
        await until(lambda: answers(200))


async def _scraped(http: ClientSession, run: Running, line: bytes) -> bool:
    async with http.get(f"http://{run.settings.door}/metrics") as page:
        return line in await page.read()


async def test_an_outage_of_the_database_is_no_reason_to_restart(
    database: Database, broker: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "BEAT_SECONDS", 1.5)
    async with (
        toy(database) as made,
        database.connect() as admin,
        running(broker, tmp_path, made.on, member=-1) as run,
    ):
        try:
            await admin.execute("alter role billing nologin")
            await admin.fetch(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'billing'"
            )
            began = time.monotonic()

            async def long_enough() -> bool:
                assert live(run.vitals()).ok
                return time.monotonic() - began > 3.0

            await until(long_enough)
            assert not ready(run.vitals()).ok
        finally:
            await admin.execute("alter role billing login")


def test_every_metric_is_measured_explained_and_scraped() -> None:
    assert set(metrics.FORMS) == set(get_args(metrics.Metric))
    metrics.batch("billing", "bulk", 100, 0.02)
    metrics.lag("billing", "bulk", 3, 0.5)
    metrics.broker("billing", True)
    metrics.months_ahead("billing", 3)
    metrics.commit_failed("billing", "bulk")
    metrics.fact_gap("billing", "payment.payments")
    metrics.parked("nobody", "HANDLER_FAILED")
    metrics.awaits("billing", 3.0)
    metrics.refused("billing", "BILL_NOT_FOUND")
    metrics.forged("billing", "command", kept=True)
    metrics.halted("billing", True)
    metrics.outbox("billing", 2, 0.3)
    metrics.relay_sent("billing", 7)
    metrics.call_failed("payment", "PlaceOrder", unknown=True)
    metrics.call_failed("payment", "PlaceOrder", unknown=False)
    metrics.timer_ran("enrollment", 0.2)

    text = metrics.exposition()[0].decode()

    for name in metrics.FORMS:
        assert f"\n{name}" in text.replace("# HELP", ""), name
    assert 'canbao_parked_total{reason="HANDLER_FAILED",service="nobody"} 1.0' in text
