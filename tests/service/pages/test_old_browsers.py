"""Browsers that lack newer parts of the platform answer duels all the same, and a page that cannot start says so."""

import pytest
from playwright.async_api import Page, expect
from service.pages.browsing import OLD_BROWSER, Site, serve_changed
from service.pages.conftest import Visit
from service.pages.test_model_text import compare

pytestmark = pytest.mark.anyio

TEXTS = {"first": "Bake it for an hour, then rest it.", "second": "Bake it for ten minutes, then rest it."}


async def old(page: Page) -> None:
    """Let the page be loaded again by an old browser."""
    await page.add_init_script(OLD_BROWSER)
    await page.reload()
    assert await page.evaluate("typeof Intl.Segmenter + typeof AbortSignal.any") == "undefinedundefined"


async def test_an_old_browser_marks_differences_and_answers_a_duel(site: Site, run: str, visit: Visit) -> None:
    site.post(run, **TEXTS)
    ann = await visit(run)
    await old(ann.page)
    await ann.ready()
    assert sorted(await ann.page.locator("mark").all_inner_texts()) == ["an hour", "ten minutes"]
    await ann.press("t")
    await ann.nothing_left()
    assert site.outcomes(run) == {"k0": "tie"}


async def test_a_request_without_an_answer_is_given_up_and_made_again(site: Site, run: str, visit: Visit) -> None:
    """The time limit of requests is kept without AbortSignal.timeout."""
    ann = await visit(run)
    await ann.says("Nothing to answer now", "#panel")
    await ann.page.clock.install()
    held: list[str] = []

    async def hold(route: object) -> None:
        held.append("never answered")

    await ann.page.route("**/leases", hold)
    await old(ann.page)
    await expect(ann.page.locator("#panel")).to_contain_text("Looking")
    await ann.page.clock.fast_forward(21_000)
    await ann.says("No connection", "#panel")
    assert held


async def test_words_are_the_same_with_and_without_the_segmenter(run: str, visit: Visit) -> None:
    """No character is lost, and words of scripts with spaces are the same."""
    ann = await visit(run)
    texts = ["It's 3.5 °C, naïve  çà!\nNext", "火锅好吃", "👩‍👩‍👧 👍🏽 🇫🇷🇩🇪 e\u0301a", "", "a_b x-y"]
    script = "async (texts) => { const { piecesOf } = await import('/static/words.js'); return texts.map(piecesOf); }"
    new = await ann.page.evaluate(script, texts)
    await old(ann.page)
    fallback = await ann.page.evaluate(script, texts)
    assert ["".join(pieces) for pieces in fallback] == texts
    for index in (0, 2, 4):
        assert [piece for piece in fallback[index] if piece.strip()] == [piece for piece in new[index] if piece.strip()]
    assert fallback[1] == list("火锅好吃"), "of a script without spaces, each sign"
    pairs = [("Bake it for an hour, then.", "Bake it for a day, then.")]
    assert not (await compare(ann.page, pairs))[0]["note"]


@pytest.mark.parametrize(
    ("file", "old_text", "new_text"),
    [
        ("words.js", "Intl.Segmenter &&", ""),
        ("service.js", "const limit = new AbortController();", "const limit = AbortSignal.any([]);"),
    ],
)
async def test_a_page_that_needs_what_is_missing_is_found(
    site: Site, run: str, visit: Visit, file: str, old_text: str, new_text: str
) -> None:
    """The deliberate faults that the tests above must find; and the page says that it has not started, or goes on
    looking without an end."""
    site.post(run)
    ann = await visit(run)
    ann.failures_expected = True
    await serve_changed(ann.page, file, (old_text, new_text))
    await old(ann.page)
    await expect(ann.page.locator("#panel")).to_contain_text(
        "This page has not started" if file == "words.js" else "duel"
    )
    await expect(ann.page.locator("#duel")).to_be_hidden()
    assert ann.complaints
    await ann.leave_complaining()


async def test_a_page_whose_script_is_missing_says_that_it_has_not_started(site: Site, run: str, visit: Visit) -> None:
    site.post(run)
    ann = await visit(run, reduced_motion="reduce")
    ann.failures_expected = True
    await ann.ready()
    await expect(ann.page.locator(".stalled")).to_have_count(0)
    await ann.page.route("**/static/history.js", lambda route: route.abort())
    await ann.page.reload()
    await expect(ann.page.locator("#panel")).to_contain_text("This page has not started")
    await expect(ann.page.locator(".stalled")).to_have_css("opacity", "1")
    assert await ann.page.locator("#answers").is_hidden()


async def test_without_scripts_the_page_says_what_it_needs(site: Site, run: str, visit: Visit) -> None:
    ann = await visit(run, java_script_enabled=False)
    await ann.says("It needs JavaScript", "#panel")
