"""Pictures of pages: ``PERDURE_SCREENSHOTS=folder`` keeps one of each, at the width of a phone and of a desk, light and dark."""

from __future__ import annotations

import os
from pathlib import Path

from playwright.async_api import Page

SIZES = {"phone": {"width": 390, "height": 844}, "desk": {"width": 1280, "height": 900}}


async def shoot(page: Page, name: str) -> None:
    """Keep pictures of a page, if somebody wants to look at them."""
    folder = os.environ.get("PERDURE_SCREENSHOTS")
    if folder is None:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for size, viewport in SIZES.items():
        await page.set_viewport_size(viewport)
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            await page.screenshot(path=Path(folder) / f"{name}-{size}-{scheme}.png", full_page=True)
    await page.set_viewport_size(SIZES["phone"])
