"""Files that settings name: TOML or JSON, by the file's suffix."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from perdure.chassis import json
from perdure.chassis.errors import ConfigurationError


def read_setting_file(setting: str, file: Path) -> Any:
    """What the file says that a setting names.

    Args:
        setting: The setting's variable, for errors.
        file: TOML if it ends in ``.toml``, else JSON.

    Raises:
        ConfigurationError: it cannot be read, or is neither.

    """
    try:
        raw = file.read_bytes()
        return tomllib.loads(raw.decode()) if file.suffix == ".toml" else json.loads(raw)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{setting} {file}: {error}") from error
