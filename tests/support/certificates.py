"""Certificates of an authority that lives as long as a test."""

from __future__ import annotations

from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

NAMES = ("127.0.0.1", "localhost")


class Authority:
    """Issues certificates, and keeps them as PEM files in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca_file)

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for this machine with the common name, and its private key."""
        issued = self._authority.issue_cert(*NAMES, common_name=name)
        cert_file, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert_file.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        key_file.write_bytes(_pkcs8(issued.private_key_pem.bytes()))
        return cert_file, key_file

    def issued(self, name: str) -> tuple[Path, Path]:
        """As :meth:`issue`, but the same certificate each time."""
        cert_file, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        return (cert_file, key_file) if key_file.exists() else self.issue(name)

    def subject_of(self, name: str) -> str:
        """The distinguished name in the certificate that :meth:`issue` made, as Java writes it."""
        return x509.load_pem_x509_certificate((self._folder / f"{name}.pem").read_bytes()).subject.rfc4514_string()

    def issue_joined(self, name: str) -> Path:
        """As :meth:`issued`, both in one file."""
        joined = self._folder / f"{name}.both.pem"
        if joined.exists():
            return joined
        cert_file, key_file = self.issued(name)
        joined.write_bytes(key_file.read_bytes() + cert_file.read_bytes())
        return joined


def _pkcs8(key_pem: bytes) -> bytes:
    """The same private key in the form that Java reads, too."""
    key = serialization.load_pem_private_key(key_pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
