"""Everybody can read and use the pages of annotators at every size, in light and dark, with nothing in the way."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import expect
from service.pages.browsing import Site, Visitor
from service.pages.conftest import Visit
from service.pages.offices import barriers
from service.pages.test_looks import faint_texts, overflow

pytestmark = pytest.mark.anyio

LONG = "x" * 300
NAME = "annotator-with-a-long-name@company.test"
EXAMPLE = {"prompt": "Salt?", "first": "A pinch.", "second": LONG, "outcome": "first", "why": "It says how much."}


def fill(site: Site, run: str) -> None:
    """Give a run everything that an annotator may see, with long words in it."""
    name = "A run with a name that is much too long for a phone"
    site.run(run, name=name, instructions=f"Prefer the better one.\n\n{LONG}", examples=[EXAMPLE], votes_needed=2)
    code = f"\n\n```python\nprint({LONG!r})\n```\n\n| a | b |\n|---|---|\n| {LONG} | c |"
    site.post(run, 2, prompt=LONG, first=f"Bake it for an hour, then rest it. {code}", second=f"Bake it. {LONG}")


async def everything(ann: Visitor) -> AsyncIterator[str]:
    """Walk through the pages: yields at each place."""
    page, site = ann.page, ann.site
    await expect(page.locator("#instructions")).to_be_visible()
    yield "instructions before a duel"
    await ann.press("t", "u", "c")
    await ann.says("Your answer was: Tie", "#earlier")
    await expect(page.get_by_label("Comment")).to_be_focused()
    await ann.says("Saved")
    yield "duel that is answered again, with the detail"
    await page.keyboard.press("Escape")  # leaves the comment
    await page.keyboard.press("Escape")
    await expect(page.locator("#revising")).to_be_hidden()
    await ann.ready()
    yield "duel"
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_be_visible()
    yield "help"
    await page.keyboard.press("Escape")
    await ann.press("b")
    await ann.nothing_left()
    yield "nothing to answer now"
    await page.goto(f"{site.url}/label")
    await expect(page.locator("[data-run]").first).to_be_visible()
    yield "runs"
    await page.goto(f"{site.url}/label/missing")
    await expect(page.get_by_role("heading", name="No such run")).to_be_visible()
    yield "no such run"
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    yield "signing in"
    await ann.sign_in("sea_wrong")
    await expect(page.get_by_role("alert")).to_be_visible()
    yield "a wrong key"
    await ann.sign_in(site.key(f"reader-{NAME}", "read", runs=[ann.run]))
    await expect(page.get_by_role("heading", name="Your key does not answer duels")).to_be_visible()
    yield "a key that does not answer"
    await page.goto(f"{site.url}/label")
    await expect(page.get_by_role("heading", name="A key for annotators is needed")).to_be_visible()
    yield "a key for annotators is needed"
    await page.get_by_role("button", name="Sign out").click()
    await ann.sign_in(site.key(f"newcomer-{NAME}", runs=["not-yet"]))
    await expect(page.get_by_text("There is no run that your key lets you answer")).to_be_visible()
    yield "no runs"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1280, 2560])
async def test_the_pages_fit_are_legible_and_have_no_barriers_at_every_size(
    site: Site, run: str, visit: Visit, width: int, scheme: Any
) -> None:
    fill(site, run)
    size = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "reduced_motion": "reduce"}
    ann = await visit(run, name=NAME, key=site.key(NAME, runs=[run]), **size)
    ann.failures_expected = True  # a page that is not there says so with its status
    found = [
        (place, what)
        async for place in everything(ann)
        for what in (await overflow(ann.page), await faint_texts(ann.page), await barriers(ann.page))
        if what
    ]
    assert found == []


async def test_a_barrier_a_faint_text_and_a_part_that_is_too_wide_are_found(site: Site, run: str, visit: Visit) -> None:
    """The faults that the test above must find."""
    site.post(run)
    ann = await visit(run, viewport={"width": 320, "height": 800})
    await ann.ready()
    await ann.page.locator("#comment").evaluate("(e) => { e.removeAttribute('aria-label'); e.placeholder = '' }")
    await ann.page.keyboard.press("c")
    await ann.page.locator("#prompt").evaluate("(e) => { e.style.width = '2000px'; e.style.color = 'gray' }")
    assert "label" in await barriers(ann.page)
    assert [text for text, _ in await faint_texts(ann.page)] == ["prompt 0"]
    assert await overflow(ann.page) > 0
