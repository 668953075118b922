"""What do tests stand on? One real Kafka and one real Postgres per run, emptied for each test that asks."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.postgres import remove
from sandbox.stack import Servers, Stack, provision_stack
from services.chassis.database import flat_lists
from tests.ground import Database, empty_tables, empty_topics, remember_seed

flat_lists()    # as the services do: what is no list would fail there only


@pytest.fixture(scope="session")
def servers() -> Iterator[Stack]:
    """Running servers with nothing in them."""
    folder = Path(tempfile.mkdtemp(prefix="canbao-test-", dir="/tmp"))
    folder.chmod(0o711)  # the user that root lends to Postgres must pass through
    running = Servers(folder, quick=True)
    try:
        yield running.start()
    finally:
        running.stop()
        remove(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(servers: Stack) -> Stack:
    """Servers with every role, schema, table, user, topic and right of this checkout."""
    provision_stack(servers)
    remember_seed(servers)
    return servers


@pytest.fixture
async def database(stack: Stack) -> Database:
    """The provisioned database as a fresh installation finds it."""
    await empty_tables(stack)
    return Database(stack)


@pytest.fixture
def broker(stack: Stack) -> Stack:
    """The stack with every topic empty and every consumer group forgotten; offsets go on where they were."""
    empty_topics(stack.kafka_admin)
    return stack
