"""The page of who runs live mode: what it tells, what it changes, and to whom it is shown."""

from typing import Any

import pytest
from playwright.async_api import expect
from service import live_rows
from service.conftest import ORIGIN, START, Running
from service.live_rows import Asked
from service.pages.browsing import serve_changed
from service.pages.live_figures import PUBLICATIONS, live_run, summary
from service.pages.live_pages import Arrive, Guest, LiveSite
from service.pages.offices import barriers
from service.pages.test_looks import faint_texts, overflow

pytestmark = pytest.mark.anyio

ADMIN = ("admin",)


@pytest.fixture
async def told(live: LiveSite) -> LiveSite:
    """A service whose live run has gone on for a while."""
    live.routes.tell(live.running.app, summary(), PUBLICATIONS)
    return live


async def arrive(guest: Arrive, **options: Any) -> Guest:
    """Somebody at the page, once it shows something."""
    ann = await guest(**({"path": "/live", "scopes": ADMIN} | options))
    await expect(ann.page.get_by_role("region", name="Users and answers")).to_contain_text("Requests")
    return ann


async def points(ann: Guest, title: str) -> list[list[float]]:
    """The values of a chart's curves."""
    box = ann.page.locator(f"[role=img][aria-label^='Chart: {title}']")
    return list(await box.evaluate("(box) => box.chart.drawing.curves.map(({ y }) => y)"))


# --- what it tells ---------------------------------------------------------------------------------------------------


async def test_it_tells_what_serves_how_users_are_answered_and_what_the_gate_decided(
    told: LiveSite, guest: Arrive
) -> None:
    ann = await arrive(guest)
    figures = ann.page.get_by_role("region", name="Users and answers")
    for text in (
        "Requests1,3806 failed, 2 under way",
        "Estimated regret0.4120.380 to 0.444, n = 900",
        "initial policy68 %52 to 80 %, n = 40; 1 tie, 12 asked",
        "Asked10.0 %120 of 1,200 requests that allow it",
        "Answered55 %46 to 64 %, n = 120; 3 late",
        "27 first, 29 second, 6 tie, 4 both bad",
        "0.207 s95 % within 0.412 s, 99 % within 1.20 s, n = 1,374",
        "Tokens of an answer80",
        "Users4012 answered",
        "Went on without a pick119 with the first, 2 with the second",
    ):
        await expect(figures).to_contain_text(text)
    engines = ann.page.get_by_role("list", name="Engines").get_by_role("listitem")
    await expect(engines.nth(0)).to_contain_text("version 3")
    await expect(engines.nth(1)).to_contain_text("should hold version 3")
    await expect(engines.nth(1)).to_contain_text("It does not answer.")
    await expect(ann.page.locator(".about")).to_contain_text("Version 3 is live")
    rejected = ann.page.get_by_role("row", name="4 rejected")
    for text in ("win rate 0.510 may be 0.402, not above 0.45", "0.610 (from 0.402)", "1.25", "0.0012"):
        await expect(rejected).to_contain_text(text)
    await expect(ann.page.get_by_role("row", name="1 withdrawn")).to_contain_text("Audits: 1 won, 8 lost of 9.")
    await expect(ann.page.get_by_role("row", name="9f9f9f9f9f9f…")).to_contain_text("21.2 %")
    assert await points(ann, "Estimated regret") == [[0.9 - 0.01 * k for k in range(60) if k % 9]]
    assert await points(ann, "Win rate") == [[0.61, 0.61, 0.61]]
    assert await points(ann, "Length and divergence") == [[1.1] * 3, [1.25] * 3]
    assert await points(ann, "Drift of prompts") == [[0.12] * 3]


async def test_it_updates_itself(told: LiveSite, guest: Arrive) -> None:
    ann = await arrive(guest)
    told.routes.summary = summary(requests=1381, live=live_run(frozen=True, forced=3))
    await expect(ann.page.get_by_role("region", name="Users and answers")).to_contain_text("1,381")
    await expect(ann.page.locator(".about")).to_contain_text("Frozen: nothing new goes live by itself")
    await expect(ann.page.get_by_role("row", name="3 live, by an operator")).to_be_visible()
    await expect(ann.named("Unfreeze")).to_be_visible()


async def test_figures_that_there_are_not_yet_are_told_as_such(live: LiveSite, guest: Arrive) -> None:
    ann = await arrive(guest)
    begin = ann.page.locator("section", has_text="No request in this time")
    await expect(begin).to_contain_text(f"{live.url}/v1/chat/completions")
    await expect(begin.get_by_role("link", name="the chat page")).to_have_attribute("href", "/chat")
    await expect(ann.page.locator("main")).to_contain_text("No weights were offered yet.")
    await expect(ann.page.locator("main")).to_contain_text("Nobody has answered in this time.")
    await expect(ann.page.locator(".about")).to_contain_text("The initial weights serve")
    assert "NaN" not in await ann.page.locator("main").inner_text()


async def test_a_lost_connection_is_told_and_over_when_it_is_back(told: LiveSite, guest: Arrive) -> None:
    ann = await arrive(guest)
    ann.failures_expected = True
    await ann.context.set_offline(True)
    await ann.says("The service does not answer.", "#trouble")
    await ann.context.set_offline(False)
    await expect(ann.page.locator("#trouble")).to_be_hidden()


# --- what it changes, by the service's own routes --------------------------------------------------------------------


async def offer(live: LiveSite, *states: str) -> None:
    """Publish a version for each state."""
    for number, state in enumerate(states, 1):
        body = {"checksum": f"{number:064x}", "round": number, "labels": number, "path": f"/weights/{number}"}
        (await live.running.admin.post("/v1/live/live/publications", json=body)).raise_for_status()
        change = {"state": state, "reason": f"because of {number}", "report": {"win_rate": 0.6, "win_low": 0.55}}
        (await live.running.admin.patch(f"/v1/live/live/publications/{number}", json=change)).raise_for_status()


async def status(live: LiveSite) -> tuple[int | None, bool, int | None]:
    """What is live, whether that is frozen, and what an operator made live."""
    told = (await live.running.admin.get("/v1/live/live")).json()
    return told["live"], told["frozen"], told["forced"]


async def test_an_operator_freezes_promotes_and_rolls_back(live: LiveSite, guest: Arrive) -> None:
    await offer(live, "live", "live", "rejected")
    ann = await arrive(guest)
    await ann.named("Freeze").click()
    await ann.dialog.get_by_role("button", name="Freeze").click()
    await ann.says("Frozen: nothing new goes live by itself.", "#outcome")
    assert await status(live) == (2, True, None)
    await ann.named("Let version 3 go live").click()
    await expect(ann.dialog).to_contain_text("The gate rejected it.")
    await expect(ann.dialog).to_contain_text("instead of version 2")
    await ann.dialog.get_by_role("button", name="Let it go live").click()
    await ann.says("Version 3 is live.", "#outcome")
    assert await status(live) == (3, True, 3)
    await expect(ann.page.get_by_role("row", name="3 live, by an operator")).to_be_visible()
    await ann.named("Roll back").click()
    await ann.dialog.get_by_role("button", name="Take it back").click()
    await ann.says("Taken back; version 2 serves now.", "#outcome")
    assert (await status(live))[0] == 2
    await ann.named("Unfreeze").click()
    await ann.dialog.get_by_role("button", name="Unfreeze").click()
    await ann.says("New weights go live by themselves again.", "#outcome")
    assert (await status(live))[:2] == (2, False)


@pytest.mark.parametrize("asks", [True, False])
async def test_nothing_is_changed_before_it_is_confirmed(live: LiveSite, guest: Arrive, asks: bool) -> None:
    """The fault, a page that does not ask, is what this test must find."""
    await offer(live, "live", "live")
    ann = await arrive(guest)
    if not asks:
        change = ("await confirm({ title, text, action, work });", "await work();")
        await serve_changed(ann.page, "live/actions.js", change)
        await ann.page.reload()
    await ann.named("Roll back").click()
    if not asks:
        await expect(ann.page.locator(".about")).to_contain_text("Version 1 is live")
        return
    await expect(ann.dialog).to_contain_text("Take version 2 back?")
    await ann.page.keyboard.press("Escape")
    await expect(ann.dialog).to_have_count(0)
    await expect(ann.named("Roll back")).to_be_focused()
    await ann.named("Freeze").click()
    await ann.dialog.get_by_role("button", name="Leave it").click()
    assert await status(live) == (2, False, None)


async def test_what_the_service_refuses_is_told_in_the_dialog(live: LiveSite, guest: Arrive) -> None:
    await offer(live, "live", "live")
    ann = await arrive(guest)
    ann.failures_expected = True
    await ann.named("Let version 1 go live").click()
    gone = {"deleted": True}
    (await live.running.admin.patch("/v1/live/live/publications/1", json=gone)).raise_for_status()
    await ann.dialog.get_by_role("button", name="Let it go live").click()
    await expect(ann.dialog.locator(".fault")).not_to_be_empty()
    await ann.page.keyboard.press("Escape")
    await expect(ann.page.get_by_role("row", name="1 retired")).to_contain_text("weights are gone")
    assert (await status(live))[0] == 2


async def test_who_may_only_read_sees_and_changes_nothing(told: LiveSite, guest: Arrive) -> None:
    ann = await arrive(guest, scopes=("read",))
    await expect(ann.page.get_by_role("row", name="4 rejected")).to_be_visible()
    for name in ("Freeze", "Roll back", "Let version 4 go live"):
        await expect(ann.named(name)).to_have_count(0)
    refused = await ann.context.request.post(f"{told.url}/v1/live/live/freeze", headers={"Origin": told.url})
    assert refused.status == 403


async def test_real_requests_and_answers_are_counted(live: LiveSite, guest: Arrive) -> None:
    key_id = live.running.state.keyring.keys[0].id
    rows = [Asked(n, key_id, asked="duel" if n < 4 else None, regret=0.5, created_at=START - 60) for n in range(10)]
    await live_rows.add(live.running, *rows)
    ann = await arrive(guest)
    figures = ann.page.get_by_role("region", name="Users and answers")
    await expect(figures).to_contain_text("Requests100 failed")
    await expect(figures).to_contain_text("40.0 %4 of 10 requests")
    assert sum(value for value in (await points(ann, "Requests"))[0]) == 10


# --- to whom it is shown ---------------------------------------------------------------------------------------------


async def browser_of(service: Running, *scopes: str, **restrictions: Any) -> Any:
    """A client that is signed in on the pages."""
    _, secret = await service.state.keyring.make("somebody", frozenset(scopes), **restrictions)
    client = await service.client()
    await client.post("/sign-in", data={"key": secret}, headers={"Origin": ORIGIN})
    return client


async def test_before_anything_is_live_the_pages_say_what_to_do(sqlite_service: Running) -> None:
    admin = await browser_of(sqlite_service, "admin")
    shown = await admin.get("/live")
    assert shown.status_code == 200
    assert "sea-agent live CONFIG.yaml --out DIRECTORY" in shown.text
    assert (await admin.get("/live/live")).status_code == 404
    chat = await admin.get("/chat")
    assert (chat.status_code, "There is no chat here yet" in chat.text) == (404, True)


async def test_each_key_sees_what_it_is_for(live: LiveSite) -> None:
    service = live.running
    for scopes, restrictions, path, status_code, says in (
        (["chat"], {}, "/chat", 200, 'data-model="live"'),
        (["chat"], {"runs": frozenset({"other"})}, "/chat", 404, "There is no chat here yet"),
        (["annotate"], {}, "/chat", 403, "scope chat"),
        (["chat"], {}, "/live", 403, "scope read"),
        (["read"], {}, "/live", 200, 'data-admin="false"'),
        (["read"], {"runs": frozenset({"other"})}, "/live/live", 404, "your key is not for it"),
        (["admin"], {}, "/live/live", 200, 'data-admin="true"'),
        (["chat"], {}, "/label", 403, 'href="/chat"'),
        (["experiment"], {}, "/admin", 200, 'href="/live"'),
        (["annotate", "chat"], {}, "/label", 200, 'href="/chat"'),
        (["annotate"], {}, "/label", 200, "Runs to answer"),
    ):
        client = await browser_of(service, *scopes, **restrictions)
        answer = await client.get(path)
        assert (answer.status_code, says in answer.text) == (status_code, True), (scopes, path)
    nobody = await service.client()
    for path in ("/chat", "/live", "/live/live"):
        assert (await nobody.get(path)).headers["location"] == f"/sign-in?next={path}"


async def test_a_key_for_the_chat_is_led_there(live: LiveSite) -> None:
    _, secret = await live.running.state.keyring.make("ann", frozenset({"chat"}))
    client = await live.running.client()
    answer = await client.post("/sign-in", data={"key": secret}, headers={"Origin": ORIGIN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/chat")


# --- how it looks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "percent", "scheme"), [(320, 100, "dark"), (390, 200, "light"), (1280, 100, "light"), (2560, 100, "dark")]
)
async def test_it_fits_is_legible_and_has_no_barriers_at_every_size(
    told: LiveSite, guest: Arrive, width: int, percent: int, scheme: Any
) -> None:
    size = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "reduced_motion": "reduce"}
    ann = await arrive(guest, **size)
    await ann.page.evaluate(f"document.documentElement.style.fontSize = '{percent}%'")
    for place in ("page", "dialog"):
        assert await overflow(ann.page) == 0, place
        assert await faint_texts(ann.page) == [], place
        assert await barriers(ann.page) == [], place
        if place == "page":
            await ann.named("Roll back").click()
            await expect(ann.dialog).to_be_visible()
    await ann.page.keyboard.press("Escape")
    await ann.page.locator("h1").evaluate("(e) => { e.style.width = '3000px' }")
    await ann.page.evaluate("document.querySelectorAll('label').forEach((label) => label.removeAttribute('for'))")
    assert await overflow(ann.page) > 0  # so a part that is too wide is found
    assert await barriers(ann.page) != []


async def test_the_office_leads_here_from_a_run_of_live_mode_alone(told: LiveSite, guest: Arrive) -> None:
    await told.running.run()
    ann = await guest(path="/admin/runs/live", scopes=ADMIN)
    users = ann.page.get_by_role("link", name="Users and figures of live mode")
    assert await users.get_attribute("href") == "/live/live"
    await ann.page.goto(f"{told.url}/admin/runs/run")
    await expect(ann.page.locator("main")).to_contain_text("0 labels")
    await expect(users).to_have_count(0)
