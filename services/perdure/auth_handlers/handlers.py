"""Calls the handlers of a ``langgraph_sdk.Auth`` as the Agent Server does.

Contract: :meth:`Handlers.authenticate` passes the parameters that the handler names; :meth:`Handlers.authorize` calls the most
specific handler: of the resource and action, of the resource, of the action, of everything. Without one, everything is allowed.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast

from langgraph_sdk import Auth
from langgraph_sdk.auth.types import AuthContext

from perdure.chassis.errors import ConfigurationError
from perdure.chassis.project import auth_block, load_variable, open_project, read_project
from perdure.schemas.auth_questions import AskedRequest, Refused
from perdure.schemas.auth_user import AuthUser

KNOWN: Final = frozenset(
    {"request", "body", "path", "method", "path_params", "query_params", "headers", "authorization"}
)
"""Parameters that an ``authenticate`` handler may name."""


class Denied(Exception):
    """A handler refuses; the answer says how."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.answer: Refused = {"status": status, "detail": detail, "headers": dict(headers or {})}


class Handlers:
    """The handlers of one project."""

    def __init__(self, auth: Auth, where: str) -> None:
        """Check what can be checked before the first request; ``where`` names the project in errors.

        Raises:
            ConfigurationError: there is no ``authenticate`` handler, or it asks for what there is not.

        """
        self._auth = auth
        handler = auth._authenticate_handler  # noqa: SLF001 - the SDK keeps these names for servers
        if handler is None:
            raise ConfigurationError(f"{where}: the Auth object has no handler: decorate one with @auth.authenticate")
        self._authenticate = handler
        self._parameters = tuple(inspect.signature(handler).parameters)
        if unknown := set(self._parameters) - KNOWN:
            raise ConfigurationError(
                f"{where}: the authenticate handler asks for {', '.join(sorted(unknown))}. Possible: {', '.join(sorted(KNOWN))}"
            )
        if "body" in self._parameters:
            raise ConfigurationError(
                f"{where}: the authenticate handler asks for the body, which is not read before the caller is known; "
                "look at it in an @auth.on handler"
            )

    async def authenticate(self, request: AskedRequest) -> dict[str, Any]:
        """The user of a request, with ``identity`` and ``permissions``.

        Raises:
            Denied: the handler refuses.

        """
        headers = request["headers"]
        offered: dict[str, Any] = {
            **request,
            "headers": {name.encode(): value.encode("latin-1", "replace") for name, value in headers.items()},
            "authorization": headers.get("authorization"),
        }
        if "request" in self._parameters:
            offered["request"] = _starlette_request(request)
        return _user_of(await self._called(self._authenticate, {name: offered[name] for name in self._parameters}))

    async def authorize(
        self, user: Mapping[str, Any], resource: str, action: str, value: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The conditions that a handler sets, and what it put into the metadata of ``value``, which it may change.

        Raises:
            Denied: the handler refuses.

        """
        handler = self._handler(resource, action)
        if handler is None:
            return {}, {}
        given: Mapping[str, Any] = {}
        if isinstance(value.get("metadata"), dict):
            given = dict(value["metadata"])
            value["metadata"] = Recorded(given)
        context = AuthContext(
            permissions=user.get("permissions", ()),
            user=cast("Any", _user(user)),
            resource=cast("Any", resource),
            action=cast("Any", action),
        )
        said = await self._called(handler, {"ctx": context, "value": value})
        if said is False:
            raise Denied(403, f"{user['identity']} may not do this: {resource}.{action}")
        if said is not None and said is not True and not isinstance(said, Mapping):
            raise TypeError(
                f"the handler of {resource}.{action} returned {type(said).__name__}, not None, a bool or a filter"
            )
        return dict(said) if isinstance(said, Mapping) else {}, _written(given, value.get("metadata"))

    def _handler(self, resource: str, action: str) -> Any:
        known = self._auth._handlers  # noqa: SLF001
        for key in ((resource, action), (resource, "*"), ("*", action), ("*", "*")):
            if found := known.get(key):
                return found[-1]
        everything = self._auth._global_handlers  # noqa: SLF001
        return everything[-1] if everything else None

    async def _called(self, handler: Any, arguments: Mapping[str, Any]) -> Any:
        try:
            if inspect.iscoroutinefunction(handler):
                return await handler(**arguments)
            return await asyncio.to_thread(handler, **arguments)
        except Auth.exceptions.HTTPException as refused:
            raise Denied(refused.status_code, refused.detail, refused.headers) from refused
        except AssertionError as refused:  # as the Agent Server takes it
            raise Denied(403, str(refused) or "The project's auth handler refuses this.") from refused


class Recorded(dict[str, Any]):
    """The metadata of a client, which remembers what a handler puts into it: also what is there already and stays the same."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self.put: set[str] = set()

    def __setitem__(self, name: str, value: Any) -> None:
        self.put.add(name)
        super().__setitem__(name, value)

    def update(self, *given: Any, **named: Any) -> None:
        """As of a ``dict``."""
        for name, value in dict(*given, **named).items():
            self[name] = value

    def __ior__(self, given: Any) -> Self:  # type: ignore[override,misc]
        self.update(given)
        return self


def _written(given: Mapping[str, Any], metadata: Any) -> dict[str, Any]:
    """What a handler put into the metadata; a key that the client chose and the handler only left there is not among it."""
    if not isinstance(metadata, Mapping):
        return {}
    put = metadata.put if isinstance(metadata, Recorded) else frozenset()
    return {name: value for name, value in metadata.items() if name in put or name not in given or given[name] != value}


def _user(fields: Mapping[str, Any]) -> AuthUser:
    """A user with the fields that every handler may read."""
    return AuthUser({"is_authenticated": True, "display_name": fields["identity"], **fields})


def load_handlers(file: Path) -> Handlers:
    """The handlers that a project's ``langgraph.json`` names under ``auth``.

    Raises:
        ConfigurationError: there are none, or they cannot be loaded.

    """
    config = read_project(file)
    block = auth_block(file, config)
    where = f"{file}: auth"
    if block is None:
        raise ConfigurationError(f"{where}: there is no such block")
    open_project(file, config)
    auth = load_variable(file, block.path, where)
    if not isinstance(auth, Auth):
        raise ConfigurationError(f"{where}: {block.path} is a {type(auth).__name__}, not a langgraph_sdk.Auth")
    return Handlers(auth, where)


def _user_of(said: Any) -> dict[str, Any]:
    """What an ``authenticate`` handler returned, as plain fields."""
    if isinstance(said, str):
        said = {"identity": said}
    elif not isinstance(said, Mapping):
        fields = vars(said) if hasattr(said, "__dict__") else {}
        public = {name: value for name, value in fields.items() if not name.startswith("_")}
        said = {**public, "identity": getattr(said, "identity", None), "permissions": getattr(said, "permissions", ())}
    permissions = said.get("permissions") or ()
    if not isinstance(said.get("identity"), str) or not said["identity"]:
        raise TypeError("the authenticate handler returned a user without an identity")
    if isinstance(permissions, str) or not isinstance(permissions, Sequence | set | frozenset):
        raise TypeError("the permissions of a user must be a list of texts")
    return {**said, "permissions": [str(permission) for permission in permissions]}


def _starlette_request(request: AskedRequest) -> Any:
    of_project = importlib.import_module("starlette.requests")  # a handler that names it has it
    query = "&".join(f"{name}={value}" for name, value in request["query_params"].items())
    return of_project.Request(
        {
            "type": "http",
            "method": request["method"],
            "path": request["path"],
            "raw_path": request["path"].encode(),
            "query_string": query.encode(),
            "headers": [
                (name.lower().encode(), value.encode("latin-1", "replace"))
                for name, value in request["headers"].items()
            ],
            "path_params": dict(request["path_params"]),
        }
    )
