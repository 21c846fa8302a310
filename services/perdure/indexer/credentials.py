"""The security of Faust's connection to the brokers: what ``KafkaSettings.client_options`` is for librdkafka.

Contract: Faust's client (aiokafka) takes one ``SSLContext`` and one kind of credentials.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any, Final

import aiohttp
from aiokafka.abc import AbstractTokenProvider
from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials

from perdure.chassis.errors import UnavailableError
from perdure.chassis.kafka.settings import KafkaSettings
from perdure.chassis.tls import client_context

TOKEN_TIMEOUT_S: Final = 10.0
RENEWED_AT: Final = 0.8
"""The part of a token's life after which the next one is asked for."""


def broker_credentials(settings: KafkaSettings) -> Any:
    """Faust's credentials for these settings; ``None`` for brokers that ask for nothing.

    Raises:
        ConfigurationError: a certificate or its key cannot be used.

    """
    context = _context(settings) if settings.kafka_tls else None
    if not settings.kafka_sasl:
        return SSLCredentials(context) if context is not None else None
    if settings.kafka_sasl_mechanism == "OAUTHBEARER":
        return OAuthCredentials(oauth_cb=Tokens(settings), ssl_context=context)
    password = settings.kafka_sasl_password
    return SASLCredentials(
        username=settings.kafka_sasl_username,
        password=password.get_secret_value() if password is not None else None,
        mechanism=settings.kafka_sasl_mechanism,
        ssl_context=context,
    )


def _context(settings: KafkaSettings) -> ssl.SSLContext:
    password = settings.kafka_ssl_key_password
    return client_context(
        "PERDURE_KAFKA_SSL_CA_FILE, _CERT_FILE and _KEY_FILE",
        settings.kafka_ssl_ca_file,
        settings.kafka_ssl_cert_file,
        settings.kafka_ssl_key_file,
        password.get_secret_value() if password is not None else None,
    )


class Tokens(AbstractTokenProvider):  # type: ignore[misc,unused-ignore]
    """Tokens of the client credentials grant (RFC 6749, section 4.4), each used for most of its life."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._token = ""
        self._renew_at = 0.0
        self._asking = asyncio.Lock()

    async def token(self) -> str:
        """A token that is good now.

        Raises:
            UnavailableError: the token address does not answer with one.

        """
        async with self._asking:
            if time.monotonic() >= self._renew_at:
                self._token, lasts_s = await self._ask()
                self._renew_at = time.monotonic() + lasts_s * RENEWED_AT
        return self._token

    async def _ask(self) -> tuple[str, float]:
        settings, secret = self._settings, self._settings.kafka_oauth_client_secret
        form = {"grant_type": "client_credentials"}
        if settings.kafka_oauth_scope is not None:
            form["scope"] = settings.kafka_oauth_scope
        who = aiohttp.encode_basic_auth(
            settings.kafka_oauth_client_id or "", secret.get_secret_value() if secret else ""
        )
        url = settings.kafka_oauth_token_url or ""
        context = client_context("PERDURE_KAFKA_OAUTH_CA_FILE", settings.kafka_oauth_ca_file)
        timeout = aiohttp.ClientTimeout(total=TOKEN_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.post(url, data=form, headers={"authorization": who}, ssl=context, allow_redirects=False) as answer,
            ):
                answer.raise_for_status()
                body = await answer.json(content_type=None)
            return str(body["access_token"]), float(body.get("expires_in", 60))
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise UnavailableError("the token address", url, f"{type(error).__name__}: {error}") from error
