"""When is a process restarted, when is it only kept from requests, and is every metric explained?"""

from typing import get_args

import pytest
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from contracts.reasons import Reason
from services.chassis import metrics
from services.chassis.health import Vitals, live, ready, routes

WELL = Vitals(now=1000.0, beat_at=999.5, commit_at=900.0, lag_records=0, broker_up=True, database_up=True)
STUCK = replace(WELL, lag_records=5)        # 100 s without a commit although records wait


@pytest.mark.parametrize(("vitals", "is_live", "is_ready"), [
    (WELL, True, True),
    (STUCK, False, True),
    (replace(STUCK, commit_at=945.0), True, True),
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
    assert b"5 records wait and nothing was committed for 100 s" in bytes((await get("/health/live")).body)
    assert b"# HELP canbao_halted " in bytes((await get("/metrics")).body)
    now[0] = WELL
    assert (await get("/health/live")).status_code == 200


def test_every_metric_is_measured_explained_and_scraped() -> None:
    assert set(metrics.FORMS) == set(get_args(metrics.Metric))
    metrics.batch("billing", "bulk", 100, 0.02, 3, 0.5)
    metrics.commit_failed("billing", "bulk")
    metrics.fact_gap("billing", "payment.payments")
    metrics.parked("nobody", Reason.HANDLER_FAILED)
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
