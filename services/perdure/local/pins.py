"""Which files make up each server: coordinates, sizes and sha256, kept in ``pins.json`` beside this module.

``python -m perdure.local.pins`` resolves the roots again (network), and writes the file anew. Review the difference
before committing it: what is written here is what every user runs.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from jgo.maven import Artifact, MavenContext

PINS_FILE: Final = Path(__file__).with_name("pins.json")

KAFKA_VERSION: Final = "4.1.1"
OPENSEARCH_VERSION: Final = "3.4.0"
LOG4J_VERSION: Final = "2.24.3"
"""The version that Kafka's own log4j-core has; only the slf4j backend is added."""
KAFKA: Final = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
"""Resolved with all its dependencies."""
KAFKA_LOGGING: Final = ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_VERSION, "jar")
"""Group, artifact, version, packaging: added as it is. Resolved together with Kafka, it would change other versions."""
OPENSEARCH: Final = ("org.opensearch.distribution.integ-test-zip", "opensearch", OPENSEARCH_VERSION, "zip")
"""One archive, nothing to resolve."""


class Pin(BaseModel):
    """One file of a Maven repository."""

    model_config = ConfigDict(frozen=True)

    group: str
    artifact: str
    version: str
    packaging: str
    size: int
    """Bytes."""
    sha256: str

    @property
    def filename(self) -> str:
        """The file's name in a Maven repository."""
        return f"{self.artifact}-{self.version}.{self.packaging}"


class PinSet(BaseModel):
    """All files of one server."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    files: tuple[Pin, ...]

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(pin.size for pin in self.files)

    @property
    def digest(self) -> str:
        """Changes when any pinned file changes."""
        return hashlib.sha256("".join(pin.sha256 for pin in self.files).encode()).hexdigest()


def load_pins(path: Path = PINS_FILE) -> dict[str, PinSet]:
    """The pinned files by server name (``kafka``, ``opensearch``)."""
    return {name: PinSet.model_validate(entry | {"name": name}) for name, entry in json.loads(path.read_text()).items()}


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve_pins() -> dict[str, PinSet]:
    """Resolve the roots with all their dependencies, download them, and compute sizes and checksums."""
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory(prefix="perdure-pins-") as folder:
        context = MavenContext(repo_cache=Path(folder), timeout=60)
        direct, transitive = context.resolver.resolve([context.create_dependency(KAFKA)])
        kafka = [_pin(dependency.artifact) for dependency in [*direct, *transitive]]
        kafka.append(_pin(_artifact(context, *KAFKA_LOGGING)))
        archive = _pin(_artifact(context, *OPENSEARCH))
        return {
            "kafka": PinSet(name="kafka", version=KAFKA_VERSION, files=_sorted(kafka)),
            "opensearch": PinSet(name="opensearch", version=OPENSEARCH_VERSION, files=(archive,)),
        }


def _artifact(context: MavenContext, group: str, artifact: str, version: str, packaging: str) -> Artifact:
    return context.project(group, artifact).at_version(version).artifact(packaging=packaging)


def _pin(artifact: Artifact) -> Pin:
    path = artifact.resolve()
    return Pin(
        group=artifact.groupId,
        artifact=artifact.artifactId,
        version=artifact.version,
        packaging=artifact.packaging,
        size=path.stat().st_size,
        sha256=sha256_of(path),
    )


def _sorted(pins: list[Pin]) -> tuple[Pin, ...]:
    unique = {pin.filename: pin for pin in pins}
    return tuple(unique[name] for name in sorted(unique))


def write_pins(pins: dict[str, PinSet], path: Path = PINS_FILE) -> None:
    """Write the file that :func:`load_pins` reads."""
    data = {name: pin_set.model_dump(mode="json", exclude={"name"}) for name, pin_set in pins.items()}
    path.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    write_pins(resolve_pins())
    sys.stdout.write(f"wrote {PINS_FILE}\n")
