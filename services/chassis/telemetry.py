"""What may others see of a process at work? JSON log lines and sampled traces, both without personal data.

The trace id is the journey, so one insurance year of one person is one trace. Whether it is sampled follows
from the id alone, and so does the span id of each fact, from its ce_id: every process can rebuild the
traceparent by rule.
"""

import logging
import re
import sys
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from typing_extensions import override

from services.chassis.settings import Telemetry

if TYPE_CHECKING:
    from services.chassis.spans import Exporter, Spans

_PERSONAL = frozenset(
    {
        "name",
        "id_number",
        "phone",
        "email",
        "address",
        "registration",
        "identity",
        "contact",
        "to",
        "box",
        "secret",
        "password",
        "pin",
        "code_value",
        "token",
        "authorization",
        "private_pem",
    }
)
_NUMBERS = re.compile(r"(?<![0-9A-Za-z])(?:\d{17}[\dXx]|(?:86)?1[3-9]\d{9})(?![0-9A-Za-z])")
_MASK = "***"

_threshold = ""             # a journey is sampled if its last 8 digits sort before this
_spans: "Spans | None" = None
_batch: ContextVar["BatchSpan | None"] = ContextVar("batch", default=None)


def configure(service: str, settings: Telemetry, *, exporter: "Exporter | None" = None) -> None:
    """Start logs and, if a collector is named (or an exporter given), traces. settings.sample: 0 none, 1 all
    journeys.
    """
    global _threshold, _spans
    share = round(min(max(settings.sample, 0.0), 1.0) * 2**32)
    _threshold = "g" if share == 2**32 else f"{share:08x}"
    _spans = None
    if settings.otlp or exporter:
        from services.chassis.spans import Spans  # noqa: PLC0415 -- 0.2 s that a process without a collector saves

        _spans = Spans(service, settings.otlp, exporter)
    structlog.configure(
        processors=[_Stamp(service), structlog.processors.format_exc_info, mask, _line],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: structlog.BytesLogger(sys.stdout.buffer),
    )
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)


def shutdown() -> None:
    """Send what is still held; before the process ends."""
    if _spans is not None:
        _spans.shutdown()


# ---- Logs: a constant event name and fields, `log.info("batch_done", messages=3)`

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def mask(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hide what stands under a personal key, and every number that may be an ID card's or a phone's, at any
    depth.
    """
    return {key: _MASK if key in _PERSONAL else masked(value) for key, value in event.items()}


def masked(value: Any) -> Any:
    """A value without the numbers in it that may be an ID card's or a phone's; an error's text may quote
    data.
    """
    if isinstance(value, str):
        return _NUMBERS.sub(_MASK, value)
    if isinstance(value, dict):
        return mask(None, "", value)
    if isinstance(value, list | tuple | set | frozenset):
        return [masked(item) for item in value]
    if isinstance(value, int | float | None):
        return _MASK if isinstance(value, int) and _NUMBERS.fullmatch(str(value)) else value
    return _NUMBERS.sub(_MASK, str(value))      # never an object's own fields


class _Stamp:
    """Adds when, how grave, and which service."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, _: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"at": at, "level": level, "service": self._service, **event}


def _line(_: object, __: str, event: MutableMapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(event)
    except (UnicodeEncodeError, TypeError, msgspec.MsgspecError):     # lone surrogates in a stranger's text
        return msgspec.json.encode({str(key): ascii(value) for key, value in event.items()})


class _Libraries(logging.Handler):
    """What libraries say through the standard library, in the same lines."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        told = log.error if record.levelno >= logging.ERROR else log.warning
        told("library", logger=record.name, text=self.format(record)[:2000])


# ---- Traces


def is_sampled(journey: str) -> bool:
    """Whether a journey (32 hex digits) is traced: the same answer in every process with the same share.

    It looks at the last 8 digits: the rest of a uuid7 is time, version and variant and would not be even.
    """
    return journey[24:] < _threshold if len(journey) == 32 else False


def span_of(ce_id: str) -> str:
    """The span id of a fact of ours: the last 16 digits of its id, which are its random ones."""
    return ce_id[19:23] + ce_id[24:]


class BatchSpan:
    """One batch: a span of its own with links to the sampled messages in it, each with a span in its own
    journey.

    Spans are made when the batch ends, so a batch without sampled messages and failures costs next to
    nothing.
    """

    __slots__ = ("_before", "count", "error", "messages", "road", "said_facts", "service", "started_ns")

    def __init__(self, service: str, road: str, count: int) -> None:
        self.service, self.road, self.count = service, road, count
        self.messages: list[tuple[str, str, str, str, str]] = []    # journey, type, ce_id, error, link
        self.said_facts: list[tuple[str, str, str]] = []        # journey, type, ce_id
        self.error = ""

    def __enter__(self) -> "BatchSpan":
        self.started_ns = time.time_ns()
        self._before = _batch.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _batch.reset(self._before)
        if kind is not None:
            self.error = kind.__name__
        if _spans is not None and (self.messages or self.said_facts or self.error):
            _spans.tell_batch(self)

    def handled(self, journey: str, type: str, ce_id: str, error: str = "", link: str = "") -> None:
        """A message was handled, or failed with the class name of an error. ce_id: of a fact of ours, else
        empty. link: a partner's traceparent; his trace is sampled by the same rule as a journey.
        """
        if error or is_sampled(journey) or is_sampled(link[3:35]):
            self.messages.append((journey, type, ce_id, error, link))
            self.error = self.error or error

    def said(self, journey: str, type: str, ce_id: str) -> None:
        """A fact was committed; it continues the message of its journey in this batch, or begins the journey.
        """
        if is_sampled(journey):
            self.said_facts.append((journey, type, ce_id))


def batch_span(service: str, road: str, count: int) -> BatchSpan:
    """Around a batch: `with batch_span("billing", "bulk", 200) as span:`. Inside, current_batch() finds it.
    road: the lane, "door" or "timers".
    """
    return BatchSpan(service, road, count)


def current_batch() -> BatchSpan | None:
    """The batch that this task works on; None outside of one, and while nobody collects traces."""
    return _batch.get() if _spans is not None else None


@contextmanager
def call_span(journey: str, type: str, number: str, attempt: int) -> Iterator[None]:
    """Around one attempt at a call to a provider. number: our business number. An exception that says what
    it means for the call names it in its `outcome`; without one the call was answered.
    """
    if _spans is None:
        yield
        return
    started, failed, outcome = time.time_ns(), "", "answered"
    try:
        yield
    except BaseException as error:
        failed = error.__class__.__name__
        outcome = getattr(error, "outcome", "unknown")
        raise
    finally:
        if failed or is_sampled(journey):
            about: dict[str, str | int] = {
                "canbao.call.number": number, "canbao.call.attempt": attempt, "canbao.call.outcome": outcome
            }
            _spans.tell_call(journey, type, started, about, failed)
