"""How does Kill Bill run beside us? One JVM on our Postgres, pushes on, its bus durable."""

import asyncio
import time
from pathlib import Path

import aiohttp

from bench.peers.killbill.kit import NAME, Kit, make_database
from bench.pipeline import Broken
from sandbox.ports import Ports, write_private
from sandbox.stack import Stack

START_SECONDS = 400.0  # 10 s on a machine of one's own
_OPENS = ("lang", "util", "lang.reflect", "net", "text", "io", "util.concurrent")
_PROTOCOLS = ("file", "ftp", "http", "https", "jar", "jmod", "mailto", "jrt")
# What differs from the war's own file, and why: the external bus is in a table, as ours is durable; more
# claims and threads for the buses; no test mode; patience with plugins while all is cold; the API key is
# hashed once and not 200,000 times with each request: a setting for benchmarks, not a safe one.
_PROPERTIES = """\
org.killbill.dao.url={url}
org.killbill.dao.user={name}
org.killbill.dao.password={password}
org.killbill.dao.logLevel=DEBUG
org.killbill.dao.minIdle=10
org.killbill.dao.maxActive=50
org.killbill.billing.osgi.dao.url={url}
org.killbill.billing.osgi.dao.user={name}
org.killbill.billing.osgi.dao.password={password}
org.killbill.catalog.uri=SpyCarAdvanced.xml
org.killbill.notificationq.main.sleep=100
org.killbill.notificationq.main.claimed=10
org.killbill.notificationq.main.queue.mode=STICKY_POLLING
org.killbill.notificationq.main.notification.nbThreads=1
org.killbill.persistent.bus.external.queue.mode=STICKY_EVENTS
org.killbill.persistent.bus.external.inMemory=false
org.killbill.persistent.bus.main.queue.mode=STICKY_EVENTS
org.killbill.persistent.bus.main.claimed=10
org.killbill.persistent.bus.main.nbThreads=2
org.killbill.persistent.bus.main.sleep=0
org.killbill.persistent.bus.main.queue.capacity=30000
org.killbill.server.multitenant=true
org.killbill.server.test.mode=false
org.killbill.server.http.gzip=true
org.killbill.invoice.sanitySafetyBoundEnabled=false
org.killbill.invoice.maxDailyNumberOfItemsSafetyBound=-1
org.killbill.payment.plugin.timeout=60s
org.killbill.tenant.broadcast.rate=1s
org.killbill.server.updateCheck.skip=true
org.killbill.osgi.bundle.install.dir={bundles}
org.killbill.security.shiroNbHashIterations=1
"""
_LOGBACK = """<configuration><appender name="out" class="ch.qos.logback.core.ConsoleAppender"><encoder>
<pattern>%d %p %c %m%n</pattern></encoder></appender>
<root level="WARN"><appender-ref ref="out"/></root></configuration>
"""


class KillBill:
    """One process. url: where its API is. It stays up between its rounds: its JVM must be warm."""

    def __init__(self, folder: Path, stack: Stack, kit: Kit) -> None:
        self.folder, self.stack, self.kit = folder / NAME, stack, kit
        self.url = f"http://{Ports(folder).door(NAME)}"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid if self._process else 0

    async def up(self) -> None:
        """Make its database and start it. Broken: it does not get healthy."""
        (self.folder / "scratch").mkdir(parents=True)
        (self.folder / "bundles").mkdir()
        password = await make_database(self.stack, self.kit)
        url = f"jdbc:postgresql://{self.stack.pg_host}:{self.stack.pg_port}/{NAME}"
        said = _PROPERTIES.format(url=url, name=NAME, password=password, bundles=self.folder / "bundles")
        write_private(self.folder / "kb.properties", said.encode())
        write_private(self.folder / "logback.xml", _LOGBACK.encode())
        with (self.folder / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        end = time.monotonic() + START_SECONDS
        async with aiohttp.ClientSession() as http:
            while not await self._is_healthy(http):
                if time.monotonic() > end or self._process.returncode is not None:
                    raise Broken(f"Kill Bill did not start; see {self.folder / 'log'}")
                await asyncio.sleep(0.5)

    async def down(self) -> None:
        """End it."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(20):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def _is_healthy(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(f"{self.url}/1.0/healthcheck", timeout=aiohttp.ClientTimeout(5)) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    def _command(self) -> list[str]:
        folder = self.folder.resolve()
        opens = [f"java.base/java.{name}" for name in _OPENS] + ["java.base/sun.nio.ch"]
        opens += [f"java.base/sun.net.www.protocol.{name}" for name in _PROTOCOLS]
        host, _, port = self.url.removeprefix("http://").partition(":")
        return [
            self.kit.java,
            "-Xms1g",
            "-Xmx1g",
            "-XX:+UseG1GC",
            *(word for name in opens for word in ("--add-opens", f"{name}=ALL-UNNAMED")),
            f"-Dlogback.configurationFile={folder}/logback.xml",
            f"-Dorg.killbill.server.properties=file://{folder}/kb.properties",
            "-Duser.timezone=UTC",
            f"-Djava.io.tmpdir={folder / 'scratch'}",
            *("-jar", str(self.kit.runner), "--host", host, "--port", port, str(self.kit.war)),
        ]
