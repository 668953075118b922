"""What does Kill Bill consist of, and how is its database made? Two files from Maven, the DDL of its jars."""

import io
import re
import secrets
import shutil
import subprocess
import zipfile
from pathlib import Path

import asyncpg
from msgspec import Struct

from bench.peers.fetch import fetch
from sandbox.kafka_kit import KitTrouble, Say
from sandbox.stack import Stack

LOCK = Path(__file__).with_name("killbill.lock")
NAME = "killbill"
_MODULES = (
    "account",
    "beatrix",
    "catalog",
    "entitlement",
    "invoice",
    "payment",
    "subscription",
    "tenant",
    "usage",
)
_DDL = "org/killbill/billing/{}/ddl.sql"


class Kit(Struct, frozen=True):
    """Everything it starts from."""

    java: str
    war: Path
    runner: Path


def prepare(cache: Path, say: Say) -> Kit:
    """Fetch what is not in `cache` yet, and verify it. KitTrouble: something cannot be had."""
    java = shutil.which("java") or ""
    found = re.search(r'version "(\d+)', _output(java, "-version")) if java else None
    if not found or int(found[1]) not in range(11, 22):
        raise KitTrouble(
            "Kill Bill needs a Java from 11 to 21 on PATH; with later ones its plugins do not load"
        )
    files = fetch(LOCK, cache / NAME, say)
    return Kit(java, files["war"], files["jar"])


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


async def make_database(stack: Stack, kit: Kit) -> str:
    """A database of its own on our Postgres; the password of the role that owns it.

    Its DDL makes an event trigger, so the role is a superuser.
    """
    password = secrets.token_urlsafe(24)
    admin = await asyncpg.connect(stack.pg_admin_dsn, ssl="disable")
    try:
        await admin.execute(f"create role {NAME} superuser login password '{password}'")
        await admin.execute(f"create database {NAME} owner {NAME}")
    finally:
        await admin.close()
    own = await asyncpg.connect(
        host=stack.pg_host, port=stack.pg_port, user=NAME, password=password, database=NAME, ssl="disable"
    )
    try:
        for text in _ddl(kit.war):
            await own.execute(text)
    finally:
        await own.close()
    return password


def _ddl(war: Path) -> list[str]:
    with zipfile.ZipFile(war) as outer:
        jars = {
            name.rpartition("/")[2]: name
            for name in outer.namelist()
            if name.startswith("WEB-INF/lib/killbill-")
        }

        def read(module: str, entry: str) -> str:
            name = next(jars[jar] for jar in jars if re.fullmatch(rf"killbill-{module}-[0-9.]+\.jar", jar))
            with zipfile.ZipFile(io.BytesIO(outer.read(name))) as inner:
                return inner.read(entry).decode()

        return [
            read("util", "org/killbill/billing/util/ddl-postgresql.sql"),
            *(read(module, _DDL.format(module)) for module in ("util", *_MODULES)),
        ]
