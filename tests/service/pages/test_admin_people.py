"""The page of people: links and their codes, and the end of one of them."""

import httpx
import pytest
import segno
from playwright.async_api import Locator, expect
from service.pages.browsing import Site
from service.pages.conftest import Attend
from service.pages.offices import Office

pytestmark = pytest.mark.anyio

QUIET = 4  # modules around a code

# What a picture of a code shows, module by module: true is dark.
MODULES = """async (image, across) => {
    await image.decode();
    const size = 10 * across, canvas = document.createElement("canvas");
    canvas.width = canvas.height = size;
    const ctx = canvas.getContext("2d");
    ctx.drawImage(image, 0, 0, size, size);
    const dark = (x, y) => ctx.getImageData(10 * x + 5, 10 * y + 5, 1, 1).data[0] < 128;
    const places = [...Array(across).keys()];
    return places.map((y) => places.map((x) => dark(x, y)));
}"""


def code_of(text: str) -> list[list[bool]]:
    """The modules of a text's code, with the quiet zone around it."""
    return [[bool(module) for module in row] for row in segno.make_qr(text).matrix_iter(border=QUIET)]


def card(admin: Office, name: str) -> Locator:
    """What the page shows of somebody."""
    heading = admin.page.get_by_role("heading", name=name, exact=True)
    return admin.page.locator(".person").filter(has=heading)


def invite(site: Site, name: str, run: str) -> str:
    """The secret of a new link."""
    body = {"annotator": name, "runs": [run]}
    return str(site.admin.post("/v1/people", json=body).raise_for_status().json()["key"])


async def test_the_code_holds_the_address_of_the_link(site: Site, run: str, office: Attend) -> None:
    admin = await office("/people")
    form = admin.part("Invite somebody")
    await form.get_by_label("Name", exact=True).fill(f"{run} lea")
    await form.get_by_label(run, exact=True).check()
    await admin.named("Make a link").click()
    image = form.get_by_alt_text(f"QR code of the link for {run} lea")
    await expect(image).to_be_visible()
    link = await form.get_by_label(f"Link for {run} lea").input_value()
    assert link.startswith(f"{site.url}/sign-in?next=/label/{run}#key=sea_")
    expected = code_of(link)
    assert await image.evaluate(MODULES, len(expected)) == expected
    assert code_of(link[:-1] + ("x" if link[-1] != "x" else "y")) != expected, "one letter would be seen"


async def test_one_link_of_somebody_is_ended_and_the_other_goes_on(site: Site, run: str, office: Attend) -> None:
    name = f"{run} mira"
    site.run(f"{run}-other")
    kept, ended = invite(site, name, run), invite(site, name, f"{run}-other")
    alone = f"{run} alone"
    invite(site, alone, run)
    admin = await office("/people")
    links = card(admin, name).get_by_role("list", name=f"Links of {name}").get_by_role("listitem")
    await expect(links).to_have_count(2)
    await expect(card(admin, alone)).to_contain_text("1 key for")
    await expect(card(admin, alone).get_by_role("list")).to_have_count(0)
    await links.filter(has_text=f"Link for {run}-other, made").get_by_role("button", name="End this link").click()
    await expect(admin.dialog.get_by_role("heading")).to_have_text(f"End the link of {name}?")
    await admin.named("End the link").click()
    await admin.told(f"The link of {name} has ended.")
    await expect(links).to_have_count(0)
    await expect(card(admin, name)).to_contain_text(f"1 key for {run}")
    for secret, status in {kept: httpx.codes.OK, ended: httpx.codes.UNAUTHORIZED}.items():
        headers = {"Authorization": f"Bearer {secret}"}
        assert httpx.get(f"{site.url}/v1/runs", headers=headers).status_code == status


async def test_the_end_of_a_link_by_keyboard_leaves_the_focus_on_the_page(site: Site, run: str, office: Attend) -> None:
    name = f"{run} mira"
    for _ in range(3):
        invite(site, name, run)
    admin = await office("/people")
    ends = card(admin, name).get_by_role("button", name="End this link")
    await expect(ends).to_have_count(3)
    await ends.first.focus()
    await admin.page.keyboard.press("Enter")
    await admin.page.keyboard.press("Escape")
    await expect(ends.first).to_be_focused()
    await expect(ends).to_have_count(3)
