"""Contexts of TLS connections, for clients that take a context of Python's.

Contract: the other side's certificate and name are always verified by a client; nobody speaks less than TLS 1.2.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from perdure.chassis.errors import ConfigurationError


def client_context(
    what: str,
    ca_file: Path | None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
    password: str | None = None,
) -> ssl.SSLContext:
    """The context of a client.

    Args:
        what: The settings that name the files, for the error.
        ca_file: Certificates that the server is verified with; the system's by default.
        cert_file: The client's certificate.
        key_file: The private key of the client's certificate.
        password: What the private key is encrypted with.

    Raises:
        ConfigurationError: a certificate or the key cannot be used.

    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if cert_file is not None:
            context.load_cert_chain(cert_file, key_file, password)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(f"{what}: a certificate or its key cannot be used: {error}") from error
    return context
