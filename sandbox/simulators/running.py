"""How is a simulator started from outside?

Its settings written, its process started, its ready line awaited.
"""

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY_SECONDS = 20.0


@contextmanager
def simulator(name: str, settings: Mapping[str, Any], directory: Path) -> Iterator[dict[str, str]]:
    """A running simulator (wechat, sms or mail) and where it listens; ended by SIGTERM on leaving.

    directory: for its settings file and its log. RuntimeError: it was not ready in time; the log's end says
    why.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file, log = directory / f"{name}.toml", directory / f"{name}.log"
    file.touch(mode=0o600)
    file.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in settings.items()))
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", f"sandbox.simulators.{name}", "--settings", str(file)],
            stdout=subprocess.PIPE, stderr=errors, cwd=Path(__file__).parents[2],
        )
    try:
        yield _ready(process, log)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> dict[str, str]:
    assert process.stdout is not None
    deadline, line = time.monotonic() + READY_SECONDS, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n") and selector.select(max(0.0, deadline - time.monotonic())):
            part = os.read(process.stdout.fileno(), 4096)
            if not part:
                break
            line += part
    if not line.endswith(b"\n"):
        raise RuntimeError(f"{process.args!r} is not ready: {log.read_text()[-2000:]}")
    where: dict[str, str] = json.loads(line)
    return where


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
