"""What do faults happen to? Servers of this folder's own, because they are killed; with fsync."""

import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sandbox.postgres import remove
from sandbox.stack import Servers, Stack, provision_stack
from tests.faults.field import Field, prepared
from tests.ground import remember_seed

# the feed's own clients notice that the broker is down
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


@pytest.fixture(scope="session")
def mortal() -> Iterator[tuple[Servers, Stack]]:
    """A provisioned Kafka and Postgres that tests may kill."""
    folder = Path(tempfile.mkdtemp(prefix="canbao-faults-", dir="/tmp"))
    folder.chmod(0o711)  # the user that root lends to Postgres must pass through
    servers = Servers(folder)
    try:
        stack = servers.start()
        provision_stack(stack)
        remember_seed(stack)
        yield servers, stack
    finally:
        servers.stop()
        remove(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def field(mortal: tuple[Servers, Stack], tmp_path: Path) -> AsyncIterator[Field]:
    """The servers, empty, and no member yet."""
    async with prepared(*mortal, tmp_path) as made:
        yield made
