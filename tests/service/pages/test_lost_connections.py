"""Whatever happens to the connection, the service, the page or the session, an answer is saved exactly once."""

import asyncio

import pytest
from playwright.async_api import Route, expect
from service.pages.browsing import Site, serve_changed
from service.pages.conftest import Visit

pytestmark = pytest.mark.anyio

FILL = """(storage) => { for (let size = 2 ** 22; size >= 1; size /= 2) {
    try { for (let n = 0; ; n++) globalThis[storage].setItem(`full/${size}/${n}`, "x".repeat(size)) } catch {} } }"""
FORGET = """(part) => { for (const name of Object.keys(localStorage))
    if (name.includes(part)) localStorage.removeItem(name) }"""


async def no_connection(route: Route) -> None:
    await route.abort("connectionrefused")


async def lose_the_reply(route: Route) -> None:
    """Let a request through, and drop what the service answers."""
    await route.fetch()
    await route.abort("connectionreset")


def answers(site: Site, run: str) -> list[tuple[str, str]]:
    """The log: which duel, which outcome."""
    return [(entry["client_key"], entry["outcome"]) for entry in site.log(run)]


# --- the service and the connection ----------------------------------------------------------------------------------


async def test_answers_given_while_the_service_is_killed_are_saved_once(mortal: Site, visit: Visit) -> None:
    async def kill_before_the_reply(route: Route) -> None:
        await route.fetch()
        mortal.kill()
        await route.abort("connectionreset")

    ann = await visit("run", at=mortal)
    ann.failures_expected = True
    await ann.ready()
    mortal.kill()
    await ann.press("t")
    await ann.says("Offline: 1 answer waiting")
    mortal.restart()
    await ann.says("prompt 1", "#prompt")
    await ann.page.route("**/label", kill_before_the_reply, times=1)
    await ann.press("b")
    await ann.says("Offline: 1 answer waiting")
    mortal.restart()
    await ann.nothing_left()
    assert answers(mortal, "run") == [("k0", "tie"), ("k1", "both_bad")]


@pytest.mark.parametrize("forgetful", [False, True])
async def test_an_answer_given_without_a_connection_is_saved_unless_the_page_forgets_it(
    site: Site, run: str, visit: Visit, forgetful: bool
) -> None:
    """The deliberate fault shows that these tests find a lost answer."""
    site.post(run)
    ann = await visit(run)
    ann.failures_expected = True
    if forgetful:
        await serve_changed(
            ann.page, "outbox.js", ("else await this.#pauses.next();", "else this.discard(entry.lease);")
        )
        await ann.page.reload()
    await ann.ready()
    await ann.page.route("**/v1/**", no_connection)
    await ann.press("t")
    await ann.says("No connection", "#panel")
    await ann.page.unroute("**/v1/**")
    if forgetful:
        assert (await ann.shown())[0] == "prompt 0"  # again
        assert answers(site, run) == []
    else:
        await ann.nothing_left()
        assert answers(site, run) == [("k0", "tie")]


@pytest.mark.parametrize("lost", ["**/label", "**/revisions"])
async def test_an_answer_whose_acknowledgement_is_lost_is_saved_once(
    site: Site, run: str, visit: Visit, lost: str
) -> None:
    site.post(run, 2)
    ann = await visit(run)
    ann.failures_expected = True
    await ann.page.route(lost, lose_the_reply, times=2)
    await ann.press("t", "u", "b", "t")
    await ann.nothing_left()
    assert answers(site, run) == [("k0", "tie"), ("k0", "both_bad"), ("k1", "tie")]
    sent = [path for method, path in ann.methods if method in ("PUT", "POST") and path.endswith(lost[2:])]
    assert len(sent) > len({*sent})  # it was sent again


async def test_an_answer_changed_before_it_is_sent_ends_as_the_last_one(site: Site, run: str, visit: Visit) -> None:
    site.post(run)
    ann = await visit(run)
    ann.failures_expected = True
    await ann.page.route("**/v1/**", no_connection)
    await ann.press("t")
    await ann.says("Offline: 1 answer waiting")
    await ann.page.keyboard.press("u")
    await ann.press("b")
    await ann.says("Offline: 1 answer waiting")
    await ann.page.unroute_all()
    await ann.nothing_left()
    assert answers(site, run)[-1] == ("k0", "both_bad")


async def test_an_answer_changed_while_it_is_sent_ends_as_the_last_one(site: Site, run: str, visit: Visit) -> None:
    changed = asyncio.Event()

    async def wait(route: Route) -> None:
        await changed.wait()
        await route.continue_()

    site.post(run)
    ann = await visit(run)
    await ann.page.route("**/label", wait, times=1)
    await ann.press("t")
    await ann.says("Saving…")
    await ann.page.keyboard.press("u")
    await ann.press("b")
    changed.set()
    await ann.nothing_left()
    assert answers(site, run) == [("k0", "tie"), ("k0", "both_bad")]


@pytest.mark.parametrize("way", ["the same page", "list of runs"])
async def test_an_answer_left_behind_by_a_closed_tab_is_sent_by_the_next(
    site: Site, run: str, visit: Visit, way: str
) -> None:
    site.post(run, 2)
    ann = await visit(run)
    ann.failures_expected = True
    await ann.ready()
    await ann.context.set_offline(True)
    await ann.press("t")
    await ann.says("Offline: 1 answer waiting")
    # While it closes, a tab may be online for a moment: nothing is sent then.
    await ann.page.evaluate("() => { fetch = () => new Promise(() => {}) }")
    await ann.page.close()
    assert answers(site, run) == []
    await ann.context.set_offline(False)
    async with ann.context.expect_event("response", lambda response: response.request.method == "PUT"):
        await ann.open("/label" if way == "list of runs" else None)
    assert answers(site, run) == [("k0", "tie")]


async def test_a_refused_answer_is_told_and_holds_up_nothing(site: Site, run: str, visit: Visit) -> None:
    """The same person on two devices: the first answer stands, the second is told so and goes on."""
    site.post(run, 2)
    laptop = await visit(run)
    phone = await visit(run)
    phone.failures_expected = True
    assert (await laptop.shown())[0] == (await phone.shown())[0] == "prompt 0"
    await laptop.press("t")
    await laptop.says("prompt 1", "#prompt")
    await phone.press("b")
    await phone.says("“Both bad” was not taken.", "#notices")
    await phone.says("that answer stands", "#notices")
    assert (await phone.shown())[0] == "prompt 1"
    await phone.page.reload()  # it is told until it is dismissed
    await phone.says("“Both bad” was not taken.", "#notices")
    await phone.button("Dismiss").click()
    await expect(phone.page.locator("#notices")).to_be_hidden()
    await phone.press("b")
    await phone.nothing_left()
    assert answers(site, run) == [("k0", "tie"), ("k1", "both_bad")]


async def test_a_duel_that_the_service_lost_is_told_and_can_be_sent_again(site: Site, run: str, visit: Visit) -> None:
    site.post(run, 2)
    ann = await visit(run)
    ann.failures_expected = True
    await ann.page.route(
        "**/label",
        lambda route: route.fulfill(status=404, json={"detail": "There is no lease."}),
        times=1,
    )
    await ann.press("t")
    await ann.says("does not know this duel", "#notices")
    await ann.button("Try again").click()
    await ann.says("Saved")
    await expect(ann.page.locator("#notices")).to_be_hidden()
    assert ("k0", "tie") in answers(site, run)


async def test_without_a_place_to_keep_it_an_answer_is_not_sent(site: Site, run: str, visit: Visit) -> None:
    site.post(run)
    ann = await visit(run)
    await ann.ready()
    await ann.page.evaluate(
        """() => { Storage.prototype.kept = Storage.prototype.setItem;
            Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError") } }"""
    )
    await ann.press("t")
    await ann.says("Not saved")
    await ann.says("this browser keeps no data", "#note")
    assert ("PUT" in {method for method, _ in ann.methods}) is False
    await ann.page.evaluate("() => { Storage.prototype.setItem = Storage.prototype.kept }")
    await ann.press("b")
    await ann.nothing_left()
    assert answers(site, run) == [("k0", "both_bad")]


async def test_a_full_storage_of_the_tab_costs_only_what_can_be_taken_back_after_a_reload(
    site: Site, run: str, visit: Visit
) -> None:
    site.post(run, 3)
    ann = await visit(run)
    await ann.press("t")
    await ann.says("prompt 1", "#prompt")
    await ann.page.evaluate(FILL, "sessionStorage")
    await ann.press("b")
    await ann.says("prompt 2", "#prompt")
    await ann.says("Saved")
    await ann.press("u")
    await ann.says("Your answer was: Both bad", "#earlier")
    await ann.page.keyboard.press("Escape")
    await ann.press("t")
    await ann.nothing_left()
    assert answers(site, run) == [("k0", "tie"), ("k1", "both_bad"), ("k2", "tie")]


@pytest.mark.parametrize("broken", [False, True])
async def test_with_a_full_storage_of_the_browser_the_page_starts_and_says_what_it_cannot_keep(
    site: Site, run: str, visit: Visit, broken: bool
) -> None:
    """``broken``: a page that does not expect it, which must be found."""
    site.run(run, instructions="Prefer the shorter one.")
    site.post(run)
    ann = await visit(run)
    await ann.ready()
    await ann.page.evaluate(FORGET, "/guidelines/")
    await ann.page.evaluate(FILL, "localStorage")
    if broken:
        await serve_changed(
            ann.page, "storage.js", ("if (!(error instanceof DOMException)) throw error;", "throw error;")
        )
    await ann.page.reload()
    if broken:
        async with ann.page.expect_event("pageerror"):
            await ann.button("Got it").click()
        await ann.leave_complaining()
        return
    await ann.button("Got it").click()
    for key in ("d", "r", "i", "i"):
        await ann.press(key)
    await expect(ann.page.locator("[data-action=differences]")).to_have_attribute("aria-pressed", "false")
    await ann.press("t")
    await ann.says("Not saved")
    assert site.log(run) == []
    await ann.page.evaluate(FORGET, "full/")
    await ann.press("b")
    await ann.nothing_left()
    assert answers(site, run) == [("k0", "both_bad")]


async def test_an_answer_that_is_refused_while_there_is_no_room_to_note_it_waits(
    site: Site, run: str, visit: Visit
) -> None:
    site.post(run)
    ann = await visit(run)
    ann.failures_expected = True
    await ann.ready()
    await ann.page.evaluate(
        """() => { Storage.prototype.kept = Storage.prototype.setItem;
            Storage.prototype.setItem = function (name, value) {
                if (value.includes('"refused"')) throw new DOMException("full", "QuotaExceededError");
                this.kept(name, value);
            } }"""
    )
    await ann.page.route(
        "**/label", lambda route: route.fulfill(status=404, json={"detail": "There is no lease."}), times=1
    )
    await ann.press("t")
    await ann.says("Not accepted: 1 answer waiting")
    await ann.nothing_left()  # it is sent again, and taken
    assert answers(site, run) == [("k0", "tie")]


# --- tabs and sessions -----------------------------------------------------------------------------------------------


async def test_of_two_tabs_the_one_opened_last_answers_and_nothing_is_doubled(
    site: Site, run: str, visit: Visit
) -> None:
    site.post(run, 3)
    ann = await visit(run)
    await ann.press("t")
    assert (await ann.shown())[0] == "prompt 1"
    first = ann.page
    second = await ann.open()
    assert (await ann.shown())[0] == "prompt 1"
    ann.page = first
    await ann.says("Open in another tab", "#panel")
    await first.keyboard.press("b")  # answers nothing there
    ann.page = second
    await ann.press("b")
    assert (await ann.shown())[0] == "prompt 2"
    ann.page = first
    await ann.button("Answer here").click()
    assert (await ann.shown())[0] == "prompt 2"
    ann.page = second
    await ann.says("Open in another tab", "#panel")
    await second.close()  # gives back nothing that the other tab has
    ann.page = first
    await ann.press("t")
    await ann.nothing_left()
    log = site.log(run)
    assert [(entry["client_key"], entry["outcome"]) for entry in log] == [
        ("k0", "tie"),
        ("k1", "both_bad"),
        ("k2", "tie"),
    ]
    assert not any(entry["late"] for entry in log)
    assert "DELETE" not in {method for method, _ in ann.methods}


@pytest.mark.parametrize("locks", [True, False])
async def test_two_tabs_that_send_the_same_answer_save_it_once(site: Site, run: str, visit: Visit, locks: bool) -> None:
    """Also where browsers have no locks: on pages without https, other than from this machine."""
    site.post(run)
    ann = await visit(run)
    ann.failures_expected = True
    if not locks:
        await ann.context.add_init_script("Object.defineProperty(navigator, 'locks', { value: undefined })")
        await ann.page.reload()
    await ann.context.route("**/v1/leases/**", no_connection)
    await ann.press("t")
    await ann.says("Offline: 1 answer waiting")
    await ann.open("/label")
    await ann.open("/label")
    await ann.says("1 answer of yours waits", f"[data-run={run}]")
    await ann.context.unroute_all()
    ann.page = ann.context.pages[0]
    await ann.says("Saved")
    assert answers(site, run) == [("k0", "tie")]


async def test_an_answer_given_after_the_session_ended_waits_for_the_next_session(
    site: Site, run: str, visit: Visit
) -> None:
    site.post(run, 2)
    key = site.key("ann")
    ann = await visit(run, key=key)
    ann.failures_expected = True
    await ann.ready()
    await ann.context.clear_cookies()
    await ann.press("t")
    await ann.says("Signed out: 1 answer waiting")
    await ann.page.get_by_role("link", name="Sign in").click()
    await ann.sign_in(key)
    assert (await ann.shown())[0] == "prompt 1"
    assert answers(site, run) == [("k0", "tie")]


async def test_an_answer_is_never_sent_as_somebody_else(site: Site, run: str, visit: Visit) -> None:
    """Bob signs in in Ann's browser, in another tab, while an answer of hers waits."""
    site.post(run, 2)
    key = site.key("ann")
    ann = await visit(run, key=key)
    ann.failures_expected = True
    page = ann.page
    await page.route("**/v1/**", no_connection)
    await ann.press("t")
    await ann.says("Offline: 1 answer waiting")
    page_of_bob = await ann.open("/sign-in")
    await ann.sign_in(site.key("bob"))
    await page_of_bob.wait_for_url("**/label")  # with its scripts
    await page.unroute_all()
    ann.page = page
    await ann.says("Signed out: 1 answer waiting")
    assert answers(site, run) == []
    await page.get_by_role("link", name="Sign in").click()
    await ann.sign_in(key)
    await ann.says("prompt 1", "#prompt")
    assert [(entry["client_key"], entry["annotator"]) for entry in site.log(run)] == [("k0", "ann")]
