"""The page of one run: it follows what is done elsewhere, keeps to the service's limits, says what is in the way."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.async_api import Route, expect
from service.pages.browsing import Site, serve_changed
from service.pages.conftest import Attend

from sea_agent.service.schemas.base import MOST_IN_URL
from sea_agent.service.schemas.duels import CountHandOutIn, QueryChangeIn, ShareHandOutIn

pytestmark = pytest.mark.anyio

MOST_DUELS = CountHandOutIn.model_json_schema()["properties"]["count"]["maximum"]
MOST_NAMED = ShareHandOutIn.model_json_schema()["properties"]["annotators"]["maxItems"]


def person(site: Site, name: str) -> httpx.Client:
    """Somebody who answers by REST."""
    return httpx.Client(base_url=site.url, headers={"Authorization": f"Bearer {site.key(name)}"})


def claim(client: httpx.Client, run: str) -> dict[str, Any]:
    """A duel of the run for somebody."""
    return dict(client.post(f"/v1/runs/{run}/leases", json={}).raise_for_status().json())


def answer(client: httpx.Client, run: str, outcome: str = "tie") -> None:
    """Take a duel of the run and answer it."""
    client.put(f"/v1/leases/{claim(client, run)['lease_id']}/label", json={"outcome": outcome}).raise_for_status()


def votes(site: Site, run: str, *names: str) -> None:
    """A vote of each on the first duel."""
    labels = [{"client_key": "k0", "outcome": "first", "annotator": name} for name in names]
    headers = {"Idempotency-Key": "votes"}
    site.admin.post(f"/v1/runs/{run}/labels:batch", json={"labels": labels}, headers=headers).raise_for_status()


# --- a new run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["archived", "open"])
async def test_a_new_run_never_takes_the_place_of_another(site: Site, run: str, office: Attend, state: str) -> None:
    """One that the list does not show, or that somebody made since the list came."""
    admin = await office()
    admin.failures_expected = True
    await admin.page.route("**/v1/runs?*", lambda route: route.fulfill(json={"runs": []}))
    site.run(run, name="Sums", votes_needed=3, state=state)
    await admin.page.reload()
    await admin.named("New run").click()
    await admin.dialog.get_by_label("Id", exact=True).fill(run)
    await admin.dialog.get_by_label("Name").fill("Another")
    await admin.named("Make the run").click()
    await expect(admin.dialog.get_by_role("alert")).to_contain_text(
        f"There is a run {run} already; it was not changed."
    )
    kept = site.admin.get(f"/v1/runs/{run}").json()
    assert (kept["name"], kept["votes_needed"], kept["state"]) == ("Sums", 3, state)
    await admin.dialog.get_by_label("Id", exact=True).fill(f"{run}-new")
    await admin.named("Make the run").click()
    await admin.page.wait_for_url(f"**/admin/runs/{run}-new")


# --- what is done elsewhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [False, True])
async def test_a_name_that_is_erased_elsewhere_goes_and_who_skips_comes(
    site: Site, run: str, office: Attend, broken: bool
) -> None:
    """``broken`` is the fault that must be found: a page that looks at the number of labels alone."""
    site.post(run, 2)
    name, skipper = f"{run} Quillfeather", f"{run} skipper"
    with person(site, name) as client:
        answer(client, run)
    admin = await office()
    if broken:
        await serve_changed(admin.page, "admin/run.js", ("progress.quality_version", "progress.labels"))
    await admin.go(f"/runs/{run}")
    people = admin.part("Agreement and quality")
    await expect(people.get_by_role("row", name=name)).to_be_visible()
    await admin.part("Export").get_by_label(name).check()
    with person(site, skipper) as client:
        client.post(f"/v1/leases/{claim(client, run)['lease_id']}/skip").raise_for_status()
    if broken:
        await admin.refreshed()
        await expect(people.get_by_role("row", name=skipper)).to_have_count(0)
        return
    await expect(people.get_by_role("row", name=skipper)).to_be_visible()
    pseudonym = site.admin.post(f"/v1/people/{name}/erase").raise_for_status().json()["pseudonym"]
    await expect(people.get_by_role("row", name=pseudonym)).to_be_visible()
    await expect(admin.part("Hand out duels").get_by_label(name)).to_have_count(0)
    await expect(admin.part("Export").get_by_label(pseudonym)).not_to_be_checked()
    assert "Quillfeather" not in await admin.page.content()


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_an_export_is_of_no_more_people_than_a_link_holds(site: Site, run: str, office: Attend) -> None:
    site.post(run)
    names = [f"p{n:02}" for n in range(MOST_IN_URL + 1)]
    votes(site, run, *names)
    admin = await office(f"/runs/{run}")
    part, link = admin.part("Export"), admin.page.locator("a.main", has_text="Download")
    for name in names:
        await part.get_by_label(name).check()
    fault = part.get_by_role("group", name="Only answers of").get_by_role("alert")
    await expect(fault).to_contain_text(f"These are {len(names)} people, and a link holds {MOST_IN_URL}")
    await expect(link).not_to_have_attribute("href", re.compile(""))
    await expect(link).to_have_attribute("aria-disabled", "true")
    await part.get_by_label(names[0]).uncheck()
    await expect(fault).to_be_hidden()
    address = str(await link.get_attribute("href"))
    assert parse_qs(urlsplit(address).query)["annotator"] == names[1:]
    assert site.admin.get(address).status_code == httpx.codes.OK


async def test_what_is_handed_out_keeps_to_the_limits_of_the_service(site: Site, run: str, office: Attend) -> None:
    site.post(run, 1)
    admin = await office(f"/runs/{run}")
    out = admin.part("Hand out duels")
    fault = out.get_by_role("group", name="To").get_by_role("alert")
    await admin.named("Hand out").click()
    await expect(fault).to_have_text("Tick somebody, or write a name.")
    names = [f"name {n}" for n in range(MOST_NAMED + 1)]
    await out.get_by_label("Other names").fill("\n".join(names))
    await expect(fault).to_be_hidden()
    await admin.named("Hand out").click()
    await expect(fault).to_contain_text(f"These are {len(names)} people, and {MOST_NAMED} go at once")
    await admin.named("Take back from them").click()
    await expect(fault).to_contain_text(f"and {MOST_IN_URL} go at once")
    await out.get_by_label("Other names").fill("\n".join(names[1:]))
    await out.get_by_label("Unit").select_option("duels")
    amount = out.get_by_label("How much")
    await expect(amount).to_have_attribute("max", str(MOST_DUELS))
    await amount.fill(str(MOST_DUELS + 1))
    await admin.named("Hand out").click()
    assert await amount.evaluate("(e) => e.validity.rangeOverflow")
    assert ("POST", f"/v1/runs/{run}/assignments") not in admin.methods
    await amount.fill(str(MOST_DUELS))
    await out.get_by_label("People for each duel").fill("1")
    await admin.named("Hand out").click()
    await admin.told("Handed out: ")


async def test_a_duel_is_for_no_more_people_than_the_service_takes(site: Site, run: str, office: Attend) -> None:
    assert QueryChangeIn.model_json_schema()["properties"]["assigned"]["anyOf"][0]["maxItems"] == MOST_NAMED
    site.post(run)
    admin = await office(f"/runs/{run}")
    await admin.page.get_by_role("button", name="prompt 0").click()
    names = admin.dialog.get_by_label("Only for")
    await names.fill("\n".join(f"name {n}" for n in range(MOST_NAMED + 1)))
    await admin.named("Save").click()
    said = await names.evaluate("(e) => e.validationMessage")
    assert said == f"A duel is for {MOST_NAMED} people at most; these are {MOST_NAMED + 1}."
    await names.fill("\n".join(f"name {n}" for n in range(MOST_NAMED)))
    await admin.named("Save").click()
    await admin.told("Saved; the duel is only for name 0")


# --- duels -----------------------------------------------------------------------------------------------------------


async def test_duels_are_listed_with_their_age_the_oldest_first_if_asked_for(
    site: Site, run: str, office: Attend
) -> None:
    site.post(run, 25)
    admin = await office(f"/runs/{run}")
    part, names = admin.part("Duels"), admin.page.locator(".duel-name")
    await expect(names.first).to_have_text("prompt 24")
    await expect(part.locator("time").first).to_have_text("posted just now")
    await part.get_by_label("Order").select_option("oldest")
    await expect(names.first).to_have_text("prompt 0")
    await admin.named("Next").click()
    await expect(names).to_have_text([f"prompt {n}" for n in range(20, 25)])
    await admin.named("Previous").click()
    await expect(names.first).to_have_text("prompt 0")
    await admin.page.clock.set_fixed_time(datetime.now(UTC) + timedelta(days=3))
    await expect(part.locator("time").first).to_have_text("posted 3 days ago")


async def test_a_duel_can_be_changed_once_its_values_have_come(site: Site, run: str, office: Attend) -> None:
    """Or what somebody types at once would be overwritten, and "Saved" be said of nothing."""
    site.post(run, 1)
    admin = await office(f"/runs/{run}")
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def late(route: Route) -> None:
        asked.set()
        await go_on.wait()
        await route.continue_()

    await admin.page.route("**/v1/queries/*", late)
    await admin.page.get_by_role("button", name="prompt 0", exact=True).click()
    await asked.wait()
    priority = admin.dialog.get_by_label("Priority")
    await expect(priority).to_be_hidden()
    go_on.set()
    await expect(priority).to_have_value("0")


async def test_a_duel_is_put_first_in_its_dialog(site: Site, run: str, office: Attend) -> None:
    site.post(run, 3)
    admin = await office(f"/runs/{run}")
    await admin.page.get_by_role("button", name="prompt 2", exact=True).click()
    await admin.dialog.get_by_label("Priority").fill("7")
    await admin.named("Save").click()
    await admin.told("Saved; the duel is for everybody.")
    await admin.named("Dismiss").click()
    await expect(admin.page.locator(".duels > li", has_text="prompt 2")).to_contain_text("priority 7")
    with person(site, "ann") as client:
        assert claim(client, run)["prompt"] == "prompt 2"


@pytest.mark.parametrize("broken", [False, True])
async def test_texts_are_rendered_in_the_dialog_or_shown_as_they_were_written(
    site: Site, run: str, office: Attend, broken: bool
) -> None:
    """``broken`` is the fault that must be found: a dialog that shows raw texts only."""
    written = "**Add** it:\n\n```python\nreturn x + 1\n```\n\nwhich is $x^2$ <b>not</b>"
    site.post(run, 2, prompt="How do I *add*?", first=written, second="| a | b |\n|---|---|\n| 1 | 2 |")
    admin = await office(f"/runs/{run}")
    if broken:
        await serve_changed(admin.page, "admin/duel.js", ("texts, { rendered,", "texts, { rendered: false,"))
        await admin.page.reload()
    await admin.page.locator(".duel-name").first.click()
    texts = admin.dialog.locator("article .text")
    await expect(texts).to_have_count(3)
    bold = texts.nth(1).locator("strong", has_text="Add")
    if broken:
        await expect(bold).to_have_count(0)
        return
    await expect(bold).to_be_visible()
    await expect(texts.nth(0).locator("em")).to_have_text("add")
    await expect(texts.nth(1).locator("pre")).to_have_text("return x + 1\n")
    await expect(texts.nth(1).locator("math")).to_have_count(1)
    await expect(texts.nth(1)).to_contain_text("<b>not</b>")
    await expect(texts.nth(2).get_by_role("cell")).to_have_text(["1", "2"])
    switch = admin.named("Rendered")
    await expect(switch).to_have_attribute("aria-pressed", "true")
    await texts.nth(1).evaluate("(e) => getSelection().selectAllChildren(e)")
    await switch.focus()
    await admin.page.keyboard.press("Enter")
    await expect(texts.nth(1)).to_have_text(written, use_inner_text=True)
    await expect(switch).to_have_attribute("aria-pressed", "false")
    await expect(switch).to_be_focused()
    await admin.page.keyboard.press("Escape")
    await admin.page.locator(".duel-name").last.click()
    await expect(texts.nth(1)).to_have_text(written, use_inner_text=True)
    await switch.click()
    await expect(bold).to_be_visible()


async def test_duels_are_taken_back_from_one_person(site: Site, run: str, office: Attend) -> None:
    site.post(run, 4)
    for name, count in {"ann": 1, "ben": 2}.items():
        site.key(name)
        body = {"annotators": [name], "count": count}
        site.admin.post(f"/v1/runs/{run}/assignments", json=body).raise_for_status()
    admin = await office(f"/runs/{run}")
    admin.failures_expected = True
    out = admin.part("Hand out duels")
    await out.get_by_label("ben", exact=True).check()
    await out.get_by_label("Other names").fill("zoe")
    await admin.named("Take back from them").click()
    await admin.named("Take back").click()
    await expect(admin.dialog).to_contain_text("Nothing of run")
    await admin.named("Leave it").click()
    await out.get_by_label("Other names").fill("")
    await admin.named("Take back from them").click()
    await expect(admin.dialog.get_by_role("heading")).to_have_text("Take duels back from ben?")
    await admin.named("Take back").click()
    await admin.told("Nothing is handed out to ben any more.")
    listed = site.admin.get(f"/v1/runs/{run}/queries").json()["queries"]
    assert sorted(name for duel in listed for name in duel["assigned"]) == ["ann"]


async def test_who_types_right_after_a_dialog_closed_is_not_led_away(site: Site, run: str, office: Attend) -> None:
    admin = await office(f"/runs/{run}")
    out = admin.part("Hand out duels")
    await out.get_by_label("Other names").fill("zoe")
    opener = admin.named("Take back from them")
    await opener.focus()
    await admin.page.keyboard.press("Enter")
    await admin.dialog.wait_for()
    # Both in one task, as nobody's hands can: what the dialog does to the focus when it is told is closed comes after.
    focused = await out.get_by_label("Other names").evaluate(
        """async (field) => {
            const dialog = document.querySelector("dialog");
            const told = new Promise((resolve) => dialog.addEventListener("close", () => setTimeout(resolve)));
            dialog.close();
            const opener = document.activeElement.textContent;
            field.focus();
            await told;
            return [opener, document.activeElement === field];
        }"""
    )
    assert focused == ["Take back from them", True]


# --- qualification ---------------------------------------------------------------------------------------------------


async def test_a_run_that_nobody_can_qualify_for_says_so_until_there_is_gold(
    site: Site, run: str, office: Attend
) -> None:
    site.run(run, qualification=3)
    site.post(run, 2)
    site.post(run, 1, start=2, gold="first")
    admin = await office()
    said = (
        "Nobody new can qualify, and who has not gets nothing else: the qualification asks for 3 gold duels, and the "
        "run has only 1 open. Import 2 more with known answers (gold), or ask for fewer under Change."
    )
    await expect(
        admin.page.locator(".run-card").filter(has_text=run).locator(".warning", has_text=said)
    ).to_be_visible()
    await admin.go(f"/runs/{run}")
    warning = admin.page.locator(".summary .warning", has_text="qualify")
    await expect(warning).to_have_text(said)
    site.post(run, 2, start=3, gold="first")
    await expect(warning).to_have_count(0)


async def test_who_has_qualified_and_who_has_not_is_told(site: Site, run: str, office: Attend) -> None:
    site.run(run, qualification=2, qualifying_share=1.0)
    site.post(run, 3, gold="first")
    for name, right in {"ann": (True, True), "ben": (True, False), "cem": (True,)}.items():
        with person(site, f"{run} {name}") as client:
            for is_right in right:
                lease = claim(client, run)
                shown = lease["first"].startswith("one") is is_right
                body = {"outcome": "first" if shown else "second"}
                client.put(f"/v1/leases/{lease['lease_id']}/label", json=body).raise_for_status()
    admin = await office(f"/runs/{run}")
    table = admin.part("Agreement and quality")
    said = {"ann": "Qualified", "ben": "Not qualified: gets no duels", "cem": "Qualifying: 1 of 2"}
    for name, text in said.items():
        badge = table.get_by_role("row", name=f"{run} {name}").locator(".badge")
        await expect(badge).to_have_text(text)
    site.run(run, qualification=0)
    await expect(table.locator(".badge")).to_have_count(0)


# --- what leaves the run ---------------------------------------------------------------------------------------------


async def test_the_export_link_says_all_that_is_filtered_in_utc(site: Site, run: str, office: Attend) -> None:
    site.post(run)
    votes(site, run, "ann", "b & c", "dan")
    admin = await office(f"/runs/{run}", timezone_id="Asia/Kolkata")
    part, link = admin.part("Export"), admin.page.get_by_role("link", name="Download")
    address = f"/v1/runs/{run}/export"
    await expect(link).to_have_attribute("href", f"{address}.jsonl")
    await part.get_by_label("Format").select_option("csv")
    await part.get_by_label("Outcome").select_option("both_bad")
    await part.get_by_label("Agreement at least, %").fill("62.5")
    await part.get_by_label("Votes at least").fill("2")
    await part.get_by_label("Answered from").fill("2026-01-31T00:15")
    await part.get_by_label("Answered until").fill("2026-07-01T12:00")
    await part.get_by_label("Duels without a winner").select_option("keep")
    for name in ("b & c", "dan"):
        await part.get_by_label(name).check()
    parts = urlsplit(str(await link.get_attribute("href")))
    assert parts.path == f"{address}.csv"
    assert parse_qs(parts.query) == {
        "outcome": ["both_bad"],
        "min_agreement": ["0.625"],
        "min_votes": ["2"],
        "since": ["2026-01-30T18:45:00.000Z"],
        "until": ["2026-07-01T06:30:00.000Z"],
        "ties": ["keep"],
        "annotator": ["b & c", "dan"],
    }
    assert site.admin.get(f"{parts.path}?{parts.query}").status_code == httpx.codes.OK
    await part.get_by_label("Agreement at least, %").fill("101")
    await expect(admin.page.locator("a.main", has_text="Download")).to_have_attribute("aria-disabled", "true")


async def test_erasing_says_what_cannot_forget(site: Site, run: str, office: Attend) -> None:
    learnt = "Weights and posteriors that have learnt from the answers cannot forget them"
    site.post(run)
    admin = await office(f"/runs/{run}")
    for erase in ("Erase texts", "prompt 0"):
        await admin.page.get_by_role("button", name=erase).first.click()
        if erase == "prompt 0":
            await admin.dialog.get_by_role("button", name="Erase texts").click()
        await expect(admin.dialog).to_contain_text(learnt)
        await admin.named("Leave it").click()
    await admin.page.keyboard.press("Escape")
    name = f"{run} somebody"
    site.key(name)
    await admin.go("/people")
    card = admin.page.get_by_role("listitem").filter(has=admin.page.get_by_role("heading", name=name, exact=True))
    await card.get_by_role("button", name="Erase").click()
    await expect(admin.dialog).to_contain_text(learnt)
