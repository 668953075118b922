"""Do docker-compose.yml and the Dockerfile keep their promises? What can be seen without an engine."""

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from contracts.topics import SERVICES
from deploy.pick import pick, wanted
from sandbox.containers import prepare
from tests.deploy.composed import ONCE, read_services
from tests.source import ROOT, files, nodes

COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILES = (ROOT / "deploy" / "Dockerfile", ROOT / "deploy" / "sandbox.Dockerfile")
IMAGES, LOCK = (ROOT / "deploy" / "images.toml").read_text(), (ROOT / "requirements.lock").read_text()
HOUSES = (*SERVICES, "console")
FOREIGN = ("kafka", "postgres")
# of the chassis; no running service loads them
PROVISIONING = {"migrate.py", "provision.py", "roles.py", "topics.py"}
EXPORTER = "opentelemetry-exporter-otlp-proto-http"
BY_NAME = {"cramjam", "uvloop", "typing-extensions"}  # loaded by name, or for types only


def instructions(path: Path) -> list[str]:
    """A Dockerfile's instructions, one a line."""
    text = path.read_text().replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def stages(path: Path) -> dict[str, list[str]]:
    """Its instructions by stage."""
    found: dict[str, list[str]] = {}
    for line in instructions(path):
        if line.startswith("FROM"):
            found[line.split()[-1]] = []
        found[list(found)[-1]].append(line)
    return found


def test_compose_would_take_the_file() -> None:
    check = [
        str(Path(sys.executable).with_name("check-jsonschema")),
        "--builtin-schema",
        "vendor.compose-spec",
        str(COMPOSE),
    ]

    done = subprocess.run(check, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_run_is_run_by_a_user_without_rights(path: Path) -> None:
    run = [lines for lines in stages(path).values() if any(line.startswith("ENTRYPOINT") for line in lines)]

    assert run
    assert all([line for line in lines if line.startswith("USER")] == ["USER 1000:1000"] for lines in run)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_every_build_can_be_had_from_named_versions_alone(path: Path) -> None:
    froms = {line.split()[1] for line in instructions(path) if line.startswith("FROM")}
    copied = {found[1] for line in instructions(path) if (found := re.search(r"--from=(\S+)", line))}

    assert all(is_pinned(image) for image in froms - set(stages(path)))
    assert copied <= set(stages(path)), "only our own stages: nothing else is fetched while building"
    assert not re.match(r"#\s*syntax", path.read_text()), "a frontend would be fetched from outside"
    assert "PIP_REQUIRE_HASHES=1" in path.read_text()


def test_every_image_that_is_run_has_a_named_version() -> None:
    assert all(is_pinned(service["image"]) for service in read_services({}).values())


def is_pinned(image: str) -> bool:
    return ":" in image and not image.endswith(":latest")


def test_no_secret_stands_in_the_recipe() -> None:
    lines = [line for path in DOCKERFILES for line in instructions(path)]
    names = [
        name for line in lines if line.startswith(("ENV", "ARG")) for name in re.findall(r"[A-Z_]{3,}", line)
    ]
    names += [name for service in read_services({}).values() for name in service.get("environment", {})]

    secret = [
        name for name in names if re.search("PASSW|SECRET|TOKEN|KEY", name) and not name.endswith("_FILE")
    ]
    assert secret == []


def test_what_is_sent_to_the_builder_is_named() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]

    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {
        "contracts",
        "services",
        "sandbox",
        "requirements.lock",
        "deploy/images.toml",
        "deploy/pick.py",
    }


@pytest.mark.parametrize("name", read_services({}))
def test_a_container_may_do_little(name: str) -> None:
    service = read_services({})[name]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) == (name not in FOREIGN)
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("name", [name for name in read_services({}) if name not in ONCE])
def test_a_container_sees_its_own_volume_only(name: str) -> None:
    volumes = read_services({})[name]["volumes"]

    assert {each for each in volumes if not each.startswith(f"{name}-data:")} == {f"{name}:/run/canbao:ro"}


@pytest.mark.parametrize("image", [*HOUSES, "outside"])
def test_an_image_gets_what_its_own_source_imports_and_no_more(image: str) -> None:
    folders = ["contracts", "services/chassis", f"services/{image}"]
    own = files(*(["sandbox/simulators"] if image == "outside" else folders))
    run = [path for path in own if path.name not in PROVISIONING and "migrations" not in path.parts]

    imported = {distribution for path in run for distribution in distributions(path)}
    assert set(wanted(IMAGES, image)) - BY_NAME == imported - BY_NAME


def test_what_prepares_a_sandbox_needs_no_package_that_its_image_lacks() -> None:
    picked = {line.partition("==")[0] for line in pick(LOCK, wanted(IMAGES, "provision")).splitlines()}
    lacking = [
        top
        for top, names in packages().items()
        if picked.isdisjoint(name.lower().replace("_", "-") for name in names)
    ]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({lacking}))\n"
        "import sandbox.containers, services.chassis.migrate as made\n"
        f"for service in {HOUSES}: made.metadata_of(service), list(made.history(service).walk_revisions())"
    )

    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@cache
def packages() -> Mapping[str, list[str]]:
    """Which packages a top-level module may come from."""
    return packages_distributions()


def distributions(path: Path) -> set[str]:
    """What a file imports of others, by the names of the packages."""
    known, found = packages(), set[str]()
    for node in nodes(path):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            if module.startswith("opentelemetry"):  # one name, many packages
                found.add(EXPORTER if "exporter" in module else "opentelemetry-sdk")
            else:
                packaged = known.get(module.partition(".")[0], ())
                found |= {name.lower().replace("_", "-") for name in packaged}
    return found


def test_a_picked_lock_is_closed_and_every_line_has_its_hashes() -> None:
    picked = pick(LOCK, ["aiohttp"])

    names = set(re.findall(r"(?m)^([a-z0-9-]+)==", picked))
    assert names >= {"aiohttp", "yarl", "multidict", "idna", "propcache"}
    assert "aiokafka" not in names
    assert all("--hash=sha256:" in part for part in re.split(r"(?m)^(?=[a-z])", picked) if part)


def test_a_package_that_is_not_locked_is_said() -> None:
    with pytest.raises(KeyError, match="leftpad"):
        pick(LOCK, ["leftpad"])


def test_what_containers_read_is_their_owners_only_and_nobody_elses(tmp_path: Path) -> None:
    prepare(tmp_path, kafka_port=19092, postgres_port=15432, begins="2024-12-20T09:00+08:00")

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o077 for path in written} == {0}
    assert {path.name for path in (tmp_path / "billing").iterdir()} == {"billing.json", "settings.toml"}
    assert {path.name for path in (tmp_path / "payment").iterdir()} == {
        "payment.json",
        "settings.toml",
        "wechatpay.json",
    }


def test_preparing_again_changes_no_key_no_password_and_no_clock(tmp_path: Path) -> None:
    texts = []
    for begins in ("2024-12-20T09:00+08:00", ""):
        prepare(tmp_path, kafka_port=19092, postgres_port=15432, begins=begins)
        texts.append({path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()})

    assert texts[0] == texts[1]
