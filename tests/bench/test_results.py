"""Does what people read say what was measured, what was reached, and by how much not?"""

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import goals, picture, results, steady
from bench.clients import Record, arrivals
from bench.memory import peaks
from bench.pipeline import PARTS
from bench.report import summary
from cli import bench as verb
from tests.bench.test_pipeline import rounds

LEVEL = {"e2e_ms": {"p50": 80.0, "p99": 400.0, "p999": 500.0}, "bt_per_s": 300.0}
MEASURED: dict[str, Mapping[str, Any]] = {
    "pipeline": summary([*rounds("ours", 500), *rounds("raw", 300)]),
    "peers": {
        loop: {"cpu_ms_per_bt": {part: {"median": 2.5} for part in PARTS}} for loop in ("ours", "careful")
    },
    "latency": {"levels": {"10%": LEVEL, "50%": LEVEL}, "cores_at_50": 0.3, "most_pss_mb": 90},
}


def test_each_goal_is_told_as_reached_or_short_by_so_much_or_not_measured() -> None:
    told = [each.text for each in goals.reached(MEASURED)]

    assert told[0] == "✗ roofline fraction, CPU of raw ÷ ours: 0.667, ≥ 0.75 wanted; 0.083 short"
    assert told[1] == "– WAL, ours ÷ raw's: not measured, ≤ 1.05 wanted"
    assert told[2] == "✓ processors at 50 BT/s: 0.3, ≤ 0.5 wanted"
    assert "✓ end to end, p50 at 10 % of the maximum: 80 ms, ≤ 100 ms wanted" in told
    assert "✗ end to end, p99 at 50 % of the maximum: 400 ms, ≤ 300 ms wanted; 100 ms short" in told


def test_a_figure_that_falls_short_is_never_shown_as_its_bound() -> None:
    told = [each.text for each in goals.reached({"exact": {"wal_ratio": 1.0512}})]

    assert "✗ WAL, ours ÷ raw's: 1.051, ≤ 1.05 wanted; 0.0012 short" in told


def test_the_picture_is_sound_and_says_its_numbers() -> None:
    drawn = ElementTree.fromstring(picture.draw(MEASURED))  # noqa: S314 -- ours
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]

    assert "600 µs, 500 BT/s" in texts
    assert "80 / 400 / 500 ms" in texts
    assert texts.count("7,500 µs") == 2


def test_nothing_measured_is_an_empty_picture() -> None:
    assert list(ElementTree.fromstring(picture.draw({}))) != []  # noqa: S314 -- ours


def test_what_is_kept_is_read_again_with_its_command_and_machine(tmp_path: Path) -> None:
    results.keep("latency", {"cores_at_50": 0.7}, "0.7 processors", tmp_path)

    kept = results.recall(tmp_path)
    text = results.as_text(kept)

    assert kept["latency"].figures == {"cores_at_50": 0.7}
    assert "✗ processors at 50 BT/s: 0.7, ≤ 0.5 wanted; 0.2 short" in text
    assert "## latency: `./canbao bench latency`" in text
    assert "Postgres 18" in text
    assert "Kafka 4" in text
    assert "0.7 processors" in text


def test_the_results_in_the_repository_are_those_of_the_kept_figures() -> None:
    kept = results.recall()

    assert results.RESULTS.read_text(encoding="utf-8") == results.as_text(kept)
    assert results.PICTURE.read_text(encoding="utf-8") == picture.draw(results.figures_of(kept))


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert steady.percentile([5.0, 1.0, 3.0, 2.0, 4.0], 50.0) == 3.0
    assert steady.percentile([1.0] * 99 + [9.0], 99.0) == 1.0
    assert steady.percentile([1.0] * 99 + [9.0], 99.9) == 9.0


def test_people_come_by_chance_at_the_rate_and_always_the_same() -> None:
    some = [Record(0, b"", b"", [])] * 5_000
    due = arrivals(some, 100.0, Random(7))

    assert due == arrivals(some, 100.0, Random(7))
    assert due == sorted(due)
    assert due[-1] == pytest.approx(50.0, rel=0.05)


async def test_a_peak_of_memory_is_seen_though_the_process_has_shrunk_again() -> None:
    code = (
        "import sys\nhuge = b'x' * 60_000_000\nprint(flush=True)\nsys.stdin.readline()\ndel huge\n"
        "print(flush=True)\nsys.stdin.readline()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    async with peaks(lambda: {"it": process.pid}) as most:
        pass
    await process.communicate(b"\n\n")

    assert 60e6 < most["it"] < 90e6


def test_all_measures_everything_but_a_season() -> None:
    assert set(verb.MEASURES) - set(verb.ALL) == {"season"}


@pytest.mark.parametrize("what", ["all", *verb.MEASURES])
def test_each_measurement_can_be_asked_for_by_its_name(what: str) -> None:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)

    assert parser.parse_args([what, "--quick"]).what == what
