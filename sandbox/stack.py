"""Where are Kafka and Postgres, and who gets in with which password? Starts both, unless others are named.

CANBAO_KAFKA and CANBAO_DATABASE_URL name existing servers, both as their administrators: "host:port"
(everybody may enter without a password) or "SASL_PLAINTEXT://user:password@host:port";
"postgresql://user:password@host:port/postgres".
"""

import asyncio
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import msgspec
from msgspec import Struct

from contracts.topics import PRINCIPALS, SERVICES
from sandbox.kafka import Kafka
from sandbox.kafka_kit import prepare
from sandbox.ports import LOOPBACK, Ports, write_private
from sandbox.postgres import QUICK, Postgres
from services.chassis import partitions
from services.chassis.partitions import Upkeep
from services.chassis.provision import SCHEMAS, provision
from services.chassis.settings import Kafka as KafkaSettings

DATABASE = "canbao"
_POSTGRES_PORT = 5432
SASL, PLAIN = "SASL_PLAINTEXT", "PLAINTEXT"
_DAY_SECONDS, _SOON_SECONDS = 86_400.0, 60.0
Say = Callable[[str], None]


def quiet(line: str) -> None:
    """Say nothing."""


class Stack(Struct, frozen=True, kw_only=True):
    """Addresses and passwords of a running stack.

    secrets: password by principal and role, the same for both servers. kafka_admin, pg_admin_dsn: the
    administrator's way in. kafka_bootstrap, pg_host, pg_port: everybody else's.
    """

    kafka_admin: str
    kafka_bootstrap: str
    kafka_security: str
    pg_admin_dsn: str
    pg_host: str
    pg_port: int
    secrets: dict[str, str]
    database: str = DATABASE

    def kafka(self, principal: str) -> KafkaSettings:
        """How this principal reaches Kafka."""
        if self.kafka_security == PLAIN:
            return KafkaSettings(bootstrap=self.kafka_bootstrap)
        return KafkaSettings(
            bootstrap=self.kafka_bootstrap,
            security=self.kafka_security,
            user=principal,
            password=self.secrets[principal],
        )

    def database_url(self, role: str, database: str = "") -> str:
        """How this role reaches Postgres."""
        place = f"{self.pg_host}:{self.pg_port}/{database or self.database}"
        return f"postgresql://{role}:{self.secrets[role]}@{place}"

    def remember(self, folder: Path) -> None:
        """Write it down for the other verbs; readable by its owner only."""
        write_private(folder / "stack.toml", msgspec.toml.encode(self))

    @staticmethod
    def recall(folder: Path) -> "Stack":
        """The stack that was started over this folder. FileNotFoundError when none was."""
        return msgspec.toml.decode((folder / "stack.toml").read_bytes(), type=Stack)


class Servers:
    """Starts and stops what is not pointed at. quick: for tests, no fsync. say: hears one line per slow
    step.
    """

    def __init__(self, folder: Path, *, quick: bool = False, say: Say = quiet) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._quick, self._say, self._ports = folder, quick, say, Ports(folder)
        self.kafka: Kafka | None = None
        self.postgres: Postgres | None = None

    def start(self) -> Stack:
        """Both run when it returns; nothing is provisioned.

        KitTrouble, KafkaTrouble, PostgresTrouble: nothing runs.
        """
        try:
            with ThreadPoolExecutor(2) as pool:
                kafka = pool.submit(self._start_kafka)
                postgres = pool.submit(self._start_postgres)
                stack = self._stack(kafka, postgres)
        except BaseException:
            self.stop()
            raise
        stack.remember(self._folder)
        return stack

    def stop(self) -> None:
        """Stop what was started here."""
        with ThreadPoolExecutor(2) as pool:
            list(
                pool.map(
                    lambda server: server.stop(), [server for server in (self.kafka, self.postgres) if server]
                )
            )

    def dead(self) -> dict[str, int]:
        """Which of them ended by itself, with its exit code."""
        return {
            name: code
            for name, server in (("kafka", self.kafka), ("postgres", self.postgres))
            if server and (code := server.poll()) is not None
        }

    def pids(self) -> dict[str, int | None]:
        """Process ids of what was started here; None while it is down."""
        return {
            name: server.pid
            for name, server in (("kafka", self.kafka), ("postgres", self.postgres))
            if server
        }

    def revive(self, name: str) -> None:
        """Start one that died again. KafkaTrouble, PostgresTrouble: it cannot."""
        server = self.kafka if name == "kafka" else self.postgres
        assert server is not None
        server.stop()
        server.start()

    def _start_kafka(self) -> tuple[str, str, str]:
        if address := os.environ.get("CANBAO_KAFKA"):
            scheme, _, rest = address.rpartition("://")
            return address, rest.rpartition("@")[2], scheme.upper() or PLAIN
        self.kafka = Kafka(self._folder, prepare(cache_folder(), self._say), self._ports)
        self.kafka.start()
        return self.kafka.admin, self.kafka.bootstrap, SASL

    def _start_postgres(self) -> tuple[str, str, int]:
        if address := os.environ.get("CANBAO_DATABASE_URL"):
            parts = urlsplit(address)
            asked = dict(parse_qsl(parts.query))    # a socket's folder stands there; services come over TCP
            return address, parts.hostname or LOOPBACK, parts.port or int(asked.get("port", _POSTGRES_PORT))
        self.postgres = Postgres(self._folder, self._ports, **(QUICK if self._quick else {}))
        for line in self.postgres.place.said:
            self._say(line)
        self.postgres.start()
        return self.postgres.admin_dsn, LOOPBACK, self.postgres.port

    def _stack(self, kafka: Future[tuple[str, str, str]], postgres: Future[tuple[str, str, int]]) -> Stack:
        admin, bootstrap, security = kafka.result()
        dsn, host, port = postgres.result()
        return Stack(
            kafka_admin=admin,
            kafka_bootstrap=bootstrap,
            kafka_security=security,
            pg_admin_dsn=dsn,
            pg_host=host,
            pg_port=port,
            secrets=keep_passwords(self._folder / "secrets.json"),
        )


def provision_stack(stack: Stack, say: Say = quiet) -> None:
    """Roles, schemas, tables, users, topics and ACLs, as contracts and tables ask for."""
    for line in provision(
        pg_admin_dsn=stack.pg_admin_dsn,
        kafka_admin=stack.kafka_admin,
        secrets=stack.secrets,
        database=stack.database,
        now=datetime.now(UTC),
    ):
        say(line)


def upkeep(stack: Stack) -> Upkeep:
    """What the daily job on the partitions needs to know."""
    return Upkeep({service: stack.database_url(f"{service}_maintenance") for service in SCHEMAS})


async def keep_months(upkeep: Upkeep, say: Say = quiet, kept: Callable[[], None] = lambda: None) -> None:
    """Once a day, and at once, until cancelled: what a deployment's scheduled job does. kept: called whenever
    all went well.
    """
    while True:
        pause = _DAY_SECONDS
        for service, url in upkeep.databases.items():
            try:
                done = await partitions.keep_months(url, service, now=datetime.now(UTC))
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                done, pause = [f"the months of {service} were not kept: {error}"], _SOON_SECONDS
            for line in done:
                say(line)
        if pause == _DAY_SECONDS:
            kept()
        await asyncio.sleep(pause)


def cache_folder() -> Path:
    """Where what is fetched once is kept for every clone: CANBAO_CACHE, else the user's cache folder."""
    named = os.environ.get("CANBAO_CACHE")
    return (
        Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "canbao"
    )


def keep_passwords(path: Path) -> dict[str, str]:
    """Kept as long as the data: roles and users stand in it. A principal that is new gets one."""
    known: dict[str, str] = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    roles = (*PRINCIPALS, *SCHEMAS, *(f"{service}_maintenance" for service in (*SERVICES, *SCHEMAS)))
    passwords = {role: known.get(role) or secrets.token_urlsafe(24) for role in roles}
    if passwords != known:
        write_private(path, msgspec.json.encode(passwords))
    return passwords
