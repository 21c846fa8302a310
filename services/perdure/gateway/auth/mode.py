"""The setting ``PERDURE_AUTH``."""

from __future__ import annotations

from enum import StrEnum


class AuthMode(StrEnum):
    """Whether the gateway asks who calls."""

    AUTO = "auto"
    KEYS = "keys"
    NONE = "none"
