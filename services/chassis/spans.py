"""How does a span get the id that a rule gives it? The tracing SDK, told which trace and span id come next."""

from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context
from typing_extensions import override

Exporter = SpanExporter
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class _Ids(IdGenerator):
    """Random ids, unless the next span's context is set. Spans start on the event loop only, so "next" is certain."""

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

    def start(self, name: str, kind: SpanKind, started_ns: int, attributes: Mapping[str, str | int], *,
              parent: SpanContext | None = None, context: SpanContext | None = None, links: Sequence[Link] = ()) -> Span:
        """A span that began at started_ns, under the ids of context, or under new ones."""
        self._ids.next = context
        try:
            span = self._tracer.start_span(
                name, set_span_in_context(NonRecordingSpan(parent)) if parent else None, kind, attributes, links, started_ns)
        finally:
            self._ids.next = None
        assert isinstance(span, Span)   # the sampler takes everything
        return span

    def context(self, journey: str) -> SpanContext:
        """A new place in the trace of a journey, or in a trace of its own if the journey is not known."""
        trace_id = int(journey, 16) if is_journey(journey) else self._ids.generate_trace_id()
        return SpanContext(trace_id, self._ids.generate_span_id(), is_remote=False, trace_flags=_SAMPLED)

    def shutdown(self) -> None:
        """Send what is held, for at most the exporter's time-out."""
        self._provider.shutdown()


def fact_context(journey: str, ce_id: str) -> SpanContext | None:
    """Where a fact of ours stands in its journey, by rule: the last 16 digits of its id. None: it is no fact of ours."""
    digits = ce_id[19:23] + ce_id[24:]
    try:
        return SpanContext(int(journey, 16), int(digits, 16), is_remote=True, trace_flags=_SAMPLED) if is_journey(journey) else None
    except ValueError:
        return None


def is_journey(text: str) -> bool:
    """32 lower-case hex digits that are not all zero."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef") and text.strip("0") != ""
