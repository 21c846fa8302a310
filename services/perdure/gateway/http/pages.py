"""HTML pages that need no script: one style each, allowed by its digest, and the headers that they go out with.

Contract: works without JavaScript, and allows none. Everything that is shown is escaped, and characters that would make a text look
like another one (direction overrides, invisible characters) are written out, so that what is seen is what is there. The style is in
the page; nothing else is loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import unicodedata
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from perdure.chassis.clock import now
from perdure.schemas.thread_ids import shown_id

HERE: Final = Path(__file__).parent
BASE: Final = HERE / "static" / "base.css"
"""Colours and resets, before the style of every page."""
CARD: Final = HERE / "static" / "card.css"
"""The style of ``card.html``: a page that is one card."""
JOINERS: Final = frozenset("\u200c\u200d")
"""Invisible, and needed by several scripts and by emoji."""
UNSEEN: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
STRETCHES: Final = (
    (timedelta(days=2), 86_400, "days"),
    (timedelta(hours=2), 3_600, "hours"),
    (timedelta(0), 60, "minutes"),
)


def pretty(value: Any) -> str:
    """JSON for people: indented, keys in their order, no character escaped that can be seen."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def visible(text: Any) -> str:
    """Text in which every character can be seen: the others are written as their number."""
    return "".join(_seen(one) for one in str(text))


class Pages:
    """The pages of one room: its templates and the style that stands in each of them."""

    def __init__(self, templates: Path, style: Path = CARD) -> None:
        """``templates``: the folder of the room's templates, which may extend ``card.html``. Reads nothing yet."""
        self._templates = (templates, HERE / "templates")
        self._style_file = style

    def headers(self) -> dict[str, str]:
        """What every page goes out with, also a redirect: nobody keeps it, frames it, or learns its address."""
        allowed = f"style-src 'sha256-{self._digest}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        return {
            "Content-Security-Policy": f"default-src 'none'; {allowed}",
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "X-Robots-Tag": "noindex, nofollow",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    def render(self, template: str, status: int = 200, **shown: Any) -> web.Response:
        """A page."""
        css = Markup(self._style)  # noqa: S704 - our own file
        text = self._environment.get_template(template).render(css=css, **shown)
        return web.Response(text=text, status=status, content_type="text/html", headers=self.headers())

    @cached_property
    def _style(self) -> str:
        """The style as it stands in the page."""
        return BASE.read_text(encoding="utf-8") + self._style_file.read_text(encoding="utf-8")

    @cached_property
    def _digest(self) -> str:
        """The digest of the style, by which browsers allow it."""
        return base64.b64encode(hashlib.sha256(self._style.encode()).digest()).decode()

    @cached_property
    def _environment(self) -> Environment:
        environment = Environment(
            loader=FileSystemLoader(self._templates),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters |= {
            "visible": visible,
            "shown_id": shown_id,
            "moment": said_moment,
            "pretty": pretty,
            "distance": _distance,
            "ident": _ident,
            "first_upper": _first_upper,
        }
        return environment


def _seen(character: str) -> str:
    if character in "\n\t" or character in JOINERS or unicodedata.category(character) not in UNSEEN:
        return character
    return f"\\u{{{ord(character):x}}}"


def said_moment(at: datetime) -> str:
    """A moment as people write it."""
    return f"{at.day} {at:%B %Y, %H:%M} UTC"


def _distance(at: datetime) -> str:
    """How far a moment is from now: ``in 3 hours``, ``5 minutes ago``."""
    away = at - now()
    seconds, unit = next((size, unit) for least, size, unit in STRETCHES if abs(away) >= least)
    count = int(abs(away).total_seconds() // seconds)
    if count == 0:
        return "now"
    said = f"{count} {unit if count != 1 else unit.removesuffix('s')}"
    return f"in {said}" if away > timedelta(0) else f"{said} ago"


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ident(name: str) -> str:
    """An HTML id for a field, whatever characters its name has."""
    return "f" + hashlib.sha256(name.encode(errors="replace")).hexdigest()[:12]
