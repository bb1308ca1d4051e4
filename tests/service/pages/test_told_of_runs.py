"""What the label page says of the run: its state, its instructions with examples, and its qualification."""

import asyncio

import pytest
from playwright.async_api import expect
from service.pages.browsing import SECONDS, Site, Visitor, serve_changed
from service.pages.conftest import Visit

pytestmark = pytest.mark.anyio

HOSTILE = "<img src=x onerror='document.documentElement.dataset.ran = true'>"


async def beat(ann: Visitor) -> None:
    """Let the time of a heartbeat pass."""
    await ann.page.clock.fast_forward(61_000)


# --- states ----------------------------------------------------------------------------------------------------------


async def test_a_paused_run_says_so_and_goes_on_by_itself(site: Site, run: str, visit: Visit) -> None:
    site.run(run, state="paused")
    site.post(run)
    ann = await visit(run)
    await ann.says("This run is paused", "#panel")
    await ann.says("It goes on here by itself", "#panel")
    site.run(run, state="open")
    assert (await ann.shown())[0] == "prompt 0"


@pytest.mark.parametrize(("state", "said"), [("paused", "This run is paused"), ("closed", "This run is closed")])
async def test_a_run_that_ends_while_a_duel_is_on_the_page_says_so_and_keeps_the_answer(
    site: Site, run: str, visit: Visit, state: str, said: str
) -> None:
    site.post(run, 2)
    ann = await visit(run)
    await ann.page.clock.install()
    await ann.page.reload()
    await ann.ready()
    site.run(run, state=state)
    await beat(ann)
    await ann.says(said, "#note")
    await ann.page.clock.run_for(1000)
    await ann.page.keyboard.press("t")
    await ann.says(said, "#panel")
    await ann.says("Saved")
    assert site.outcomes(run) == {"k0": "tie"}


async def test_the_list_has_open_and_paused_runs_and_what_waits_for_others_is_sent_all_the_same(
    site: Site, visit: Visit
) -> None:
    names = {state: site.run(f"list-{state}") for state in ("open", "paused", "closed", "archived")}
    for run in names.values():
        site.post(run)
    ann = await visit(names["closed"], key=site.key("ann", runs=[*names.values()]))
    ann.failures_expected = True
    await ann.ready()
    await ann.page.route("**/v1/**", lambda route: route.abort())
    await ann.page.keyboard.press("t")
    await ann.says("Offline: 1 answer waiting")
    for state, run in names.items():
        site.run(run, state=state)
    await ann.page.unroute_all()
    await ann.page.goto(f"{site.url}/label")
    assert await ann.page.locator("[data-run]").evaluate_all("(all) => all.map((e) => e.dataset.run)") == [
        names["open"],
        names["paused"],
    ]
    await ann.says("Something to answer", f"[data-run={names['open']}]")
    await ann.says("Paused", f"[data-run={names['paused']}]")
    async with asyncio.timeout(SECONDS):
        while site.outcomes(names["closed"]) != {"k0": "tie"}:
            await asyncio.sleep(0.05)


ALWAYS_THE_SAME = ("votes_needed > 1", "false")
"""A fault: the page says the same whether or not others are waited for."""


@pytest.mark.parametrize("broken", [False, True])
async def test_who_has_answered_what_needs_several_people_is_told_of_the_others(
    site: Site, run: str, visit: Visit, broken: bool
) -> None:
    """``broken`` is the fault that must be found."""
    site.run(run, votes_needed=2)
    site.post(run)
    ann = await visit(run)
    if broken:
        await serve_changed(ann.page, "duel.js", ALWAYS_THE_SAME)
        await ann.page.reload()
    await ann.press("t")
    await ann.nothing_left()
    panel = ann.page.locator("#panel")
    text = "Several people answer each duel of this run, and the answers of others may still be awaited."
    await (expect(panel).not_to_contain_text(text) if broken else expect(panel).to_contain_text(text))


async def test_who_answers_alone_is_not_told_of_others(site: Site, run: str, visit: Visit) -> None:
    site.post(run)
    ann = await visit(run)
    await ann.press("t")
    await ann.nothing_left()
    await ann.says("The next duel appears here by itself", "#panel")
    await expect(ann.page.locator("#panel")).not_to_contain_text("others")


# --- instructions ----------------------------------------------------------------------------------------------------


async def test_worked_examples_are_shown_before_the_first_duel_and_a_key_away(
    site: Site, run: str, visit: Visit
) -> None:
    example = {
        "prompt": f"Salt? {HOSTILE}",
        "first": "A pinch.",
        "second": "No.",
        "outcome": "first",
        "why": "It says how much.",
    }
    site.run(run, examples=[example, {**example, "outcome": "both_bad", "why": ""}])
    site.post(run)
    ann = await visit(run)
    examples = ann.page.locator(".example")
    await expect(examples).to_have_count(2)
    for text in (HOSTILE, "A pinch.", "No.", "First is better", "It says how much."):
        await expect(examples.first).to_contain_text(text)
    await expect(examples.nth(1)).to_contain_text("Both bad")
    assert await ann.page.locator(".example img").count() == 0
    await expect(ann.page.locator("#duel")).to_be_visible()
    assert await ann.page.evaluate(
        "document.querySelector('#examples').compareDocumentPosition(document.querySelector('#duel')) & 4"
    ), "the examples stand before the duel"
    await ann.button("Got it").click()
    await expect(examples.first).to_be_hidden()
    await ann.page.keyboard.press("i")
    await expect(examples.first).to_be_visible()


KITCHEN, GARDEN = "Prefer what you would rather cook from.", "Prefer what you would rather plant."
PER_BROWSER = (
    "const READ = own(`guidelines/${ME_HERE}`)",
    "const READ = own(`guidelines/${run}`)",
)
"""A fault: guidelines that somebody read are read for everybody at this browser."""
READ_FOR_GOOD = (
    "showInstructions(localStorage.getItem(READ) !== guidelines)",
    "showInstructions(localStorage.getItem(READ) === null)",
)
"""A fault: guidelines that were read once are read, whatever they say now."""


async def come_again(visitor: Visitor, name: str) -> None:
    """Sign in as somebody else in the same browser, and open the run."""
    form = {"key": visitor.site.key(name)}
    url = visitor.site.url
    await visitor.context.request.post(f"{url}/sign-in", form=form, headers={"Origin": url}, max_redirects=0)
    await visitor.page.goto(f"{url}/label/{visitor.run}")
    await expect(visitor.page.locator("#duel")).to_be_visible()


@pytest.mark.parametrize("broken", [False, True])
async def test_everybody_at_a_shared_browser_reads_the_guidelines_before_their_first_duel(
    site: Site, run: str, visit: Visit, broken: bool
) -> None:
    """``broken`` is the fault that must be found."""
    site.run(run, instructions=KITCHEN)
    site.post(run, votes_needed=2)
    ann = await visit(run)
    if broken:
        await serve_changed(ann.page, "duel.js", PER_BROWSER)
        await ann.page.reload()
    guidelines = ann.page.locator("#instructions")
    await expect(guidelines).to_be_visible()
    await ann.button("Got it").click()
    await come_again(ann, "bob")
    await expect(guidelines).to_be_visible(visible=not broken)
    await come_again(ann, "ann")
    await expect(guidelines).to_be_hidden()


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("changed", ["instructions", "examples"])
async def test_guidelines_that_changed_are_shown_again(
    site: Site, run: str, visit: Visit, changed: str, broken: bool
) -> None:
    """``broken`` is the fault that must be found."""
    example = {"prompt": "Salt?", "first": "A pinch.", "second": "No.", "outcome": "first", "why": "It says how much."}
    site.run(run, instructions=KITCHEN, examples=[example])
    site.post(run)
    ann = await visit(run)
    if broken:
        await serve_changed(ann.page, "duel.js", READ_FOR_GOOD)
    await ann.button("Got it").click()
    await ann.page.reload()
    await expect(ann.page.locator("#duel")).to_be_visible()
    await expect(ann.page.locator("#instructions")).to_be_hidden()
    site.run(run, **{"instructions": {"instructions": GARDEN}, "examples": {"examples": [example] * 2}}[changed])
    await ann.page.reload()
    await expect(ann.page.locator("#duel")).to_be_visible()
    await expect(ann.page.locator("#instructions")).to_be_visible(visible=not broken)


# --- qualification ---------------------------------------------------------------------------------------------------


def post_gold(site: Site, run: str, count: int) -> None:
    queries = [
        {"client_key": f"g{n}", "prompt": f"gold {n}", "first": "right", "second": "wrong", "gold": "first"}
        for n in range(count)
    ]
    site.admin.post(f"/v1/runs/{run}/queries:batch", json={"queries": queries}).raise_for_status()


async def answer(ann: Visitor, right: bool) -> None:
    _, first, _ = await ann.shown()
    await ann.press("ArrowLeft" if (first == "right") is right else "ArrowRight")


async def test_a_qualification_says_what_it_is_and_ends_in_ordinary_duels(site: Site, run: str, visit: Visit) -> None:
    site.run(run, qualification=2, qualifying_share=1.0)
    site.post(run)
    post_gold(site, run, 2)
    ann = await visit(run)
    await ann.says("Qualification, 0 of 2 answered: the right answers of these duels are known.", "#qualifying")
    await answer(ann, right=True)
    await ann.says("Qualification, 1 of 2 answered", "#qualifying")
    await answer(ann, right=True)
    await ann.says("prompt 0", "#prompt")
    await expect(ann.page.locator("#qualifying")).to_be_empty()


async def test_who_fails_is_told_kindly_whom_to_ask(site: Site, run: str, visit: Visit) -> None:
    site.run(run, qualification=1)
    site.post(run)
    post_gold(site, run, 2)
    ann = await visit(run)
    await answer(ann, right=False)
    await ann.says("No more duels for you in this run", "#panel")
    await ann.says("Thank you for taking part.", "#panel")
    await ann.says("Ask whoever gave you the link", "#panel")


async def test_a_qualification_without_duels_says_so(site: Site, run: str, visit: Visit) -> None:
    site.run(run, qualification=1)
    site.post(run)
    ann = await visit(run)
    await ann.says("too few duels of the qualification", "#panel")
    post_gold(site, run, 1)
    assert (await ann.shown())[0] == "gold 0"
