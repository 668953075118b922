"""Does tail show every record, whatever its bytes are, and count them?"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from sandbox.processes import ROOT
from sandbox.stack import Stack

TOPIC, PART = "billing.bills", 1
STRANGE: tuple[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]], ...] = (
    (b"k", b'{"due_fen": 40000}', [("ce_type", b"billing.bill_issued.v1")]),
    (None, None, []),
    (b"\xff\xfe", b"\x00\xff", [("ce_id", b"\xff"), ("ce_type", None)]),
    (b"", b"", []),
    (b"k", "缴费单".encode("gbk"), []),
    (b"k", b'{"name": "\\ud800"}', []),
    (b"k", b'{"due_fen": NaN}', []),
    (b"k", b'{"due_fen": ' + b"9" * 5000 + b"}", []),
    (b"k", b"[" * 100_000, []),
    (b"k", b"[" * 985 + b"]" * 985, []),
    (b"k", b"line\nline\r\n", []),
)


@pytest.fixture
def folder(broker: Stack, tmp_path: Path) -> Path:
    broker.remember(tmp_path)
    return tmp_path


def put(stack: Stack, records: Any) -> None:
    """Records, past every right and contract."""
    producer = Producer({"bootstrap.servers": stack.kafka_admin, "log_level": 0})
    for key, value, headers in records:
        producer.produce(TOPIC, value, key, PART, headers=headers)
    assert producer.flush(20) == 0


def tail(folder: Path, *more: str) -> tuple[list[dict[str, Any]], str]:
    """The lines, each of them JSON for whoever reads strictly, and what was said at the end."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", "tail", TOPIC, *more],
        capture_output=True,
        cwd=ROOT,
        check=False,
        timeout=50,
        env={**os.environ, "CANBAO_DATA": str(folder)},
    )
    assert done.returncode == 0, done.stderr

    def no_constant(text: str) -> None:
        raise AssertionError(text)

    lines = done.stdout.decode().splitlines()
    return [json.loads(line, parse_constant=no_constant) for line in lines], done.stderr.decode()


def test_whatever_a_record_is_it_is_a_line(folder: Path, broker: Stack) -> None:
    put(broker, STRANGE)
    lines, said = tail(folder, "--from", "beginning", "--no-follow")
    assert len(lines) == len(STRANGE)
    assert said == f"{TOPIC}: {len(STRANGE)} read, {len(STRANGE)} printed (partition 1: {len(STRANGE)})\n"
    assert [line["offset"] - lines[0]["offset"] for line in lines] == list(range(len(STRANGE)))
    assert (lines[0]["headers"], lines[0]["body"]) == (
        {"ce_type": "billing.bill_issued.v1"},
        {"due_fen": 40000},
    )
    assert (lines[1]["key"], lines[1]["body"]) == (None, None)
    assert lines[2]["key"] == {"base64": "//4="}
    assert lines[2]["headers"] == {"ce_id": {"base64": "/w=="}, "ce_type": None}
    assert [set(line["body"]) for line in (lines[2], lines[4])] == [{"base64"}, {"base64"}]
    assert lines[5]["body"] == {"name": "\ud800"}
    assert lines[6]["body"] == {"text": '{"due_fen": NaN}'}
    assert lines[10]["body"] == {"text": "line\nline\r\n"}


def test_a_burst_is_printed_to_the_last_record(folder: Path, broker: Stack) -> None:
    put(broker, ((b"k", b'{"n": %d}' % n, []) for n in range(10_000)))
    lines, said = tail(folder, "--from", "beginning", "--no-follow")
    assert [line["body"]["n"] for line in lines] == list(range(10_000))
    assert "10000 read, 10000 printed" in said


def test_a_filter_counts_what_it_does_not_print(folder: Path, broker: Stack) -> None:
    put(broker, ((b"k", b'{"lines": [{"fen": %d}]}' % (n % 2), []) for n in range(10)))
    lines, said = tail(folder, "--from", "beginning", "--no-follow", "--filter", "lines.0.fen=1")
    assert len(lines) == 5
    assert "10 read, 5 printed" in said


def test_it_begins_where_it_is_told(folder: Path, broker: Stack) -> None:
    put(broker, ((b"k", b"%d" % n, []) for n in range(3)))
    every, _ = tail(folder, "--from", "beginning", "--no-follow")
    last, _ = tail(folder, "--from", str(every[2]["offset"]), "--no-follow")
    assert [line["body"] for line in last] == [2]
    assert tail(folder, "--from", "9" * 30, "--no-follow")[0] == []
    assert tail(folder, "--from", "2999-01-01T00:00+08:00", "--no-follow")[0] == []
    assert len(tail(folder, "--from", "2024-01-01T00:00+08:00", "--no-follow")[0]) == 3
    assert len(tail(folder, "--from", "0001-01-01T00:00+00:00", "--no-follow")[0]) == 3
