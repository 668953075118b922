"""What does a trace look like? Spans made after the work, under ids that a rule gives them."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from typing_extensions import override

from services.chassis.telemetry import span_of

if TYPE_CHECKING:
    from services.chassis.telemetry import BatchSpan

Exporter = SpanExporter
MOST_LINKS = 16             # of a batch's span: enough to find the journeys, and a link costs 2 µs
_OWN_ROADS = ("door", "timers")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class _Ids(IdGenerator):
    """Random ids, unless the next span's are set. Spans start on the event loop only: "next" is certain."""

    def __init__(self) -> None:
        self.next: SpanContext | None = None
        self._random = RandomIdGenerator()

    @override
    def generate_span_id(self) -> int:
        return self.next.span_id if self.next else self._random.generate_span_id()

    @override
    def generate_trace_id(self) -> int:
        return self.next.trace_id if self.next else self._random.generate_trace_id()


class Spans:
    """Makes spans under given ids; whether something is worth a span has been decided before.

    otlp: the collector's address, http://host:4318. exporter: instead of it, for tests, told at once.
    """

    def __init__(self, service: str, otlp: str, exporter: Exporter | None) -> None:
        self._ids = _Ids()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, id_generator=self._ids, resource=Resource({"service.name": service}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            SimpleSpanProcessor(exporter) if exporter
            else BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{otlp.rstrip('/')}/v1/traces", timeout=5))
        )
        self._tracer = self._provider.get_tracer("canbao")

    def tell_batch(self, batch: "BatchSpan") -> None:
        """A span for the batch and, each in its own journey, one for each message and each fact said."""
        ended = time.time_ns()
        places = [self._place(journey) for journey, *_ in batch.messages]
        whole = self._start(
            f"batch {batch.road}",
            SpanKind.CONSUMER,
            batch.started_ns,
            {
                "messaging.system": "canbao" if batch.road in _OWN_ROADS else "kafka",
                "messaging.operation.type": "process",
                "messaging.batch.message_count": batch.count,
                "messaging.consumer.group.name": f"{batch.service}-{batch.road}",
            },
            links=[Link(place) for place in places[:MOST_LINKS]],
        )
        of_journey: dict[str, SpanContext] = {}
        for (journey, type, ce_id, error, link), place in zip(batch.messages, places, strict=True):
            theirs = _place_of_partner(link)
            span = self._start(
                f"process {type}",
                SpanKind.CONSUMER,
                batch.started_ns,
                {"messaging.message.type": type},
                parent=_place_of_fact(journey, ce_id),
                place=place,
                links=[Link(whole.get_span_context()), *([Link(theirs)] if theirs else [])],
            )
            _end(span, error, ended)
            of_journey.setdefault(journey, place)
        for journey, type, ce_id in batch.said_facts:
            said = _place_of_fact(journey, ce_id)
            if said is not None:
                _end(
                    self._start(
                        f"publish {type}",
                        SpanKind.PRODUCER,
                        ended,
                        {"messaging.message.type": type},
                        parent=of_journey.get(journey),
                        place=said,
                    ),
                    "",
                    ended,
                )
        _end(whole, batch.error, ended)

    def tell_call(
        self, journey: str, type: str, started_ns: int, about: Mapping[str, str | int], error: str
    ) -> None:
        """A span for a call to a provider, ending now."""
        place = self._place(journey)
        span = self._start(f"call {type}", SpanKind.CLIENT, started_ns, about, place=place)
        _end(span, error, time.time_ns())

    def shutdown(self) -> None:
        """Send what is held, for at most the exporter's time-out."""
        self._provider.shutdown()

    def _start(
        self,
        name: str,
        kind: SpanKind,
        started_ns: int,
        attributes: Mapping[str, str | int],
        *,
        parent: SpanContext | None = None,
        place: SpanContext | None = None,
        links: Sequence[Link] = (),
    ) -> Span:
        self._ids.next = place
        try:
            span = self._tracer.start_span(
                name,
                set_span_in_context(NonRecordingSpan(parent)) if parent else None,
                kind,
                attributes,
                links,
                started_ns,
            )
        finally:
            self._ids.next = None
        if not isinstance(span, Span):
            raise TypeError("the sampler takes everything, so this is a recording span")
        return span

    def _place(self, journey: str) -> SpanContext:
        """A new place in the trace of a journey, or in a trace of its own if the journey is not known."""
        trace_id = int(journey, 16) if _is_journey(journey) else self._ids.generate_trace_id()
        return SpanContext(trace_id, self._ids.generate_span_id(), is_remote=False, trace_flags=_SAMPLED)


def _end(span: Span, error: str, ended_ns: int) -> None:
    if error:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(ended_ns)


def _place_of_fact(journey: str, ce_id: str) -> SpanContext | None:
    """Where a fact of ours stands in its journey, by rule. None: it is no fact of ours."""
    try:
        return (
            SpanContext(int(journey, 16), int(span_of(ce_id), 16), is_remote=True, trace_flags=_SAMPLED)
            if _is_journey(journey)
            else None
        )
    except ValueError:
        return None


def _place_of_partner(traceparent: str) -> SpanContext | None:
    """Where a message stands in its sender's trace (W3C Trace Context). None: he says nothing sound."""
    found = _TRACEPARENT.fullmatch(traceparent)
    context = SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True) if found else None
    return context if context is not None and context.is_valid else None


def _is_journey(text: str) -> bool:
    """32 lower-case hex digits that are not all zero."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef") and text.strip("0") != ""
