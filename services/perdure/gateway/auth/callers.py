"""Builds what makes callers, as the settings say: the authenticators in their order, the policy, the pages to sign in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from perdure.chassis.mongo import Database
from perdure.chassis.project import read_auth
from perdure.gateway.auth.code_flow import CodeFlow
from perdure.gateway.auth.credentials import Authenticator
from perdure.gateway.auth.handler_process import HandlerProcess
from perdure.gateway.auth.handler_users import HandlerAuthenticator
from perdure.gateway.auth.issuers import read_issuers
from perdure.gateway.auth.keys import KeyAuthenticator
from perdure.gateway.auth.middleware import Authentication
from perdure.gateway.auth.mode import AuthMode
from perdure.gateway.auth.policy import Policy
from perdure.gateway.auth.sessions import SessionAuthenticator
from perdure.gateway.auth.sign_in import SignInPages
from perdure.gateway.auth.tokens import Tokens
from perdure.gateway.http.route import Page
from perdure.registry.api_keys import ApiKeys
from perdure.registry.sessions import Sessions


class CallerSettings(Protocol):
    """The gateway's settings that say who may call."""

    @property
    def auth(self) -> AuthMode: ...
    @property
    def auth_issuers_file(self) -> Path | None: ...
    @property
    def auth_session_s(self) -> float: ...
    @property
    def auth_user_tenant(self) -> str | None: ...
    @property
    def auth_handlers_timeout_s(self) -> float: ...
    @property
    def langgraph_config(self) -> Path: ...
    @property
    def gateway_host(self) -> str: ...
    @property
    def public_url(self) -> str | None: ...
    @property
    def tenant(self) -> str: ...


class Callers:
    """Everything that tells who calls, built and not yet running."""

    def __init__(self, database: Database, settings: CallerSettings, timeout_s: float) -> None:
        """Read the issuers' file, if there is one. ``timeout_s``: how long a request waits for the database.

        Raises:
            ConfigurationError: a setting cannot be followed.

        """
        issuers = () if settings.auth_issuers_file is None else read_issuers(settings.auth_issuers_file)
        block = read_auth(settings.langgraph_config)
        asks_handlers = block is not None
        self.openapi: Mapping[str, Any] = {} if block is None else block.openapi
        """What the project says about its credentials, for the API description."""
        keys, sessions = ApiKeys(database), Sessions(database)
        tokens = Tokens(issuers, foreign=asks_handlers)
        self._keys = KeyAuthenticator(keys, timeout_s, foreign=asks_handlers)
        by_session = SessionAuthenticator(
            sessions, keys, lasts=timedelta(seconds=settings.auth_session_s), timeout_s=timeout_s
        )
        login = next(((issuer, issuer.login) for issuer in issuers if issuer.login is not None), None)
        flow = None if login is None else CodeFlow(*login, tokens)
        self._sign_in = SignInPages(sessions, by_session, self._keys, flow, settings.public_url)
        chain: tuple[Authenticator, ...] = (self._keys, tokens.authenticate, by_session)
        self.handlers: HandlerProcess | None = None
        if asks_handlers:
            self.handlers = HandlerProcess(settings.langgraph_config, settings.auth_handlers_timeout_s)
            chain += (HandlerAuthenticator(self.handlers, settings.tenant, settings.auth_user_tenant),)
        self.policy = Policy(
            keys,
            settings.auth,
            host=settings.gateway_host,
            configured=bool(issuers) or asks_handlers,
            timeout_s=timeout_s,
        )
        self.authentication = Authentication(self.policy, chain, settings.tenant)

    def pages(self) -> tuple[Page, ...]:
        """The pages to sign in and out."""
        return self._sign_in.pages()

    def background(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What runs while the gateway does."""
        handlers = {} if self.handlers is None else {"auth_handlers": self.handlers.run}
        return {"policy": self.policy.watch, **handlers}

    async def started(self) -> None:
        """Return once the project's handlers are loaded, if there are any; :meth:`background` is running.

        Raises:
            ConfigurationError: they cannot be loaded.

        """
        if self.handlers is not None:
            await self.handlers.started()

    async def close(self) -> None:
        """Give up what is not written yet."""
        await self._keys.close()
