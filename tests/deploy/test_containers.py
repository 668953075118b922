"""Does the whole of it run in containers, and does each image hold only what it should? Needs a Docker
engine.
"""

import gc
import json
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka import KafkaException
from docker.errors import DockerException
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient

from cli.verify import check
from contracts.topics import SERVICES
from deploy.pick import pick, wanted
from sandbox.city import plan
from sandbox.drive import Outside
from sandbox.performance import Ground, perform
from sandbox.ports import Ports
from sandbox.show import Screen
from sandbox.stack import Stack
from services.chassis.partitions import MONTHS_AHEAD, month, months_ahead
from services.chassis.topics import Broker
from tests.deploy.composed import Service, build, copy_out, read_services, run_beside, said_in, up
from tests.source import ROOT

HOUSES = (*SERVICES, "console")
CITIZENS = 12

pytestmark = pytest.mark.timeout(1200)  # a first run builds seven images


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    """A Docker engine that answers, else every test here is skipped and says why."""
    testcontainers_config.ryuk_disabled = True  # another image from outside; what we start, we remove
    if trouble := no_engine():
        pytest.skip(f"no Docker engine answers, so nothing ran in containers: {trouble}")


def no_engine() -> str:
    """Why there is none; empty: there is one."""
    with warnings.catch_warnings():
        # docker-py forgets the socket on which nobody answered
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            DockerClient().client.ping()
        except DockerException as trouble:
            return str(trouble)
        finally:
            gc.collect()
    return ""


@pytest.fixture(scope="module")
def image(engine: None) -> Callable[[str], str]:
    """Builds an image, once."""
    built: dict[str, str] = {}
    services = read_services({})

    def of(name: str) -> str:
        if name not in built:
            built[name] = build(services[name])
        return built[name]

    return of


@pytest.fixture(scope="module")
def services(image: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Service]:
    """The services of docker-compose.yml, their images built, at ports that are free."""
    ports, published = Ports(tmp_path_factory.mktemp("ports")), dict[str, str]()
    for name in (*HOUSES, "kafka", "postgres", "wechat", "sms", "mail"):
        published[f"CANBAO_PORT_{name.upper()}"] = str(ports.take(name))
    services = read_services(published)
    for name in (name for name, service in services.items() if "build" in service):
        image(name)
    return services


@pytest.fixture(scope="module")
def running(services: dict[str, Service]) -> Iterator[dict[str, DockerContainer]]:
    """Every container, healthy."""
    with up(services) as containers:
        yield containers


@pytest.fixture(scope="module")
def vault(running: dict[str, DockerContainer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passwords, keys and addresses, copied out as a user would."""
    folder = tmp_path_factory.mktemp("containers")
    copy_out(running["prepare"], "/run/canbao/vault", folder)
    return folder / "vault"


@pytest.fixture(scope="module")
def ground(vault: Path, services: dict[str, Service]) -> Ground:
    """What partners, agency and payers need to know."""
    stack, skew = Stack.recall(vault), timedelta(seconds=float((vault / "skew").read_text()))
    doors = {name: s["ports"][0].rpartition(":")[0] for name, s in services.items() if "ports" in s}
    return Ground(
        kafka=stack.kafka,
        keys=vault / "keys",
        outside=Outside(doors=doors, provider=f"http://{doors['wechat']}"),
        sms=f"http://{doors['sms']}",
        mail=f"http://{doors['mail']}",
        auditor=stack.database_url("auditor"),
        now=lambda: datetime.now(UTC) + skew,
    )


@pytest.mark.parametrize("house", HOUSES)
def test_a_services_image_holds_contracts_chassis_and_that_service_only(
    image: Callable[[str], str], house: str
) -> None:
    folders = said_in(
        image(house), "cd /app; find . -mindepth 1 -maxdepth 2 -type d -not -name __pycache__ | sort"
    )

    inside = {folder for folder in folders if not folder.startswith("./contracts/")}
    assert inside == {"./contracts", "./services", "./services/chassis", f"./services/{house}"}


@pytest.mark.parametrize("name", [*HOUSES, "wechat", "prepare"])
def test_an_image_holds_no_package_beside_those_picked_for_it(image: Callable[[str], str], name: str) -> None:
    made = {"wechat": "outside", "prepare": "provision"}.get(name, name)
    lock, images = (ROOT / "requirements.lock").read_text(), (ROOT / "deploy" / "images.toml").read_text()
    picked = {
        line.partition("==")[0] for line in pick(lock, wanted(images, made)).splitlines() if line[0].isalnum()
    }

    found = said_in(image(name), "cd /opt/venv/lib/python3*/site-packages; ls -d *.dist-info")

    installed = {entry.partition("-")[0].replace("_", "-").replace(".", "-").lower() for entry in found}
    assert installed
    assert installed <= picked


@pytest.mark.parametrize("name", [*HOUSES, "wechat", "prepare"])
def test_an_image_runs_as_nobody_special_and_holds_no_secret(image: Callable[[str], str], name: str) -> None:
    said = said_in(
        image(name),
        "id -u; find /run/canbao -type f; grep -rlE 'BEGIN [A-Z ]*PRIVATE KEY-----.{9}' /app || true; "
        "find /app -writable | head -3",
    )

    assert said == ["1000"]


async def test_citizens_get_from_application_to_cover_through_containers(ground: Ground, vault: Path) -> None:
    with Screen(quiet=True) as screen:
        report, _ = await perform(plan(CITIZENS, 7), ground, screen, patience_seconds=120)

    assert report.expected_equal, report.differences
    assert min(report.covered, report.settled, report.notified) > 0
    assert {result.id for result in await check(Stack.recall(vault)) if not result.ok} == set()


def test_the_broker_in_a_container_grants_what_contracts_grant_and_nothing_more(vault: Path) -> None:
    found = Broker(Stack.recall(vault).kafka_admin).plan()

    assert found.authorizer
    assert found.lines() == []


async def test_nobody_gets_in_without_a_password(vault: Path) -> None:
    stack = Stack.recall(vault)

    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            stack.database_url("billing").replace(stack.secrets["billing"], "guessed"), ssl="disable"
        )
    with pytest.raises(KafkaException):
        Broker(stack.kafka_bootstrap).plan()


def test_no_password_is_told_by_a_container_or_the_engine(
    running: dict[str, DockerContainer], vault: Path
) -> None:
    secrets = [*Stack.recall(vault).secrets.values(), (vault / "admin").read_text()]

    for name, container in running.items():
        wrapped = container.get_wrapped_container()
        told = wrapped.logs().decode(errors="replace") + json.dumps(wrapped.attrs)
        assert not any(secret in told for secret in secrets), name


async def test_a_services_image_keeps_the_months_when_a_scheduled_job_runs_it_so(
    running: dict[str, DockerContainer], services: dict[str, Service], vault: Path
) -> None:
    stack, last = Stack.recall(vault), month(datetime.now(UTC), MONTHS_AHEAD)
    conn = await asyncpg.connect(stack.pg_admin_dsn, database=stack.database, ssl="disable")
    await conn.execute(f"drop table billing.inbox_{last:%Y_%m}")
    job = ["python", "-m", "services.chassis.partitions"]

    said = run_beside(running["months"], services["billing"]["image"], job)

    ahead = await months_ahead(conn, "billing", now=datetime.now(UTC))
    await conn.close()
    assert said == [f"+ billing.inbox_{last:%Y_%m}"]
    assert ahead == MONTHS_AHEAD


def test_who_keeps_the_months_is_nobody_special_and_knows_his_own_passwords_only(
    running: dict[str, DockerContainer], vault: Path
) -> None:
    number, *files = running["months"].exec(["sh", "-c", "id -u; find /run/canbao -type f"]).output.split()
    settings = running["months"].exec(["cat", "/run/canbao/settings.toml"]).output.decode()

    assert (number, files) == (b"1000", [b"/run/canbao/settings.toml"])
    told = {role for role, secret in Stack.recall(vault).secrets.items() if secret in settings}
    assert told == {f"{service}_maintenance" for service in HOUSES}


@pytest.mark.parametrize("name", [*HOUSES, "months"])
def test_a_service_that_is_told_to_stop_ends_well(running: dict[str, DockerContainer], name: str) -> None:
    container = running[name].get_wrapped_container()

    container.stop(timeout=25)

    assert container.wait()["StatusCode"] == 0
