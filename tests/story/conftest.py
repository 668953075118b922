"""What do the stories and the README stand on? What a newcomer has: `canbao demo`, then `canbao up`."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec import Struct

from cli.place import ROOT
from tests.story.town import Town

CITIZENS = 30  # enough to have bills, payments, refusals and forgeries to look at


class Lived(Struct, frozen=True):
    """A sandbox in which a small city has lived. demo: how that ended; ours: the environment of its verbs."""

    folder: Path
    ours: dict[str, str]
    demo: "subprocess.CompletedProcess[str]"

    def canbao(self, *arguments: str, seconds: float = 200) -> "subprocess.CompletedProcess[str]":
        """Run a verb over this sandbox."""
        return canbao(self.ours, *arguments, seconds=seconds)

    @property
    def report(self) -> dict[str, Any]:
        """What the demo says last."""
        said: dict[str, Any] = json.loads(self.demo.stdout.splitlines()[-1])
        return said


def canbao(
    ours: dict[str, str], *arguments: str, seconds: float = 200
) -> "subprocess.CompletedProcess[str]":
    """What `./canbao` becomes once everything is installed."""
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT, env=ours, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=seconds,
    )


@pytest.fixture(scope="package")
def lived() -> Iterator[Lived]:
    """A demo that has ended, and its sandbox up again in the background."""
    folder = Path(tempfile.mkdtemp(prefix="canbao-story-", dir="/tmp"))
    folder.chmod(0o711)  # the user that root lends to Postgres must pass through
    data = folder / "data"
    ours = os.environ | {"CANBAO_DATA": str(data), "PYTHONPATH": str(ROOT)}
    try:
        demo = canbao(ours, "demo", "--citizens", str(CITIZENS), "--json")
        assert demo.stdout, demo.stderr
        up = canbao(ours, "up")
        assert up.returncode == 0, up.stderr
        yield Lived(data, ours, demo)
    finally:
        canbao(ours, "reset")
        shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(lived: Lived) -> AsyncIterator[Town]:
    """The same sandbox, as the people see it who act in the stories."""
    async with Town.entered(lived.folder) as here:
        yield here
