"""Which processes make the sandbox beside Kafka and Postgres, and what does each read when it starts?"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from contracts.topics import SERVICES
from sandbox.keys import make_keys
from sandbox.ports import Ports, write_private
from sandbox.stack import Stack
from services.chassis.settings import Outside, Settings

ROOT = Path(__file__).resolve().parents[1]
READY = "/health/ready"
_INHERITED = ("HOME", "LANG", "PATH", "SSL_CERT_FILE", "TMPDIR")


class Process(Struct, frozen=True, kw_only=True):
    """One process. settings: its file. door: host:port that answers when it is ready.

    path: asked there for a 200; "": that somebody listens is enough.
    """

    name: str
    module: str
    settings: Path
    door: str
    path: str = ""
    takes_argument: bool = False

    @property
    def command(self) -> list[str]:
        """What is run."""
        return [
            sys.executable,
            "-m",
            self.module,
            *(("--settings", str(self.settings)) if self.takes_argument else ()),
        ]

    @property
    def env(self) -> dict[str, str]:
        """Its whole environment: where its settings are, nothing secret."""
        kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return kept | {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "TZ": "UTC",
            "CANBAO_SETTINGS": str(self.settings),
        }


def make_processes(
    folder: Path, stack: Stack, changes: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Process]:
    """Write keys and settings files below `folder`; the processes that read them, the outside world first.

    changes: by process name, settings that differ from the usual ones (a simulator's faults, a sampling
    rate).
    """
    changes, ports = changes or {}, Ports(folder)
    make_keys(folder / "keys")
    outside = Outside(
        wechat=f"http://{ports.door('wechat')}",
        sms=f"http://{ports.door('sms')}",
        smtp=ports.door("smtp"),
        callback=f"http://{ports.door('payment')}/v1/wechat/notify",
    )
    simulated = {
        "wechat": {
            "account": str(folder / "keys" / "wechatpay-platform.json"),
            "listen": ports.door("wechat"),
            "database": stack.database_url("auditor"),
        },
        "sms": {"account": str(folder / "keys" / "sms-platform.json"), "listen": ports.door("sms")},
        "mail": {"listen": ports.door("smtp"), "http": ports.door("mail")},
    }
    made = []
    for name, values in simulated.items():
        file = _write(folder, name, {**values, **changes.get(name, {})})
        made.append(
            Process(
                name=name,
                module=f"sandbox.simulators.{name}",
                settings=file,
                door=values.get("http", values["listen"]),
                takes_argument=True,
            )
        )
    for name in (*SERVICES, "console"):
        settings = Settings(
            service=name,
            database=stack.database_url(name),
            keys=str(folder / "keys" / f"{name}.json"),
            door=ports.door(name),
            kafka=stack.kafka(name),
            sandbox=True,
            outside=outside,
        )
        file = _write(folder, name, {**msgspec.to_builtins(settings), **changes.get(name, {})})
        if (ROOT / "services" / name / "app.py").exists():
            made.append(
                Process(
                    name=name, module=f"services.{name}.app", settings=file, door=settings.door, path=READY
                )
            )
    return made


def _write(folder: Path, name: str, values: Mapping[str, Any]) -> Path:
    path = folder.resolve() / "settings" / f"{name}.toml"
    write_private(path, msgspec.toml.encode(values))
    return path
