"""Is this process alive, and may it be sent requests? Two verdicts over a few vitals, and their pages."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from msgspec import Struct
from msgspec.json import encode
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.chassis import metrics

BEAT_SECONDS = 10.0         # a loop that has not come round for so long is stuck
SILENT_SECONDS = 60.0       # records wait, everything is up, and nothing has moved for so long


class LaneVitals(Struct, frozen=True, kw_only=True):
    """What waits in one lane. records: how many. seconds: how old the newest one done is, while any waits.

    since: time.monotonic() of the last commit or put-back, or of the first fetch after nothing waited; None:
    nothing waits. patience_seconds: how long may pass without one.
    """

    name: str
    records: int
    seconds: float
    since: float | None
    patience_seconds: float


class Vitals(Struct, frozen=True, kw_only=True):
    """What is known about the process now. now, beat_at: time.monotonic() seconds.

    stopped: tasks that should run and do not. halted: stopped on purpose until an operator resumes; a restart
    would change nothing.
    """

    now: float
    beat_at: float
    lanes: tuple[LaneVitals, ...]
    broker_up: bool
    database_up: bool
    halted: bool = False
    stopped: tuple[str, ...] = ()


class Verdict(NamedTuple):
    """ok: yes. why: each reason against it."""

    ok: bool
    why: tuple[str, ...]


def live(vitals: Vitals) -> Verdict:
    """No means: kill it and start another. An outage of the broker or the database is not cured by that."""
    why = [f"task {name} has stopped" for name in vitals.stopped]
    if vitals.now - vitals.beat_at > BEAT_SECONDS:
        why.append(f"the loop has not beaten for {vitals.now - vitals.beat_at:.0f} s")
    up = vitals.broker_up and vitals.database_up and not vitals.halted
    for lane in vitals.lanes if up else ():
        if lane.records > 0 and lane.since is not None and vitals.now - lane.since > lane.patience_seconds:
            silent = f"nothing was committed for {vitals.now - lane.since:.0f} s"
            why.append(f"{lane.records} records wait in {lane.name} and {silent}")
    return Verdict(not why, tuple(why))


def ready(vitals: Vitals) -> Verdict:
    """No means: send no requests. Kafka does not count: callbacks are taken while it is down."""
    return Verdict(True, ()) if vitals.database_up else Verdict(False, ("the database does not answer",))


def routes(vitals: Callable[[], Vitals]) -> list[Route]:
    """GET /health/live and /health/ready: 200 or 503 with the reasons; /metrics for a scraper."""

    def page(judge: Callable[[Vitals], Verdict]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(_: Request) -> Response:
            now = vitals()
            verdict = judge(now)
            body = encode({"ok": verdict.ok, "why": verdict.why, "vitals": now})
            return Response(body, 200 if verdict.ok else 503, media_type="application/json")

        return answer

    async def scraped(_: Request) -> Response:
        body, content_type = metrics.exposition()
        return Response(body, media_type=content_type)

    return [
        Route("/health/live", page(live)),
        Route("/health/ready", page(ready)),
        Route("/metrics", scraped),
    ]
