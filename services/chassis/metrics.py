"""What does a service measure? One typed list: each name's kind, labels, meaning, and what to do when it
moves.
"""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

Metric = Literal[
    "canbao_batch_seconds",
    "canbao_batch_messages",
    "canbao_lag_records",
    "canbao_lag_seconds",
    "canbao_broker_up",
    "canbao_months_ahead",
    "canbao_commit_failed",
    "canbao_fact_gap",
    "canbao_parked",
    "canbao_parked_open", "canbao_awaits_oldest_seconds",
    "canbao_refused",
    "canbao_forged",
    "canbao_halted",
    "canbao_outbox_oldest_seconds",
    "canbao_outbox_unsent",
    "canbao_relay_sent",
    "canbao_calls_failed",
    "canbao_calls_unknown",
    "canbao_timers_late_seconds",
]
FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Form(Struct, frozen=True):
    """kind: counter (its name ends in _total when scraped), gauge or histogram. todo: for whoever is paged
    at night.
    """

    kind: str
    labels: tuple[str, ...]
    meaning: str
    todo: str
    buckets: Sequence[float] = FAST


FORMS: dict[Metric, Form] = {
    "canbao_batch_seconds": Form(
        "histogram",
        ("service", "lane"),
        "From poll to commit of one batch.",
        "p99 > 1 s: look at slow statements, then at the batch size.",
    ),
    "canbao_batch_messages": Form(
        "histogram",
        ("service", "lane"),
        "Messages handled in one batch.",
        "Always 1 under load: something makes batches small (fetch settings, a hot ref).",
        SIZES,
    ),
    "canbao_lag_records": Form(
        "gauge",
        ("service", "lane"),
        "Records in the assigned partitions that no commit covers yet.",
        "Grows for 5 minutes: is the service halted, the database slow, or are members missing?",
    ),
    "canbao_lag_seconds": Form(
        "gauge",
        ("service", "lane"),
        "Age of the newest record done (of the first one fetched, when none is), while there is lag.",
        "money > 60 s: people wait for their payment; scale out or look for a lock.",
    ),
    "canbao_broker_up": Form(
        "gauge",
        ("service",),
        "1 while a connection to Kafka stands.",
        "0: the door still takes callbacks, and nothing is lost; mend Kafka or the network.",
    ),
    "canbao_months_ahead": Form(
        "gauge",
        ("service",),
        "Months after this one that inbox and outbox have partitions for.",
        "< 2: the daily job (python -m services.chassis.partitions) does not run; 0: soon all stops.",
    ),
    "canbao_commit_failed": Form(
        "counter",
        ("service", "lane"),
        "Offset commits that the broker did not take; the next one carries them.",
        "More than a few an hour: rebalances or an overloaded broker.",
    ),
    "canbao_fact_gap": Form(
        "counter",
        ("service", "topic"),
        "Records skipped by a consumer group and fetched again, or facts missing in an aggregate's count.",
        "gap_refilled in the log: offsets were reset, all is fetched again. sequence_gap: order a republish.",
    ),
    "canbao_parked": Form(
        "counter",
        ("service", "reason"),
        "Messages set aside for a person to look at.",
        "Grows: read one, fix the cause, redrive. TYPE_UNKNOWN and SIGNATURE_INVALID: talk to the partner.",
    ),
    "canbao_parked_open": Form(
        "gauge",
        ("service", "state"),
        "Messages that stand aside now: PARKED, BEHIND one of those, or AWAITS their ground.",
        "PARKED is not 0: somebody waits. The log line `parked` says where it failed; fix, resume, redrive.",
    ),
    "canbao_awaits_oldest_seconds": Form(
        "gauge",
        ("service",),
        "How long the oldest message has waited for the fact it rests on.",
        "> 600 s: the fact is lost or late; look for it in its owner's outbox, republish it.",
    ),
    "canbao_refused": Form(
        "counter",
        ("service", "reason"),
        "Commands answered with a refusal.",
        "One reason leaps: a partner released something, or a policy is wrong.",
    ),
    "canbao_forged": Form(
        "counter",
        ("service", "road", "kept"),
        "HTTP requests whose signature did not match. kept: whether a row in `parked` shows what came.",
        "Grows: a partner has mistaken his keys, or somebody tries to be him; `parked` shows the first ones.",
    ),
    "canbao_halted": Form(
        "gauge",
        ("service",),
        "1 while the service has stopped itself because its handlers fail.",
        "1: the code is wrong, not the data. Roll back or fix, then resume as an operator.",
    ),
    "canbao_outbox_oldest_seconds": Form(
        "gauge",
        ("service",),
        "Age of the oldest batch that is committed and not yet sent.",
        "> 10 s: no broker, or no relay leader; nothing is lost.",
    ),
    "canbao_outbox_unsent": Form(
        "gauge",
        ("service",),
        "Committed batches that are not sent yet.",
        "Grows while the broker is up: the relay is too slow or has no leader.",
    ),
    "canbao_relay_sent": Form(
        "counter",
        ("service",),
        "Messages put on Kafka.",
        "Flat while batches commit: see canbao_outbox_oldest_seconds.",
    ),
    "canbao_calls_failed": Form(
        "counter",
        ("service", "call"),
        "Provider calls that surely did nothing; they are made again.",
        "Grows: the provider refuses or is down; look at its status page.",
    ),
    "canbao_calls_unknown": Form(
        "counter",
        ("service", "call"),
        "Provider calls whose outcome we could not tell; the provider is asked.",
        "Grows: time-outs towards the provider; check that the questions get answers.",
    ),
    "canbao_timers_late_seconds": Form(
        "gauge",
        ("service",),
        "How long after its business instant the last timer ran.",
        "> 60 s: the service is behind or halted; cover may begin late.",
    ),
}

REGISTRY = CollectorRegistry()
_KINDS = {"counter": Counter, "gauge": Gauge}
_metrics: dict[Metric, Any] = {
    name: Histogram(name, form.meaning, form.labels, buckets=form.buckets, registry=REGISTRY)
    if form.kind == "histogram" else _KINDS[form.kind](name, form.meaning, form.labels, registry=REGISTRY)
    for name, form in FORMS.items()
}
_children: dict[tuple[str, ...], Any] = {}


def _child(*names: str) -> Any:
    """The series of a metric for its label values, in the order of its form; looking it up anew would cost 3
    µs.
    """
    child = _children.get(names)
    if child is None:
        child = _children[names] = _metrics[names[0]].labels(*names[1:])  # type: ignore[index]
    return child


def batch(service: str, lane: str, count: int, seconds: float) -> None:
    """A batch is committed; seconds from poll to commit."""
    _child("canbao_batch_seconds", service, lane).observe(seconds)
    _child("canbao_batch_messages", service, lane).observe(count)


def lag(service: str, lane: str, records: int, seconds: float) -> None:
    """So many records wait; how old the newest one done is."""
    _child("canbao_lag_records", service, lane).set(records)
    _child("canbao_lag_seconds", service, lane).set(seconds)


def broker(service: str, up: bool) -> None:
    """Whether Kafka answers."""
    _child("canbao_broker_up", service).set(up)


def months_ahead(service: str, count: int) -> None:
    """So many months to come can be written to."""
    _child("canbao_months_ahead", service).set(count)


def commit_failed(service: str, lane: str) -> None:
    """The broker did not take an offset commit."""
    _child("canbao_commit_failed", service, lane).inc()


def fact_gap(service: str, topic: str) -> None:
    """The group's offset was past what the database has done, or a fact skipped a number."""
    _child("canbao_fact_gap", service, topic).inc()


def parked(service: str, reason: str) -> None:
    """A message was set aside. reason: its name."""
    _child("canbao_parked", service, reason).inc()


def stands_aside(service: str, **counts: int) -> None:
    """How many messages are parked, behind or awaits, as states are called."""
    for state, count in counts.items():
        _child("canbao_parked_open", service, state.upper()).set(count)


def awaits(service: str, oldest_seconds: float) -> None:
    """Messages wait for their ground; 0: none does."""
    _child("canbao_awaits_oldest_seconds", service).set(oldest_seconds)


def refused(service: str, code: str) -> None:
    """A command was answered with a refusal. code: the name of its reason."""
    _child("canbao_refused", service, code).inc()


def forged(service: str, road: str, *, kept: bool) -> None:
    """A request over HTTP had no sound signature. road: command, query or callback."""
    _child("canbao_forged", service, road, "yes" if kept else "no").inc()


def halted(service: str, now: bool) -> None:
    """The service has stopped itself, or was resumed."""
    _child("canbao_halted", service).set(now)


def outbox(service: str, unsent: int, oldest_seconds: float) -> None:
    """What the relay found waiting."""
    _child("canbao_outbox_unsent", service).set(unsent)
    _child("canbao_outbox_oldest_seconds", service).set(oldest_seconds)


def relay_sent(service: str, count: int) -> None:
    """So many messages are on Kafka."""
    _child("canbao_relay_sent", service).inc(count)


def call_failed(service: str, call: str, *, unknown: bool) -> None:
    """A call to a provider did not end with an answer. unknown: it may have had its effect."""
    _child("canbao_calls_unknown" if unknown else "canbao_calls_failed", service, call).inc()


def timer_ran(service: str, late_seconds: float) -> None:
    """A timer was handed to its handler."""
    _child("canbao_timers_late_seconds", service).set(late_seconds)


def exposition() -> tuple[bytes, str]:
    """All series as a scraper wants them, and the content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
