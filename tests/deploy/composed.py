"""How is docker-compose.yml run where an engine answers but nobody has installed compose?

Its services as testcontainers' generic containers. A key of the file that is not understood here is an
error, so that the test runs what stands there and nothing is left out in silence.
"""

import io
import re
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import HealthcheckWaitStrategy

from tests.source import ROOT

READY_SECONDS = 180
ONCE = {"prepare", "provision"}  # the services that do one thing and end
_NANOSECONDS = 10**9
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
_TAKEN_AS_IT_IS = {"user", "read_only", "cap_drop", "security_opt"}
_UNDERSTOOD = _TAKEN_AS_IT_IS | {
    "image",
    "build",
    "command",
    "environment",
    "ports",
    "volumes",
    "tmpfs",
    "depends_on",
    "healthcheck",
    "restart",
    "stop_grace_period",  # docker-py asks for it when it stops, and here everything is killed in the end
}
Service = dict[str, Any]


def read_services(environment: Mapping[str, str]) -> dict[str, Service]:
    """The services of docker-compose.yml, with ${NAME:-default} filled in. AssertionError: a key we do not
    know.
    """
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    text = _VARIABLE.sub(lambda found: environment.get(found[1], found[2]), text).replace("$$", "$")
    services: dict[str, Service] = YAML(typ="safe").load(text)["services"]
    for name, service in services.items():
        assert service.keys() <= _UNDERSTOOD, f"{name}: {service.keys() - _UNDERSTOOD} is not understood here"
    return services


def build(service: Service) -> str:
    """Build the image of a service, and give it its name. It stays: the next build begins with its layers."""
    how = service["build"]
    image: str = service["image"]
    DockerImage(
        path=ROOT / how["context"],
        dockerfile_path=how["dockerfile"],
        tag=image,
        clean_up=False,
        target=how.get("target", ""),
        buildargs=how["args"],
    ).build()
    return image


@contextmanager
def up(services: Mapping[str, Service]) -> Iterator[dict[str, DockerContainer]]:
    """All services, started after what they depend on, all healthy. Whatever they leave is removed."""
    project, docker, running = (
        f"canbao-{uuid.uuid4().hex[:8]}",
        DockerClient().client,
        dict[str, DockerContainer](),
    )
    with ExitStack() as exits:
        exits.callback(lambda: [each.remove() for each in docker.volumes.list(filters={"name": project})])
        network = exits.enter_context(Network())
        for name in TopologicalSorter(
            {n: s.get("depends_on", {}) for n, s in services.items()}
        ).static_order():
            for other, wish in services[name].get("depends_on", {}).items():
                _await(other, running[other], wish["condition"])
            container = _container(services[name], project).with_network(network).with_network_aliases(name)
            running[name] = exits.enter_context(container)
        for name, container in running.items():
            if name not in ONCE:
                _await(name, container, "service_healthy")
        yield running


def copy_out(container: DockerContainer, path: str, into: Path) -> None:
    """Copy a folder out of a container, which may have ended."""
    parts, _ = container.get_wrapped_container().get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        archive.extractall(into, filter="data")


def said_in(image: str, script: str) -> list[str]:
    """The lines that a shell script says in a fresh container of an image."""
    said: bytes = DockerClient().client.containers.run(
        image, [script], entrypoint=["/bin/sh", "-ec"], remove=True
    )
    return said.decode().splitlines()


def run_beside(other: DockerContainer, image: str, command: list[str]) -> list[str]:
    """The lines that a command says in a fresh container of an image, with the volumes and in the network of
    another one that runs. ContainerError: it did not end well.
    """
    beside = other.get_wrapped_container()
    said: bytes = DockerClient().client.containers.run(
        image,
        command[1:],
        entrypoint=command[:1],
        network=next(iter(beside.attrs["NetworkSettings"]["Networks"])),
        volumes_from=[f"{beside.id}:ro"],
        read_only=True,
        remove=True,
    )
    return said.decode().splitlines()


def _container(service: Service, project: str) -> DockerContainer:
    made = DockerContainer(service["image"])
    made.with_envs(**{name: str(value) for name, value in service.get("environment", {}).items()})
    if "command" in service:
        made.with_command(service["command"])
    for path in service.get("tmpfs", ()):
        made.with_tmpfs_mount(path)
    for text in service.get("volumes", ()):
        volume, path, *mode = text.split(":")
        made.with_volume_mapping(f"{project}-{volume}", path, *(mode or ["rw"]))
    ports: dict[str, Any] = made.ports
    for text in service.get("ports", ()):
        address, port, inside = text.split(":")
        ports[inside] = (address, int(port))
    wishes = {key: service[key] for key in _TAKEN_AS_IT_IS & service.keys()}
    if "restart" in service:
        wishes["restart_policy"] = {"Name": service["restart"]}
    if "healthcheck" in service:
        wishes["healthcheck"] = {key: _nanoseconds(value) for key, value in service["healthcheck"].items()}
    return made.with_kwargs(**wishes)


def _nanoseconds(value: Any) -> Any:
    """The engine counts in nanoseconds what compose writes as 2s."""
    return (
        int(value[:-1]) * _NANOSECONDS if isinstance(value, str) and re.fullmatch(r"\d+s", value) else value
    )


def _await(name: str, container: DockerContainer, condition: str) -> None:
    """Until a container is healthy, or has ended well. AssertionError, with the end of what it said: it has
    not.
    """
    try:
        if condition == "service_completed_successfully":
            assert container.wait() == 0
        else:
            HealthcheckWaitStrategy().with_startup_timeout(READY_SECONDS).wait_until_ready(container)
    except (AssertionError, RuntimeError, TimeoutError) as trouble:
        said = container.get_wrapped_container().logs(tail=30).decode(errors="replace")
        raise AssertionError(f"{name}: {trouble}\n{said}") from trouble
