"""Somebody at the admin page."""

from pathlib import Path
from typing import Any

import axe_playwright_python
from playwright.async_api import Browser, Locator, Page, expect
from service.pages.browsing import SECONDS, Site, Visitor
from service.processes import GIVEN_KEY

DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}

_AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


class Office(Visitor):
    """Somebody at the admin page, by what they read there."""

    async def go(self, path: str = "") -> None:
        """Open another part of the admin page."""
        await self.page.goto(f"{self.site.url}/admin{path}")

    def named(self, name: str) -> Locator:
        """The button of exactly this name."""
        return self.page.get_by_role("button", name=name, exact=True)

    def part(self, title: str) -> Locator:
        """A part of the page."""
        return self.page.get_by_role("region", name=title, exact=True)

    @property
    def dialog(self) -> Locator:
        """The dialog in front."""
        return self.page.locator("dialog[open]").last

    async def told(self, text: str) -> None:
        """Wait until the page says what was done."""
        await expect(self.page.locator("[role=status]").filter(has_text=text).first).to_be_visible()

    async def refreshed(self) -> None:
        """Wait until the page has shown what the service has by now."""
        for _ in range(2):
            async with self.page.expect_response(lambda response: response.url.endswith("/progress")):
                pass


async def arrive(browser: Browser, site: Site, path: str = "", key: str = GIVEN_KEY, **options: Any) -> Office:
    """Sign in, with all rights unless another key is given, and open the admin page."""
    context = await browser.new_context(**(DESKTOP | options))
    context.set_default_timeout(SECONDS * 1000)
    office = Office(context, site, "")
    await context.request.post(f"{site.url}/sign-in", form={"key": key}, headers={"Origin": site.url}, max_redirects=0)
    await office.open(f"/admin{path}")
    return office


async def barriers(page: Page) -> list[str]:
    """What axe-core finds on a page that is serious or critical, by its rules."""
    await page.evaluate(_AXE)
    found = (await page.evaluate("axe.run()"))["violations"]
    return sorted(one["id"] for one in found if one["impact"] in ("serious", "critical"))
