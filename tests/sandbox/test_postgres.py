"""Does the embedded Postgres let in whom it should, and survive what happens to it?"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from sandbox.ports import LOOPBACK, Ports
from sandbox.postgres import Postgres, PostgresTrouble, remove
from tests.waiting import until


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may pass through."""
    path = Path(tempfile.mkdtemp(prefix="canbao-test-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    remove(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def postgres(folder: Path) -> Iterator[Postgres]:
    """A running server with everything switched on."""
    server = Postgres(folder, Ports(folder))
    server.start()
    yield server
    server.stop()


def close(folder: Path) -> None:
    """Nobody but its owner may pass."""
    folder.chmod(0o700)


def lie(server: Postgres) -> None:
    """Leave a pid file that names a living process which is no Postgres."""
    (server.place.data / "postmaster.pid").write_text(f"{os.getpid()}\n")


async def ask(postgres: Postgres, sql: str) -> object:
    """One value, as the administrator."""
    conn = await asyncpg.connect(postgres.admin_dsn)
    try:
        return await conn.fetchval(sql)
    finally:
        await conn.close()


async def test_it_is_postgres_18_and_takes_what_the_engine_needs(postgres: Postgres) -> None:
    assert str(await ask(postgres, "show server_version")).startswith("18.")
    assert await ask(postgres, "show max_locks_per_transaction") == "512"
    assert await ask(postgres, "show fsync") == "on"


async def test_the_administrator_has_no_way_in_over_tcp(postgres: Postgres) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(
            host=LOOPBACK, port=postgres.port, user="pgadmin", password="", database="postgres"
        )


async def test_a_role_needs_its_password(postgres: Postgres) -> None:
    await ask(postgres, "create role billing login password 'right'")

    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host=LOOPBACK, port=postgres.port, user="billing", password="wrong", database="postgres"
        )


async def test_a_commit_outlives_the_death_of_the_server(postgres: Postgres) -> None:
    await ask(postgres, "create table kept as select 1 as one")
    port, pid = postgres.port, postgres.pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    until(lambda: postgres.poll() is not None)
    postgres.start()

    assert await ask(postgres, "select one from kept") == 1
    assert postgres.port == port, "clients look for it where it was"


def test_two_servers_never_share_a_folder(postgres: Postgres, folder: Path) -> None:
    with pytest.raises(PostgresTrouble, match="already runs"):
        Postgres(folder, Ports(folder)).start()

    assert postgres.poll() is None


async def test_a_pid_file_that_lies_stops_nobody(folder: Path) -> None:
    server = Postgres(folder, Ports(folder))
    server.start()
    server.stop()
    lie(server)

    server.start()

    assert await ask(server, "select 1") == 1
    server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lends Postgres another user, who may be locked out")
async def test_a_closed_home_makes_it_live_elsewhere_and_say_so(folder: Path) -> None:
    close(folder)
    server = Postgres(folder, Ports(folder))
    server.start()
    try:
        assert await ask(server, "select 1") == 1
        assert not server.place.data.is_relative_to(folder)
        assert any("data lies in" in line for line in server.place.said)
    finally:
        server.stop()
        remove(folder)

    assert not server.place.data.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lends Postgres another user")
def test_root_never_runs_it(postgres: Postgres) -> None:
    assert postgres.pid is not None
    assert psutil.Process(postgres.pid).uids().real != 0
