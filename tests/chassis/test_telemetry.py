"""Do logs hide what is personal, and is a journey one trace, whoever continues it?"""

import json
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from contracts.billing import QueryBill
from services.chassis import telemetry
from services.chassis.ids import uuid7
from services.chassis.service import _shell_log
from services.chassis.settings import Telemetry
from services.chassis.telemetry import batch_span, call_span, is_sampled
from tests.chassis.toys import toy
from tests.ground import Database

JOURNEY = uuid7().replace("-", "")
APPROVED, BILLED = uuid7(), uuid7()


@pytest.fixture
def traced() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    telemetry.configure("billing", Telemetry(sample=1.0), exporter=exporter)
    yield exporter
    telemetry.configure("billing", Telemetry(sample=0.0))


def last_16(ce_id: str) -> int:
    return int(ce_id.replace("-", "")[16:], 16)


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_fact_and_what_came_of_it_stand_in_one_trace_with_ids_by_rule(traced: InMemorySpanExporter) -> None:
    with batch_span("billing", "bulk", 2) as batch:
        batch.handled(JOURNEY, "enrollment.enrollment_approved.v1", APPROVED)
        batch.said(JOURNEY, "billing.bill_issued.v1", BILLED)

    spans = by_name(traced)
    process, publish = (
        spans["process enrollment.enrollment_approved.v1"],
        spans["publish billing.bill_issued.v1"],
    )
    assert process.context.trace_id == publish.context.trace_id == int(JOURNEY, 16)
    assert parent_of(process) == last_16(APPROVED)
    assert parent_of(publish) == process.context.span_id
    assert publish.context.span_id == last_16(BILLED)


def test_a_batch_is_linked_with_at_most_sixteen_of_its_messages(traced: InMemorySpanExporter) -> None:
    with batch_span("billing", "bulk", 40) as batch:
        for _ in range(40):
            batch.handled(uuid7().replace("-", ""), "t", uuid7())

    spans = traced.get_finished_spans()
    whole = by_name(traced)["batch bulk"]
    assert len(whole.links) == 16
    assert {link.context.span_id for link in whole.links} < {span.context.span_id for span in spans}
    assert len(spans) == 41
    assert len({span.context.trace_id for span in spans}) == 41


def test_a_journey_begins_with_its_first_fact(traced: InMemorySpanExporter) -> None:
    with batch_span("enrollment", "money", 1) as batch:
        batch.handled("", "enrollment.submit_enrollment.v1", "")
        batch.said(JOURNEY, "enrollment.enrollment_submitted.v1", APPROVED)

    first = by_name(traced)["publish enrollment.enrollment_submitted.v1"]
    assert first.parent is None
    assert first.context.trace_id == int(JOURNEY, 16)


PARTNERS = f"00-{uuid7().replace('-', '')}-00f067aa0ba902b7-01"


def test_a_partners_own_trace_is_a_link_of_what_came_of_his_message(traced: InMemorySpanExporter) -> None:
    with batch_span("enrollment", "money", 1) as batch:
        batch.handled("", "enrollment.submit_enrollment.v1", "", link=PARTNERS)

    links = by_name(traced)["process enrollment.submit_enrollment.v1"].links
    theirs = next(link.context for link in links if link.context.is_remote)
    assert (theirs.trace_id, theirs.span_id) == (int(PARTNERS[3:35], 16), int(PARTNERS[36:52], 16))
    assert by_name(traced)["process enrollment.submit_enrollment.v1"].context.trace_id != theirs.trace_id


async def test_the_engine_takes_the_link_from_the_partners_header(
    traced: InMemorySpanExporter, database: Database
) -> None:
    async with toy(database) as made:
        ask = made.arrived(QueryBill(request_id="r-1", person_id=uuid7(), insurance_year=2025))
        ask.raw = ask.raw._replace(headers=(*ask.raw.headers, ("traceparent", PARTNERS.encode())))

        with batch_span("billing", "money", 1):
            await made.run(ask)

    links = by_name(traced)["process billing.query_bill.v1"].links
    assert int(PARTNERS[3:35], 16) in {link.context.trace_id for link in links}


@pytest.mark.parametrize(
    "traceparent",
    ["", "garbage", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", PARTNERS.replace("00f067aa0ba902b7", "0" * 16),
     PARTNERS[:52], "00-" + "g" * 32 + "-00f067aa0ba902b7-01", PARTNERS.replace("-", "_")],
)
def test_what_is_no_traceparent_is_no_link(traced: InMemorySpanExporter, traceparent: str) -> None:
    with batch_span("enrollment", "money", 1) as batch:
        batch.handled(JOURNEY, "t", APPROVED, link=traceparent)

    assert len(by_name(traced)["process t"].links) == 1


def test_an_unsampled_journey_leaves_no_span(traced: InMemorySpanExporter) -> None:
    telemetry.configure("billing", Telemetry(sample=0.0), exporter=traced)

    with batch_span("billing", "bulk", 1) as batch, call_span(JOURNEY, "Send", "1", 1):
        batch.handled(JOURNEY, "t", APPROVED)
        batch.said(JOURNEY, "t", BILLED)

    assert traced.get_finished_spans() == ()


def test_a_failure_keeps_its_span_and_its_batchs_though_it_is_not_sampled(
    traced: InMemorySpanExporter,
) -> None:
    telemetry.configure("billing", Telemetry(sample=0.0), exporter=traced)

    with batch_span("billing", "bulk", 2) as batch:
        batch.handled(JOURNEY, "good", APPROVED)
        batch.handled(JOURNEY, "bad", BILLED, error="ValueError")
        batch.handled("no journey", "worse", "no id", error="ValueError")

    assert {span.name: span.status.is_ok for span in traced.get_finished_spans()} == {
        "process bad": False, "process worse": False, "batch bulk": False}


def test_an_exception_through_a_batch_or_a_call_is_told_and_goes_on(traced: InMemorySpanExporter) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        batch_span("payment", "money", 1),
        call_span(JOURNEY, "PlaceOrder", "1", 1),
    ):
        raise ZeroDivisionError

    assert {span.name: span.status.description for span in traced.get_finished_spans()} == {
        "call PlaceOrder": "ZeroDivisionError", "batch money": "ZeroDivisionError"}


def test_the_current_batch_is_found_from_inside(traced: InMemorySpanExporter) -> None:
    with batch_span("payment", "money", 1) as batch:
        assert telemetry.current_batch() is batch
    assert telemetry.current_batch() is None


def test_the_share_of_sampled_journeys_is_the_one_asked_for() -> None:
    telemetry.configure("billing", Telemetry(sample=0.1))
    draw = random.Random(1)
    journeys = [f"{draw.getrandbits(128):032x}" for _ in range(20_000)]

    assert 0.09 < sum(map(is_sampled, journeys)) / len(journeys) < 0.11
    assert not is_sampled("")
    assert not is_sampled("0" * 31)


@pytest.mark.parametrize(("sample", "sampled"), [(0.0, False), (1.0, True), (-1.0, False), (7.0, True)])
@pytest.mark.parametrize("journey", ["0" * 31 + "1", "f" * 32])
def test_none_means_none_and_all_means_all(sample: float, sampled: bool, journey: str) -> None:
    telemetry.configure("billing", Telemetry(sample=sample))

    assert is_sampled(journey) is sampled


def test_of_the_shells_words_its_warnings_are_kept_but_for_one_that_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shell = _shell_log()
    shell.info("received")
    shell.warning("Auto create topics is disabled. Make sure the topics exist.")
    shell.warning("the group is gone")
    assert caplog.messages == ["the group is gone"]


def test_a_log_line_is_json_without_personal_data(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    telemetry.configure("billing", Telemetry())

    telemetry.log.info(
        "told",
        phone="13812345678",
        name="李娜",
        amount_fen=40000,
        journey=JOURNEY,
        bill="2025/1",
        note='身份证990100199003078512，电话 13812345678\n{"event":"forged"}',
        deep={"rows": [{"id_number": "x", "text": "11010519491231002X"}]},
        number=13812345678,
    )

    lines = capsysbinary.readouterr().out.splitlines()
    assert len(lines) == 1
    told = json.loads(lines[0])
    assert told.items() >= {"event": "told", "service": "billing", "level": "info", "amount_fen": 40000,
                            "journey": JOURNEY, "bill": "2025/1"}.items()
    for secret in ("13812345678", "李娜", "990100199003078512", "11010519491231002X"):
        assert secret.encode() not in lines[0]


def test_an_object_an_exception_and_broken_text_can_be_logged(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    telemetry.configure("billing", Telemetry())
    try:
        raise ValueError("电话 13812345678")
    except ValueError:
        telemetry.log.exception("failed", what=object(), who={1: {"13812345678"}}, text="\ud800")

    line = capsysbinary.readouterr().out
    assert json.loads(line)["event"].strip("'") == "failed"
    assert b"ValueError" in line
    assert b"13812345678" not in line


@given(st.recursive(st.text() | st.integers() | st.floats() | st.binary() | st.none(), st.lists))
def test_no_field_breaks_a_line(value: object) -> None:
    event = telemetry.mask(None, "", {"event": "x", "value": value})

    assert b"\n" not in telemetry._line(None, "", event)
