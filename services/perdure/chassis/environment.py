"""Settings from the environment (``PERDURE_*``), and secrets from files (``PERDURE_X_FILE``) as Kubernetes and Compose mount them.

Contract: every field that holds a secret may be given by a file in place of its variable; one line end at the file's end is no part
of the secret. Both at once is an error, as is a file that cannot be read. Files are read once, when the settings are made.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

PREFIX: Final = "PERDURE_"


class SecretFileError(SettingsError):
    """The file of a secret cannot be used; the message names its variable."""


class EnvironmentSettings(BaseSettings):
    """Base of all settings of services.

    Every field is read from the environment variable of the same name in upper case with the prefix ``PERDURE_``.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then files that the environment names."""
        return init_settings, env_settings, SecretFiles(settings_cls)


class SecretFiles(PydanticBaseSettingsSource):
    """Reads ``PERDURE_X_FILE`` for every field that holds a secret."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of one field, ``None`` where no file is named.

        Raises:
            SecretFileError: the variable itself is set as well, or the file cannot be read.

        """
        variable = f"{PREFIX}{field_name.upper()}"
        path = os.environ.get(f"{variable}_FILE")
        if not path or not holds_secret(field.annotation):
            return None, field_name, False
        if variable in os.environ:
            raise SecretFileError(f"{variable} and {variable}_FILE are both set: unset one of them")
        try:
            text = Path(path).read_text().removesuffix("\n")
            plain = field.annotation is not None and dict in (field.annotation, *_origins(field.annotation))
            return (json.loads(text) if plain else text), field_name, plain
        except ValueError as error:
            raise SecretFileError(f"{variable}_FILE: {path} must hold JSON in UTF-8: {error}") from error
        except OSError as error:
            raise SecretFileError(f"{variable}_FILE: {path} cannot be read: {error.strerror}") from error

    def __call__(self) -> dict[str, Any]:
        """The values of all fields that a file is named for."""
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def holds_secret(annotation: Any) -> bool:
    """Whether values of this type are secret, or hold one."""
    return annotation is SecretStr or any(holds_secret(part) for part in get_args(annotation))


def _origins(annotation: Any) -> tuple[Any, ...]:
    return (getattr(annotation, "__origin__", None),)
