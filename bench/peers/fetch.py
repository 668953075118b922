"""How is what others have built fetched? Single files of Maven, pinned by their digests, kept for every
clone.
"""

import hashlib
import tempfile
from pathlib import Path

from sandbox.kafka_kit import KitTrouble, Say


def fetch(lock: Path, folder: Path, say: Say) -> dict[str, Path]:
    """The files of a lock, by their packaging; what is not in `folder` yet is fetched. KitTrouble: one
    cannot be had.
    """
    files = {}
    for line in lock.read_text().splitlines():
        if not line.startswith("#"):
            coordinates, digest = line.split(" sha256:")
            files[coordinates.rsplit(":", 1)[1]] = _file(folder, coordinates, digest, say)
    return files


def _file(folder: Path, coordinates: str, digest: str, say: Say) -> Path:
    group, artifact, version, packaging = coordinates.split(":")
    path = folder / f"{artifact}-{version}.{packaging}"
    if not path.exists():
        from jgo.maven import MavenContext  # noqa: PLC0415 - only the first start needs it

        say(f"fetching {path.name}, once")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as incoming:
            maven = MavenContext(repo_cache=Path(incoming), timeout=120)
            component = maven.project(group, artifact).at_version(version)
            try:
                component.artifact(packaging=packaging).resolve().replace(path)
            except (OSError, RuntimeError) as error:
                raise KitTrouble(f"could not fetch {coordinates}: {error}") from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        path.unlink()
        raise KitTrouble(f"{coordinates} is not the file that its lock names: removed")
    return path
