"""The keys that stored values are encrypted with: AES-256-GCM, several keys with ids.

Contract: the first key encrypts, every key decrypts. A sealed value is bytes: format, key id, a digest of what the value is bound
to, nonce, ciphertext with its tag; all before the ciphertext is authenticated. This format is stored; never change it. A value
that was changed, or sealed with a key that is not known, raises :class:`SealedError`.

Outside: which values are sealed (``perdure.chassis.at_rest``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from perdure.chassis.errors import ConfigurationError, PerdureError

FORMAT: Final = 1
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
BOUND_BYTES: Final = 16
SETTING: Final = "PERDURE_ENCRYPTION_KEYS"
_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,32}")
HOW: Final = (
    f"{SETTING} is a list of id:key, separated by commas or line ends; a key is 32 bytes in base64 "
    f"(openssl rand -base64 32)"
)


class SealedError(PerdureError):
    """A sealed value cannot be opened. It is not lost: nothing was written."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed value taken apart."""

    key_id: str
    bound: bytes
    header: bytes
    nonce: bytes
    ciphertext: bytes


def bound_digest(bound: str) -> bytes:
    """What a sealed value carries of the thing that it is bound to."""
    return hashlib.blake2b(
        bound.encode(errors="surrogatepass"), digest_size=BOUND_BYTES, person=b"perdure-bound"
    ).digest()


def taken_apart(data: bytes) -> Sealed:
    """The parts of a sealed value.

    Raises:
        SealedError: it is none, or is of a later format.

    """
    try:
        form, length = data[0], data[1]
        end = 2 + length + BOUND_BYTES
        header, nonce, ciphertext = data[:end], data[end : end + NONCE_BYTES], data[end + NONCE_BYTES :]
        key_id, bound = header[2 : 2 + length].decode("ascii"), header[2 + length :]
    except (IndexError, UnicodeDecodeError):
        raise SealedError("an encrypted value is damaged: it is too short") from None
    if form != FORMAT or len(bound) != BOUND_BYTES:
        raise SealedError(f"an encrypted value has format {form}, and this version reads {FORMAT}")
    return Sealed(key_id, bound, header, nonce, ciphertext)


class KeyRing:
    """Keys by their ids, the encrypting one first.

    Raises:
        ConfigurationError: there is none, or one has not 32 bytes.

    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys:
            raise ConfigurationError(f"{SETTING} names no key. {HOW}")
        for name, key in keys.items():
            if not _ID.fullmatch(name) or len(key) != KEY_BYTES:
                raise ConfigurationError(f"{SETTING}: key {name[:32]!r} has {len(key)} bytes, or no usable id. {HOW}")
        self.ids = tuple(keys)
        self.primary = self.ids[0]
        self._ciphers = {name: AESGCM(key) for name, key in keys.items()}
        self._address_key = hashlib.blake2b(
            keys[self.primary], digest_size=KEY_BYTES, person=b"perdure-address"
        ).digest()

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """The keys of a setting.

        Raises:
            ConfigurationError: the text has another form; the message holds no key.

        """
        found: dict[str, bytes] = {}
        for number, entry in enumerate(re.split(r"[,\n]", text), 1):
            if not entry.strip():
                continue
            name, separator, encoded = entry.strip().partition(":")
            try:
                key = base64.b64decode(encoded if separator else "?", validate=True)
            except (binascii.Error, ValueError):
                raise ConfigurationError(f"{SETTING}: entry {number} is no id:key. {HOW}") from None
            if name in found:
                raise ConfigurationError(f"{SETTING}: the id {name!r} is there twice. Give each key an id of its own")
            found[name] = key
        return cls(found)

    def seal(self, plain: bytes, bound: bytes) -> bytes:
        """Encrypt with the first key."""
        name = self.primary.encode("ascii")
        header = bytes((FORMAT, len(name))) + name + bound
        nonce = os.urandom(NONCE_BYTES)
        return header + nonce + self._ciphers[self.primary].encrypt(nonce, plain, header)

    def open(self, data: bytes) -> tuple[bytes, bytes]:
        """Decrypt; the plain bytes, and the digest of what they are bound to.

        Raises:
            SealedError: no key here opens it.

        """
        parts = taken_apart(data)
        cipher = self._ciphers.get(parts.key_id)
        if cipher is None:
            raise SealedError(
                f"a value is encrypted with the key {parts.key_id!r}, and {SETTING} has only {', '.join(self.ids)}: add that key"
            )
        try:
            return cipher.decrypt(parts.nonce, parts.ciphertext, parts.header), parts.bound
        except InvalidTag:
            raise SealedError(
                f"a value that is encrypted with the key {parts.key_id!r} cannot be opened: {SETTING} has another key under "
                f"that id, or the value was changed in the database"
            ) from None

    def address(self, scope: str, data: bytes, kind: bytes, size: int) -> bytes:
        """A digest of content that says nothing to somebody without the key, and is another one in each scope."""
        key = hashlib.blake2b(
            scope.encode(errors="surrogatepass"), key=self._address_key, digest_size=KEY_BYTES
        ).digest()
        return hashlib.blake2b(data, key=key, digest_size=size, person=kind[:16]).digest()
