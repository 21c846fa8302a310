"""The gateway over HTTP, as any client sees it.

Contract: every request has the API key of ``PERDURE_API_KEY``, or at a gateway on this machine the key of the stack in this folder
(``perdure up --secure``). An answer is its JSON; anything else is a :class:`CommandError` that says what, where and what to do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from perdure.chassis import json
from perdure.cli.errors import CommandError, GatewayUnreachableError, ProblemError
from perdure.local.key_file import VARIABLE, own_folder, read_key_file

TIMEOUT = httpx.Timeout(60.0, connect=5.0)
PATIENT = httpx.Timeout(600.0, connect=5.0)
"""For uploads and downloads: between two signs of life."""
ACTIVE = frozenset({"pending", "running"})
POLL_MIN_S = 0.1
POLL_MAX_S = 2.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Gateway:
    """One gateway; use as a context."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(f"{url!r} is no gateway URL; it looks like http://127.0.0.1:8123 (--url, PERDURE_URL)")
        # A proxy of the environment cannot reach this machine's own addresses.
        is_local = parts.hostname in _LOOPBACK
        key = os.environ.get(VARIABLE) or (read_key_file(own_folder()) if is_local else None)
        self._client = httpx.Client(
            timeout=TIMEOUT, trust_env=not is_local, headers={"x-api-key": key} if key is not None else {}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def get(self, *path: str, **params: Any) -> Any:
        """GET; parameters that are None are left out."""
        return self._call("GET", path, params=params)

    def post(
        self,
        *path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:
        """POST a JSON body."""
        return self._call("POST", path, params=params, body=body, headers=headers)

    def patch(self, *path: str, body: Any) -> Any:
        """PATCH a JSON body."""
        return self._call("PATCH", path, body=body)

    def put(self, *path: str, body: Any) -> Any:
        """PUT a JSON body."""
        return self._call("PUT", path, body=body)

    def delete(self, *path: str) -> Any:
        """DELETE."""
        return self._call("DELETE", path)

    def upload(
        self, *path: str, content: Iterable[bytes], params: Mapping[str, Any], idempotency_key: str | None = None
    ) -> Any:
        """POST NDJSON as it is read; answers take as long as the gateway needs."""
        headers = {"content-type": "application/x-ndjson"}
        if idempotency_key is not None:
            headers["idempotency-key"] = idempotency_key
        given = {k: v for k, v in params.items() if v is not None}
        where = _path(path)
        try:
            answer = self._client.request(
                "POST", self.url + where, params=given, content=content, headers=headers, timeout=PATIENT
            )
        except httpx.TransportError as error:
            raise GatewayUnreachableError(self.url, str(error) or type(error).__name__) from error
        return self._read(f"POST {where}", answer)

    def download(self, *path: str, params: Mapping[str, Any]) -> Iterator[bytes]:
        """GET a body of any length, in pieces.

        Raises:
            CommandError: it is not complete.

        """
        given = {k: v for k, v in params.items() if v is not None}
        where = _path(path)
        begun = False
        try:
            with self._client.stream("GET", self.url + where, params=given, timeout=PATIENT) as answer:
                if not answer.is_success:
                    answer.read()
                    self._read(f"GET {where}", answer)
                begun = True
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            if begun:
                raise CommandError(f"the download was cut off ({error}); what was written is not complete") from error
            raise GatewayUnreachableError(self.url, str(error) or type(error).__name__) from error

    def wait_run(self, thread_id: str, run_id: str, timeout_s: float | None) -> dict[str, Any]:
        """Poll a run until it waits or has ended; the pause between two looks grows to two seconds.

        Raises:
            CommandError: it has not within ``timeout_s`` seconds.

        """
        started, pause = time.monotonic(), POLL_MIN_S
        while True:
            run: dict[str, Any] = self.get("threads", thread_id, "runs", run_id)
            if run["status"] not in ACTIVE:
                return run
            if timeout_s is not None and time.monotonic() - started > timeout_s:
                raise CommandError(
                    f"run {run_id} is still {run['status']} after {timeout_s:g} s; it goes on. "
                    f"Look again with `perdure runs show {thread_id} {run_id}`"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_MAX_S)

    def _call(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        where = _path(path)
        content = None if body is None else json.dumps_strict(body)
        try:
            answer = self._client.request(
                method,
                self.url + where,
                params={k: v for k, v in (params or {}).items() if v is not None},
                content=content,
                headers={**({"content-type": "application/json"} if content else {}), **(headers or {})},
            )
        except httpx.TransportError as error:
            raise GatewayUnreachableError(self.url, str(error) or type(error).__name__) from error
        return self._read(f"{method} {where}", answer, params)

    def _read(self, request: str, answer: httpx.Response, params: Mapping[str, Any] | None = None) -> Any:
        try:
            value = json.loads(answer.content) if answer.content else None
        except ValueError:
            value = None
        if answer.is_success:
            if value is None and answer.content:
                raise CommandError(f"{self.url} answered {request} with something that is not JSON: is it a gateway?")
            return value
        problem = value if isinstance(value, dict) else {"detail": answer.text[:500]}
        raise ProblemError(request, answer.status_code, {"title": answer.reason_phrase, **problem}, params)


def _path(parts: tuple[str, ...]) -> str:
    return "/" + "/".join(quote(part, safe="") for part in parts)
