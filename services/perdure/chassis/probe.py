"""``python -m perdure.chassis.probe URL``: the health check of a container that has no curl.

Contract: exit status 0 when ``GET URL`` answers 200 in time; else 1, with the reason on stdout (container engines keep it).
Stands on the standard library alone, since it runs every few seconds.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from typing import Final

TIMEOUT_S: Final = 3.0
SHOWN_BYTES: Final = 500


def probe(url: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """Why ``url`` does not answer 200 within ``timeout_s`` seconds; None if it does."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            return None if answer.status == 200 else f"HTTP {answer.status}"
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}: {error.read(SHOWN_BYTES).decode(errors='replace')}"
    except (OSError, ValueError) as error:
        return str(error)


def main() -> int:
    """Run the command; returns the exit status."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m perdure.chassis.probe URL\n")
        return 2
    problem = probe(sys.argv[1])
    if problem is not None:
        sys.stdout.write(f"{sys.argv[1]}: {problem}\n")
    return 0 if problem is None else 1


if __name__ == "__main__":
    sys.exit(main())
