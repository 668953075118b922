"""What does the fuzz stand on? A sandbox of its own: real processes, an empty city."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from cli.place import ROOT
from sandbox.state import read_state
from tests.story.conftest import canbao


class Running(Struct, frozen=True):
    """A sandbox that is up. ours: the environment of its verbs."""

    folder: Path
    ours: dict[str, str]

    def door(self, service: str) -> str:
        """host:port."""
        return self._seen()[service][0]

    def pids(self) -> dict[str, int | None]:
        """By process name; another number after a restart."""
        return {name: pid for name, (_, pid) in self._seen().items()}

    def _seen(self) -> dict[str, tuple[str, int | None]]:
        state = read_state(self.folder)
        assert state is not None
        return {seen.name: (seen.door, seen.pid) for seen in state.processes}


@pytest.fixture(scope="package")
def running() -> Iterator[Running]:
    folder = Path(tempfile.mkdtemp(prefix="canbao-fuzz-", dir="/tmp"))
    folder.chmod(0o711)  # the user that root lends to Postgres must pass through
    data = folder / "data"
    ours = os.environ | {"CANBAO_DATA": str(data), "PYTHONPATH": str(ROOT)}
    try:
        up = canbao(ours, "up")
        assert up.returncode == 0, up.stderr
        yield Running(data, ours)
    finally:
        canbao(ours, "reset")
        shutil.rmtree(folder, ignore_errors=True)
