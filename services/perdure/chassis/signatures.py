"""Signatures of records that give a permission: who can write to a topic but has not the secret cannot forge them.

Contract: :meth:`Signatures.signed` adds a header with an HMAC-SHA-256 over topic, type, version and value;
:meth:`Signatures.verify` refuses a record whose header is missing or wrong. Of several secrets the first signs and all verify: a
new secret is put behind the old one everywhere, then in front, and the old one goes. Without a secret nothing is signed and nothing
refused. The header names the secret by the beginning of its digest, so that a refusal can say which one is missing.

A signature says who wrote a record, not when: who repeats a signed record repeats it, so its receiver must bear repeats.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Self

from pydantic import SecretStr

from perdure.chassis.environment import EnvironmentSettings
from perdure.chassis.errors import ConfigurationError
from perdure.chassis.kafka.deadletter import Origin
from perdure.schemas.deadletter import Reason
from perdure.schemas.envelope import Record, UndecodableError

HEADER: Final = "perdure_signature"
"""``<format>.<key id>.<tag>``, the tag in base64url without padding."""
SECRET_MIN: Final = 32
_FORMAT: Final = "1"
_PURPOSE: Final = b"perdure record 1"
_BOUND: Final = ("ce_type", "ce_schemaversion")
"""Headers that decide how the value is read."""


class SigningSettings(EnvironmentSettings):
    """The secret that services share which believe each other's records."""

    signing_secret: SecretStr | None = None
    """What validations and verdicts are signed with: 32 characters at least (``openssl rand -hex 32``), the same for agent-step,
    validator and scheduler. Several, separated by commas: the first signs, all verify. With one, records that are not signed are
    dead-lettered; without one nothing is signed, and whoever can write to the topics can forge a verdict."""


class Signatures:
    """Signs and verifies with the secrets of one installation."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Set up; no secrets: nothing is signed and nothing refused.

        Raises:
            ConfigurationError: a secret has fewer than ``SECRET_MIN`` characters.

        """
        if any(len(secret) < SECRET_MIN for secret in secrets):
            raise ConfigurationError(
                f"PERDURE_SIGNING_SECRET must hold secrets of {SECRET_MIN} characters at least, several separated by commas. "
                "openssl rand -hex 32 makes one."
            )
        keys = [hmac.digest(secret.encode(), _PURPOSE, "sha256") for secret in secrets]
        self._keys = {hashlib.sha256(key).hexdigest()[:8]: key for key in keys}

    @classmethod
    def of(cls, settings: SigningSettings) -> Self:
        """With the secrets of these settings.

        Raises:
            ConfigurationError: a secret is too short.

        """
        given = settings.signing_secret.get_secret_value() if settings.signing_secret is not None else ""
        return cls([one.strip() for one in given.split(",") if one.strip()])

    @property
    def on(self) -> bool:
        """Whether records are signed."""
        return bool(self._keys)

    def signed(self, topic: str, record: Record) -> Record:
        """The record with its signature as one more header; the record as it is without a secret."""
        if not self._keys:
            return record
        name, key = next(iter(self._keys.items()))
        tag = base64.urlsafe_b64encode(_tag(key, topic, record.headers, record.value)).rstrip(b"=").decode()
        return replace(record, headers=[*record.headers, (HEADER, f"{_FORMAT}.{name}.{tag}".encode())])

    def verify(self, origin: Origin) -> None:
        """Refuse a consumed record that none of the secrets signed.

        Raises:
            UndecodableError: with the reason ``signature``.

        """
        if not self._keys:
            return
        text = next((_text(value) for name, value in origin.headers if name == HEADER), None)
        if text is None:
            raise UndecodableError(
                Reason.SIGNATURE, "the record is not signed; whoever wrote it has no PERDURE_SIGNING_SECRET"
            )
        form, _, rest = text.partition(".")
        name, _, tag = rest.partition(".")
        key = self._keys.get(name)
        if form != _FORMAT or key is None:
            known = ", ".join(self._keys)
            raise UndecodableError(
                Reason.SIGNATURE, f"the record is signed with the secret {name!r:.20}; known here: {known}"
            )
        expected = base64.urlsafe_b64encode(_tag(key, origin.topic, origin.headers, origin.value or b"")).rstrip(b"=")
        if not hmac.compare_digest(expected, tag.encode()):
            raise UndecodableError(Reason.SIGNATURE, "the signature does not fit the record: it was forged or changed")


def _tag(key: bytes, topic: str, headers: Iterable[tuple[str, bytes | str | None]], value: bytes) -> bytes:
    """HMAC over parts of a known length each, so that no other parts give the same bytes."""
    found: Mapping[str, bytes | str | None] = dict(headers)
    parts = [topic.encode(), *(_text(found.get(name)).encode() for name in _BOUND), value]
    return hmac.digest(key, b"".join(len(part).to_bytes(8, "big") + part for part in parts), "sha256")


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""
