"""Which port does each part of the sandbox listen on? A free one, and the same again after a restart."""

import os
import random
import socket
import threading
from pathlib import Path

import msgspec

LOOPBACK = "127.0.0.1"
_RANGE = range(20_000, 32_000)    # below those that the system gives to outgoing connections


class Ports:
    """The ports of one folder, by name, remembered in its ports.json."""

    def __init__(self, folder: Path) -> None:
        self._path, self._lock = folder / "ports.json", threading.Lock()

    def take(self, name: str, *, other: bool = False) -> int:
        """The port of the last time while nobody listens there, else a free one.

        other: the last one did not work.
        """
        with self._lock:
            known: dict[str, int] = (
                msgspec.json.decode(self._path.read_bytes()) if self._path.exists() else {}
            )
            if name not in known or other or not is_free(known[name]):
                known[name] = _unused(set(known.values()))
                write_private(self._path, msgspec.json.encode(known))
            return known[name]

    def door(self, name: str) -> str:
        """host:port of that name."""
        return f"{LOOPBACK}:{self.take(name)}"


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback's port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def listens(port: int) -> bool:
    """Whether somebody listens on the loopback's port now."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def write_private(path: Path, content: bytes) -> None:
    """All or nothing, and readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    partial.replace(path)


def _unused(taken: set[int]) -> int:
    while (port := random.choice(_RANGE)) in taken or not is_free(port):
        pass
    return port
