"""Whatever happens to the connection, the page or the session, a message counts once and a pick is saved once."""

import pytest
from playwright.async_api import Dialog, Route, expect
from service.pages.browsing import serve_changed
from service.pages.live_pages import Arrive, Guest, LiveSite
from service.pages.live_routes import Reply

pytestmark = pytest.mark.anyio

TEXTS = ("Three months.", "Freeze it flat.")
PICKED = {("chatcmpl-0", "choice"): [{"outcome": "second"}]}


async def no_connection(route: Route) -> None:
    await route.abort("connectionrefused")


async def lose_the_reply(route: Route) -> None:
    """Let a request through, and drop what the service answers."""
    await route.fetch()
    await route.abort("connectionreset")


async def asked(live: LiveSite, guest: Arrive) -> Guest:
    """Somebody who sees a duel that can be answered."""
    live.routes.replies.append(Reply(TEXTS))
    ann = await guest()
    ann.failures_expected = True
    await ann.say("Can I freeze rice?")
    await expect(ann.verdicts).to_have_count(4)
    return ann


# --- picks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [None, "forgets", "sends each time anew"])
async def test_a_pick_made_offline_is_sent_once_when_the_connection_is_back(
    live: LiveSite, guest: Arrive, fault: str | None
) -> None:
    """The deliberate faults show that the test finds a pick that is lost, and one that is sent twice."""
    ann = await asked(live, guest)
    if fault == "forgets":
        change = ("else await this.#pauses.next();", "else localStorage.removeItem(this.#nameOf(entry));")
        await serve_changed(ann.page, "outbox.js", change)
    if fault == "sends each time anew":
        change = ("if (localStorage.getItem(name) === kept) localStorage.removeItem(name);", "")
        await serve_changed(ann.page, "outbox.js", change)
    await ann.page.reload()
    await expect(ann.verdicts).to_have_count(4)
    await ann.context.set_offline(True)
    await ann.button("Second is better").click()
    await expect(ann.turn).to_contain_text("You picked the second answer.")
    if fault != "forgets":
        await ann.says("Offline: 1 choice waiting")
    else:
        await ann.forgets("chatcmpl-0")
    await ann.context.set_offline(False)
    if fault == "forgets":
        await ann.say("Cooked?")
        await ann.answered("An answer.")
        assert live.routes.wishes == []
        return
    if fault:
        async with ann.page.expect_response("**/choice"):
            pass
        async with ann.page.expect_response("**/choice"):
            pass
        assert len(live.routes.wishes) > 1
        return
    await ann.says("Saved")
    await ann.say("Cooked?")
    await ann.answered("An answer.")
    assert live.routes.wishes == [("chatcmpl-0/choice", {"outcome": "second"})]
    assert live.routes.feedback == PICKED


async def test_a_pick_whose_acknowledgement_is_lost_is_saved_once(live: LiveSite, guest: Arrive) -> None:
    ann = await asked(live, guest)
    await ann.page.route("**/choice", lose_the_reply, times=2)
    await ann.button("Second is better").click()
    await ann.says("Saved")
    assert len(live.routes.wishes) == 3
    assert live.routes.feedback == PICKED


async def test_a_pick_left_behind_by_a_closed_tab_is_sent_by_the_next(live: LiveSite, guest: Arrive) -> None:
    ann = await asked(live, guest)
    await ann.page.route("**/choice", no_connection)
    await ann.button("Second is better").click()
    await ann.says("Offline: 1 choice waiting")
    # While it closes, a tab may be online for a moment: nothing is sent then.
    await ann.page.evaluate("() => { fetch = () => new Promise(() => {}) }")
    await ann.page.close()
    assert live.routes.wishes == []
    await ann.open("/chat")
    await ann.says("Saved")
    assert live.routes.feedback == PICKED
    await expect(ann.page.locator(".turn")).to_have_count(0)  # the conversation was that tab's


async def test_a_pick_that_is_refused_is_told_and_can_be_dismissed(live: LiveSite, guest: Arrive) -> None:
    ann = await asked(live, guest)
    live.routes.asked.clear()  # as after the user's texts were erased
    await ann.button("Second is better").click()
    await ann.says("There is no completion chatcmpl-0.", "#notices")
    await ann.page.reload()
    await ann.says("was not taken", "#notices")
    await ann.named("Dismiss").click()
    await expect(ann.page.locator("#notices")).to_be_hidden()


async def test_without_a_place_to_keep_it_a_pick_is_not_sent(live: LiveSite, guest: Arrive) -> None:
    ann = await asked(live, guest)
    await ann.page.evaluate(
        """() => { Storage.prototype.kept = Storage.prototype.setItem;
            Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError") } }"""
    )
    await ann.button("Second is better").click()
    await ann.says("What you chose is not saved", "#trouble")
    assert live.routes.wishes == []
    await ann.page.evaluate("() => { Storage.prototype.setItem = Storage.prototype.kept }")
    await ann.button("Second is better").click()
    await ann.says("Saved")
    await expect(ann.page.locator("#trouble")).to_be_hidden()
    assert live.routes.feedback == PICKED


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [False, True])
async def test_a_message_whose_answer_breaks_off_is_answered_once(live: LiveSite, guest: Arrive, fault: bool) -> None:
    """``fault``: a page that calls each attempt a new message, which must be found."""
    live.routes.replies = [Reply(TEXTS, cut=3)]
    ann = await guest()
    ann.failures_expected = True
    if fault:
        await serve_changed(ann.page, "chat/sender.js", ("exchange.key, { told", "String(Math.random()), { told"))
        await ann.page.reload()
    await ann.say("Can I freeze rice?")
    if fault:
        await ann.answered("An answer.")
        assert len(live.routes.asked) == 2
        return
    await expect(ann.verdicts).to_have_count(4)
    assert len(live.routes.requests) == 2
    assert len(live.routes.asked) == 1
    assert await ann.page.locator(".response .text").all_inner_texts() == [*TEXTS]


async def test_a_message_written_offline_is_sent_once_when_the_connection_is_back(
    live: LiveSite, guest: Arrive
) -> None:
    ann = await guest()
    ann.failures_expected = True
    await ann.context.set_offline(True)
    await ann.say("Can I freeze rice?")
    await ann.says("Offline: 1 message waiting")
    await ann.says("Your message waits here", ".turn")
    await ann.context.set_offline(False)
    await ann.answered("An answer.")
    assert len(live.routes.requests) == 1
    assert [body["messages"][-1]["content"] for body in live.routes.bodies] == ["Can I freeze rice?"]


async def test_a_page_that_is_loaded_again_while_it_is_answered_has_the_answer(live: LiveSite, guest: Arrive) -> None:
    live.routes.replies = [held := Reply(("Rice keeps three months.",), hold=2)]
    ann = await guest()
    await ann.say("Can I freeze rice?")
    await ann.answered("Rice keeps")
    await ann.page.reload()
    await ann.answered("Rice keeps three months.")
    held.go.set()
    assert len(live.routes.requests) > 1
    assert len(live.routes.asked) == 1


@pytest.mark.parametrize(
    "later", [(503, {"error": {"message": "The store is away."}}), (429, {"detail": "Too many messages."})]
)
async def test_a_service_that_is_busy_is_asked_again_and_says_so(
    live: LiveSite, guest: Arrive, later: tuple[int, dict]
) -> None:
    live.routes.replies = [Reply(refuse=(*later, {"Retry-After": "1"}))]
    ann = await guest()
    ann.failures_expected = True
    await ann.say("Can I freeze rice?")
    told = later[1].get("detail") or later[1]["error"]["message"]
    await ann.says(f"{told} Your message waits here and is sent again by itself.", ".turn")
    await ann.says("Busy: 1 message waiting")
    await ann.answered("An answer.")
    assert len(live.routes.requests) == 2
    assert len(set(live.routes.requests)) == 1


async def test_a_connection_that_says_nothing_is_given_up_and_asked_again(live: LiveSite, guest: Arrive) -> None:
    live.routes.replies = [Reply(hold=1)]
    ann = await guest()
    await ann.page.clock.install()
    await ann.page.reload()
    await ann.say("Can I freeze rice?")
    await expect(ann.turn).to_have_attribute("aria-busy", "true")
    await ann.answered("An")
    await ann.page.clock.fast_forward(61_000)
    await ann.answered("An answer.")
    assert len(live.routes.requests) == 2


# --- sessions --------------------------------------------------------------------------------------------------------


async def test_what_was_written_after_the_session_ended_waits_for_the_next(live: LiveSite, guest: Arrive) -> None:
    ann = await asked(live, guest)
    await ann.context.clear_cookies()
    await ann.button("Second is better").click()
    await ann.say("Cooked?")
    await ann.says("Signed out: 1 message and 1 choice waiting")
    await ann.page.get_by_role("link", name="Sign in").click()
    await expect(ann.page.get_by_role("heading", name="Sign in to chat")).to_be_visible()
    assert live.routes.wishes == []
    await ann.sign_in(await live.key("ann", "chat"))
    await ann.answered("An answer.")
    await ann.says("Saved")
    assert live.routes.feedback == PICKED
    assert len(live.routes.bodies) == 2


async def test_nothing_is_sent_or_shown_as_somebody_else(live: LiveSite, guest: Arrive) -> None:
    """Bob signs in in Ann's browser, in another tab, while a message of hers waits."""
    ann = await guest()
    ann.failures_expected = True
    page = ann.page
    await page.route("**/v1/**", no_connection)
    await ann.say("Ann's question")
    await ann.says("Offline: 1 message waiting")
    of_bob = await ann.open("/sign-in?next=/chat")
    await ann.sign_in(await live.key("bob", "chat"))
    await of_bob.wait_for_url("**/chat")
    await expect(of_bob.get_by_label("Message")).to_be_visible()
    await page.unroute_all()
    ann.page = page
    await ann.says("Signed out: 1 message waiting")
    assert live.routes.requests == []
    await page.goto(f"{live.url}/chat")  # in Ann's own tab, as Bob
    await expect(page.locator(".who")).to_have_text("bob")
    await expect(page.locator(".turn")).to_have_count(0)
    assert live.routes.requests == []


async def test_signing_out_asks_first_while_something_waits(live: LiveSite, guest: Arrive) -> None:
    ann = await asked(live, guest)
    said: list[str] = []

    async def stay(dialog: Dialog) -> None:
        said.append(dialog.message)
        await dialog.dismiss()

    ann.page.on("dialog", stay)
    await ann.page.route("**/choice", no_connection)
    await ann.button("Second is better").click()
    await ann.says("Offline: 1 choice waiting")
    await ann.button("Sign out").click()
    await expect(ann.turn).to_contain_text("You picked")
    assert "Not everything was sent yet" in said[0]


async def test_a_foreign_page_can_send_nothing_with_the_cookie(live: LiveSite, guest: Arrive) -> None:
    ann = await guest()
    for origin, status in ((live.url, 200), ("http://evil.test", 403)):
        headers = {"Origin": origin, "Idempotency-Key": f"k-{status}"}
        body = {"model": "live", "messages": [{"role": "user", "content": "x"}]}
        answer = await ann.context.request.post(f"{live.url}/v1/chat/completions", data=body, headers=headers)
        assert answer.status == status
