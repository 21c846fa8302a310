"""The pages by which people open and end a session: with an API key, with a ticket of the CLI, or at an issuer.

Contract: nothing but a form that this page sent opens a session; a link alone, as previews and prefetching browsers follow it,
never does, and a ticket is used up by its form only. Afterwards the browser goes to a path of this gateway, never elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from perdure.chassis.telemetry import logger
from perdure.gateway.auth.caller import Caller
from perdure.gateway.auth.code_flow import CodeFlow, SignInRefused
from perdure.gateway.auth.credentials import Credentials, Refusal
from perdure.gateway.auth.jwks import IssuerUnavailable
from perdure.gateway.auth.middleware import LOGIN
from perdure.gateway.auth.sessions import SessionAuthenticator, stored_caller
from perdure.gateway.http.browsers import origin_refused
from perdure.gateway.http.origins import is_own_page
from perdure.gateway.http.pages import Pages
from perdure.gateway.http.problems import RequestProblem
from perdure.gateway.http.route import Page
from perdure.registry.sessions import SIGN_IN_LASTS, SessionKind, Sessions
from perdure.schemas.scopes import Exempt
from perdure.schemas.session_documents import TICKET_PATH

log = logger(__name__)

PAGES: Final = Pages(Path(__file__).parent / "templates")
BEGUN_COOKIE: Final = "__Host-perdure-sign-in"
HOME: Final = "/console"
_PATH: Final = re.compile(r"/(?!/)[\w\-./~%?=&:+,;@!$'()*]{0,1000}", re.ASCII)
_WHO = Exempt("makes callers")


class SignInPages:
    """Pages to sign in and out."""

    def __init__(
        self,
        sessions: Sessions,
        authenticator: SessionAuthenticator,
        by_key: Callable[[Credentials], Awaitable[Caller | Refusal | None]],
        flow: CodeFlow | None,
        public_url: str | None,
    ) -> None:
        """``by_key`` knows API keys; ``flow``: at which issuer people sign in, if at one."""
        self._sessions, self._authenticator = sessions, authenticator
        self._by_key, self._flow, self._public_url = by_key, flow, public_url

    def pages(self) -> tuple[Page, ...]:
        """The pages for people."""
        return (
            Page("GET", LOGIN, self.login, _WHO),
            Page("POST", LOGIN, self.login_by_key, _WHO),
            Page("GET", "/auth/begin", self.begin, _WHO),
            Page("GET", "/auth/callback", self.callback, _WHO),
            Page("GET", TICKET_PATH + "{ticket}", self.ticket, _WHO),
            Page("POST", TICKET_PATH + "{ticket}", self.use_ticket, _WHO),
            Page("POST", "/auth/logout", self.logout, _WHO),
        )

    async def login(self, request: web.Request) -> web.StreamResponse:
        """The ways to sign in."""
        return self._login_page(_local(request.query.get("then")))

    async def login_by_key(self, request: web.Request) -> web.StreamResponse:
        """Sign in with the API key of the form."""
        _require_own_page(request)
        form = await request.post()
        then, key = _local(str(form.get("then", ""))), str(form.get("key", "")).strip()
        caller = await self._by_key(Credentials(key, None, {}, {}, request.method, request.path, {}, request.remote))
        if not isinstance(caller, Caller):
            return self._login_page(then, caller.detail if caller else "Type an API key.", 401)
        return await self._signed_in(caller, then)

    async def begin(self, request: web.Request) -> web.StreamResponse:
        """Send the browser to the issuer."""
        if self._flow is None:
            raise RequestProblem("unknown-route", "Nobody signs in at an issuer here; no login is configured.")
        try:
            begun = await self._flow.begin(self._callback_url(request))
        except IssuerUnavailable as error:
            return self._unavailable(error)
        then = _local(request.query.get("then"))
        secret = await self._sessions.begin(begun.state, begun.nonce, begun.verifier, then)
        answer = web.Response(status=303, headers={**PAGES.headers(), "Location": begun.url})
        lasts_s = int(SIGN_IN_LASTS.total_seconds())
        # Lax: the issuer's redirect comes from another site
        answer.set_cookie(BEGUN_COOKIE, secret, path="/", secure=True, httponly=True, samesite="Lax", max_age=lasts_s)
        return answer

    async def callback(self, request: web.Request) -> web.StreamResponse:
        """Take the code that the issuer sent the browser back with."""
        secret = request.cookies.get(BEGUN_COOKIE, "")
        begun = await self._sessions.take(SessionKind.SIGN_IN, secret) if secret else None
        if self._flow is None or begun is None or request.query.get("state") != begun["state"]:
            return self._login_page(HOME, "This sign-in has expired, or belongs to another browser. Begin again.", 400)
        if "code" not in request.query:
            said = request.query.get("error_description") or request.query.get("error") or "no code"
            return self._login_page(begun["then"], f"{self._flow.host} let nobody in: {said[:200]}", 403)
        try:
            caller = await self._flow.finish(
                request.query["code"], self._callback_url(request), nonce=begun["nonce"], verifier=begun["verifier"]
            )
        except SignInRefused as refused:
            return self._login_page(begun["then"], str(refused), 403)
        except IssuerUnavailable as error:
            return self._unavailable(error)
        answer = await self._signed_in(caller, begun["then"])
        answer.del_cookie(BEGUN_COOKIE, path="/", secure=True, httponly=True, samesite="Lax")
        return answer

    async def ticket(self, _: web.Request) -> web.StreamResponse:
        """Ask whether to use a ticket."""
        return PAGES.render("ticket.html")

    async def use_ticket(self, request: web.Request) -> web.StreamResponse:
        """Open the session of a ticket."""
        _require_own_page(request)
        taken = await self._sessions.take(SessionKind.TICKET, request.match_info["ticket"])
        if taken is None:
            return self._login_page(
                HOME, "This link was used, or has expired. `perdure keys ticket` makes another.", 410
            )
        answer = self._gone_on(taken["caller"]["subject"], HOME)
        await self._authenticator.sign_in(taken["caller"], answer)
        return answer

    async def logout(self, request: web.Request) -> web.StreamResponse:
        """End the session."""
        _require_own_page(request)
        answer = self._login_page(HOME, "You are signed out.")
        await self._authenticator.sign_out(request, answer)
        return answer

    async def _signed_in(self, caller: Caller, then: str) -> web.StreamResponse:
        log.info("gateway.signed_in", subject=caller.subject, tenant=caller.tenant, kind=caller.kind)
        answer = self._gone_on(caller.subject, then)
        await self._authenticator.sign_in(stored_caller(caller), answer)
        return answer

    def _gone_on(self, subject: str, then: str) -> web.Response:
        """A page of this site that goes on by itself: after a redirect from elsewhere a strict cookie would not be sent."""
        return PAGES.render("signed_in.html", subject=subject, then=then)

    def _login_page(self, then: str, said: str | None = None, status: int = 200) -> web.Response:
        host = self._flow.host if self._flow else None
        return PAGES.render("login.html", status, then=then, said=said, host=host, wrong=status >= 400)

    def _unavailable(self, error: IssuerUnavailable) -> web.Response:
        log.warning("gateway.issuer_unavailable", detail=str(error))
        return self._login_page(HOME, "The issuer does not answer. Try again in a moment.", 503)

    def _callback_url(self, request: web.Request) -> str:
        return f"{self._public_url or f'{request.scheme}://{request.host}'}/auth/callback".replace("//auth", "/auth")


def _require_own_page(request: web.Request) -> None:
    """Refuse the form of another page, which would sign somebody in as somebody else.

    Raises:
        RequestProblem: ``origin-refused``.

    """
    if not is_own_page(request.headers):
        raise origin_refused(request.headers.get("Origin", "another origin"))


def _local(then: str | None) -> str:
    """A path of this gateway; the console if ``then`` is none."""
    return then if then and _PATH.fullmatch(then) else HOME
