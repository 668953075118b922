"""What does a process need to know to start? One file, named by CANBAO_SETTINGS, readable by its owner only.
"""

import os
from pathlib import Path

import msgspec
from msgspec import Struct


class Kafka(Struct, frozen=True):
    """bootstrap: host:port. security: SASL_PLAINTEXT (SCRAM-SHA-256) or PLAINTEXT (no user)."""

    bootstrap: str
    user: str = ""
    password: str = ""
    security: str = "PLAINTEXT"


class Telemetry(Struct, frozen=True):
    """sample: the share of journeys that are traced. otlp: the collector's address; empty: spans go nowhere.
    """

    sample: float = 0.01
    otlp: str = ""


class Outside(Struct, frozen=True):
    """Where the world outside answers; only the services that talk to it use these."""

    wechat: str = ""
    sms: str = ""
    smtp: str = ""
    callback: str = ""


class Settings(Struct, frozen=True, kw_only=True):
    """One process's settings. member: its number under a stable name, -1 where nobody hands out stable names.

    door: host:port of its HTTP side. sandbox: the business clock may be moved.
    """

    service: str
    database: str
    keys: str
    door: str
    kafka: Kafka
    member: int = 0
    sandbox: bool = False
    telemetry: Telemetry = Telemetry()
    outside: Outside = Outside()


def load_settings() -> Settings:
    """The settings of this process. SystemExit with one clear line when there are none or they are wrong."""
    path = os.environ.get("CANBAO_SETTINGS", "")
    try:
        return msgspec.toml.decode(Path(path).read_bytes(), type=Settings)
    except (OSError, msgspec.MsgspecError) as error:
        raise SystemExit(f"CANBAO_SETTINGS={path or '(not set)'}: {error}") from None
