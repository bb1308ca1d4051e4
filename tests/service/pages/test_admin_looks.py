"""Everybody can read and use the admin page, and what models and people wrote stays text on it."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from playwright.async_api import expect
from service.pages.browsing import Site, serve_changed
from service.pages.conftest import Attend
from service.pages.offices import Office, barriers
from service.pages.test_looks import faint_texts, overflow
from service.pages.test_model_text import HOSTILE, has_run

pytestmark = pytest.mark.anyio

LONG = "x" * 300
MARKUP = (
    (
        "element.append(...children",
        "element.insertAdjacentHTML('beforeend', children.flat(9).filter((one) => typeof one === 'string').join('')); "
        "element.append(...children",
    ),
)
"""A fault: texts become markup."""
NAME = "annotator-with-a-long-name@company.test"


def fill(site: Site, run: str) -> None:
    """Give a run everything that the page can show about one, with long words in it."""
    site.run(run, name="A run with a name that is much too long for a phone", votes_needed=3)
    site.post(run, 3, prompt=LONG, first=f"one {LONG}", second=f"two {LONG}")
    headers = {"Authorization": f"Bearer {site.key(NAME)}"}
    with httpx.Client(base_url=site.url, headers=headers) as person:
        lease = person.post(f"/v1/runs/{run}/leases", json={}).json()["lease_id"]
        person.put(f"/v1/leases/{lease}/label", json={"outcome": "tie", "comment": LONG}).raise_for_status()
        person.post(f"/v1/runs/{run}/leases", json={}).raise_for_status()


async def everything(admin: Office, run: str) -> AsyncIterator[str]:
    """Walk through what the page can show: yields at each place."""
    await expect(admin.page.locator(".run-card").first).to_be_visible()
    yield "runs"
    await admin.named("New run").click()
    await admin.named("Add an example").click()
    yield "new run"
    await admin.page.keyboard.press("Escape")
    await admin.go(f"/runs/{run}")
    await expect(admin.part("Agreement and quality").get_by_role("row", name=NAME)).to_be_visible()
    yield "run"
    await admin.page.locator(".duel-name").last.click()
    await expect(admin.dialog.get_by_role("heading", name="Prompt")).to_be_visible()
    yield "duel"
    await admin.page.keyboard.press("Escape")
    await admin.named("Close").click()
    yield "confirm"
    await admin.page.keyboard.press("Escape")
    await admin.go("/people")
    await admin.part("Invite somebody").get_by_label("Name", exact=True).fill(NAME)
    await admin.named("Make a link").click()
    await expect(admin.page.locator(".qr")).to_be_visible()
    await admin.part("Other keys").get_by_text("New key").click()
    yield "people"


@pytest.mark.parametrize(
    ("width", "percent", "scheme"),
    [(320, 100, "dark"), (390, 100, "light"), (390, 200, "light"), (1280, 200, "dark"), (2560, 100, "light")],
)
async def test_it_fits_is_legible_and_has_no_barriers_at_every_size(
    site: Site, run: str, office: Attend, width: int, percent: int, scheme: Any
) -> None:
    fill(site, run)
    size = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "reduced_motion": "reduce"}
    admin = await office(**size)
    async for place in everything(admin, run):
        await admin.page.evaluate(f"document.documentElement.style.fontSize = '{percent}%'")
        assert await overflow(admin.page) == 0, place
        assert await admin.page.evaluate(
            "[...document.querySelectorAll('dialog')].every((dialog) => dialog.scrollWidth <= dialog.clientWidth)"
        ), place
        assert await faint_texts(admin.page) == [], place
        assert await barriers(admin.page) == [], place


@pytest.mark.parametrize("width", [320, 1280])
async def test_the_way_out_of_a_long_dialog_stays_whole(site: Site, run: str, office: Attend, width: int) -> None:
    fill(site, run)
    admin = await office(f"/runs/{run}", viewport={"width": width, "height": 400})
    await admin.page.locator(".duel-name").last.click()
    await expect(admin.dialog.get_by_role("heading", name="Prompt")).to_be_visible()
    await admin.dialog.evaluate("(e) => e.scrollTo(0, 300)")
    top = (await admin.dialog.bounding_box())["y"]
    assert (await admin.dialog.get_by_role("button", name="Dismiss").bounding_box())["y"] >= top


async def test_a_barrier_is_found(office: Attend) -> None:
    """The faults that the test above must find."""
    admin = await office("/people")
    await expect(admin.page.locator(".person").first).to_be_visible()
    await admin.page.evaluate("document.querySelectorAll('label').forEach((label) => label.removeAttribute('for'))")
    await admin.page.locator("h1").evaluate("(e) => { e.style.width = '2000px' }")
    assert "label" in await barriers(admin.page)
    assert await overflow(admin.page) > 0


async def test_the_keyboard_alone_makes_a_run_pauses_it_and_invites(site: Site, office: Attend) -> None:
    admin = await office()
    keys = admin.page.keyboard
    await expect(admin.named("New run")).to_be_visible()

    async def tab_to(name: str) -> None:
        """Tab until the control of this name, which has come, has the focus, and shows it."""
        named = admin.page.get_by_text(name, exact=True).or_(admin.page.get_by_label(name, exact=True))
        await expect(named.filter(visible=True).first).to_be_visible()
        controls = await admin.page.locator("a, button, input, select, textarea, summary, [tabindex]").count()
        for _ in range(3 * controls):  # a field for dates has several stops
            await keys.press("Tab")
            said, outline = await admin.page.evaluate(
                """() => { const at = document.activeElement, style = getComputedStyle(at);
                    const name = at.labels?.[0]?.textContent ?? at.textContent;
                    return [name.trim(), style.outlineStyle + parseFloat(style.outlineWidth)] }"""
            )
            if said == name:
                assert outline == "solid3"
                return
        raise AssertionError(f"{name} is not reached")

    await tab_to("New run")
    await keys.press("Enter")
    await tab_to("Id")
    await keys.type("by-keys")
    await keys.press("Enter")
    await admin.page.wait_for_url("**/admin/runs/by-keys")
    await tab_to("Pause")
    await keys.press("Enter")
    await admin.told("is paused")
    await expect(admin.named("Go on")).to_be_focused()  # which stands where Pause was
    await keys.press("Enter")
    await admin.told("gives duels")
    await tab_to("Close")
    await keys.press("Enter")
    await expect(admin.dialog).to_be_visible()
    await keys.press("Escape")
    await expect(admin.page.get_by_role("group", name="This run").get_by_role("button", name="Close")).to_be_focused()
    await tab_to("People")
    await keys.press("Enter")
    await admin.page.wait_for_url("**/admin/people")
    await tab_to("Name")
    await keys.type("nia")
    await tab_to("by-keys")
    await keys.press("Space")
    await tab_to("Make a link")
    await keys.press("Enter")
    await admin.told("There is a link for nia")
    await expect(admin.named("Copy")).to_be_focused()
    (nia,) = [one for one in site.admin.get("/v1/people").json()["people"] if one["annotator"] == "nia"]
    assert (nia["active"], [key["runs"] for key in nia["keys"]]) == (True, [["by-keys"]])
    assert site.admin.get("/v1/runs/by-keys").json()["state"] == "open"


@pytest.mark.parametrize("broken", [False, True])
async def test_markup_in_texts_and_names_stays_text(site: Site, run: str, office: Attend, broken: bool) -> None:
    """``broken`` is the fault that must be found: a page that makes elements of texts."""
    site.run(run, name=HOSTILE[:80], instructions=HOSTILE)
    site.post(run, prompt=HOSTILE, first=HOSTILE, second=f"{HOSTILE} two")
    person = HOSTILE[:100]
    site.admin.post("/v1/people", json={"annotator": person}).raise_for_status()
    with httpx.Client(base_url=site.url, headers={"Authorization": f"Bearer {site.key(person)}"}) as client:
        lease = client.post(f"/v1/runs/{run}/leases", json={}).json()["lease_id"]
        client.put(f"/v1/leases/{lease}/label", json={"outcome": "tie", "comment": HOSTILE}).raise_for_status()
    admin = await office()
    if broken:
        admin.failures_expected = True
        await serve_changed(admin.page, "dom.js", *MARKUP)
    await admin.page.goto(f"{site.url}/admin/runs/{run}")
    foreign = admin.page.locator("main img:not(.qr), main script, main svg, dialog img, dialog script")
    if broken:
        await expect(foreign.first).to_be_attached()
        await admin.leave_complaining()
        return
    await admin.page.locator(".duel-name").click()
    await expect(admin.dialog.get_by_text("onerror").first).to_be_visible()
    await expect(foreign).to_have_count(0)
    await admin.named("Rendered").click()
    await expect(admin.dialog.locator("article .text").nth(1)).to_have_text(HOSTILE)
    await expect(admin.dialog.get_by_role("row").last).to_contain_text("<script>")
    await expect(foreign).to_have_count(0)
    await admin.go("/people")
    await expect(admin.page.get_by_role("heading", name=person)).to_be_visible()
    await expect(foreign).to_have_count(0)
    assert not await has_run(admin.page)
