"""Browsers that lack newer parts of the platform answer duels all the same, and a page that cannot start says so."""

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect
from service.pages.browsing import OLD_BROWSER, Site, Visitor, serve_changed
from service.pages.conftest import Attend, Visit
from service.pages.test_model_text import compare

import sea_agent

pytestmark = pytest.mark.anyio

SCRIPTS = list(Path(sea_agent.__file__).parent.rglob("static/**/*.js"))
LOOKBEHIND = re.compile(r"\(\?<[=!]")
"""In a regular expression: before Safari 16.4 it is an error of syntax, with which no line of the script runs."""

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


# --- the admin page, and signing in ----------------------------------------------------------------------------------

SIZE = ("return text && `?${text}`;", 'return parameters.size ? `?${text}` : "";')
"""A fault: what old browsers lack is asked for, and every filter is dropped."""


async def test_an_old_browser_leads_runs(site: Site, run: str, office: Attend, tmp_path: Path) -> None:
    """Lists, filters, imports and exports say what they want of the service."""
    site.post(run, 30)
    site.run(f"{run}-over", state="archived")
    admin = await office()
    await old(admin.page)
    cards = admin.page.locator(".run-card")
    card = cards.filter(has=admin.page.get_by_role("link", name=run, exact=True))
    await expect(card.locator(".counts")).to_contain_text("30 wait")
    await admin.page.get_by_label("Show archived").check()
    await expect(admin.page.get_by_role("link", name=f"{run}-over", exact=True)).to_be_visible()
    await admin.go(f"/runs/{run}")
    await expect(admin.page.locator(".stalled")).to_have_count(0)
    duels = admin.part("Duels")
    await expect(duels.locator(".duel-name")).to_have_count(20)
    await duels.get_by_label("Text").fill("prompt 7")
    await expect(duels.locator(".duel-name")).to_have_text(["prompt 7"])
    await admin.part("Export").get_by_label("Votes at least").fill("2")
    address = await admin.page.get_by_role("link", name="Download").get_attribute("href")
    assert address == f"/v1/runs/{run}/export.jsonl?min_votes=2"
    file = tmp_path / "gold.jsonl"
    file.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    await admin.page.get_by_label("File, or drop it here").set_input_files(file)
    await admin.page.get_by_label("known answer (gold)").check()
    await admin.named("Import").click()
    await admin.told("1 duel imported")
    assert site.admin.get(f"/v1/runs/{run}/queries", params={"gold": True}).json()["total"] == 1


async def test_an_admin_page_that_drops_what_it_asks_for_is_found(run: str, office: Attend) -> None:
    """The deliberate fault that the test above must find: the runs come without their progress, so none is listed."""
    admin = await office()
    await expect(admin.page.locator(".run-card", has_text=run)).to_be_visible()
    await serve_changed(admin.page, "admin/context.js", SIZE)
    async with admin.page.expect_event("pageerror"):
        await old(admin.page)
    await expect(admin.page.locator(".run-card")).to_have_count(0)
    await admin.leave_complaining()


@pytest.mark.parametrize("missing", ["admin/summary.js", "dom.js"])
async def test_an_admin_page_whose_script_is_missing_says_that_it_has_not_started(office: Attend, missing: str) -> None:
    admin = await office()
    admin.failures_expected = True
    await expect(admin.page.locator(".stalled")).to_have_count(0)
    await admin.page.route(f"**/static/{missing}", lambda route: route.abort())
    await admin.page.reload()
    await expect(admin.page.locator(".stalled")).to_contain_text("This page has not started")
    await expect(admin.page.locator(".stalled")).to_have_css("opacity", "1")
    await admin.leave_complaining()


async def test_a_link_signs_in_with_an_old_browser(site: Site, run: str, browser: Browser) -> None:
    site.post(run)
    link = site.admin.post("/v1/people", json={"annotator": "ann", "run": run}).raise_for_status().json()["link"]
    ann = Visitor(await browser.new_context(), site, run)
    await ann.context.add_init_script(OLD_BROWSER)
    await ann.open(link.removeprefix(site.url))
    assert (await ann.shown())[0] == "prompt 0"
    await ann.context.close()
    ann.check()


def test_no_script_has_a_part_that_an_old_browser_cannot_read() -> None:
    assert len(SCRIPTS) > 50
    assert [path.name for path in SCRIPTS if LOOKBEHIND.search(path.read_text())] == []
    assert LOOKBEHIND.search("note.split(/(?<=\\.)\\s+/)"), "what it must find"
