"""Answers that came alone can be called good or bad, once, whatever happens to the connection."""

import pytest
from live_stub import StubEngine
from playwright.async_api import expect
from service.pages.browsing import serve_changed
from service.pages.live_pages import Arrive, Guest, LiveSite
from service.pages.live_routes import Reply

pytestmark = pytest.mark.anyio

UP, DOWN = {"up": True}, {"up": False}


async def answered(guest: Arrive) -> Guest:
    """Somebody who has an answer."""
    ann = await guest()
    await ann.say("Can I freeze rice?")
    await expect(ann.named("Good answer")).to_be_visible()
    return ann


async def pressed(ann: Guest) -> dict[str, str | None]:
    """Which of the two is pressed."""
    names = ("Good answer", "Bad answer")
    return {name: await ann.named(name).get_attribute("aria-pressed") for name in names}


async def test_thumbs_are_saved_by_keyboard_stay_pressed_and_can_be_changed(live: LiveSite, guest: Arrive) -> None:
    ann = await answered(guest)
    assert await pressed(ann) == {"Good answer": "false", "Bad answer": "false"}
    await ann.named("Good answer").focus()
    await ann.page.keyboard.press("Enter")
    await ann.says("Saved")
    await ann.says("Noted.", "#news")
    await expect(ann.named("Good answer")).to_be_focused()  # to think again
    assert await pressed(ann) == {"Good answer": "true", "Bad answer": "false"}
    await ann.page.keyboard.press("Tab")
    await ann.page.keyboard.press("Space")
    await expect(ann.named("Bad answer")).to_have_attribute("aria-pressed", "true")
    await ann.page.reload()
    await ann.answered("An answer.")
    assert await pressed(ann) == {"Good answer": "false", "Bad answer": "true"}
    await ann.named("Bad answer").click()
    await ann.says("Saved")
    assert live.routes.feedback == {("chatcmpl-0", "thumbs"): [UP, DOWN]}


@pytest.mark.parametrize("forgets", [False, True])
async def test_thumbs_given_offline_are_sent_once_when_the_connection_is_back(
    live: LiveSite, guest: Arrive, forgets: bool
) -> None:
    """The deliberate fault shows that the test finds thumbs that are lost."""
    ann = await answered(guest)
    ann.failures_expected = True
    if forgets:
        change = ("else await this.#pauses.next();", "else localStorage.removeItem(this.#nameOf(entry));")
        await serve_changed(ann.page, "outbox.js", change)
    await ann.page.reload()
    await ann.context.set_offline(True)
    await ann.named("Bad answer").click()
    await expect(ann.named("Bad answer")).to_have_attribute("aria-pressed", "true")
    if not forgets:
        await ann.says("Offline: 1 choice waiting")
        await ann.named("Good answer").click()
    else:
        await ann.forgets("thumbs")
    await ann.context.set_offline(False)
    if not forgets:
        await ann.says("Saved")
    await ann.say("Cooked?")
    await expect(ann.page.locator(".thumbs:visible")).to_have_count(2)
    assert live.routes.wishes == ([] if forgets else [("chatcmpl-0/thumbs", UP)])


async def test_only_an_answer_that_is_there_whole_and_alone_can_be_rated(live: LiveSite, guest: Arrive) -> None:
    refused = Reply(refuse=(400, {"error": {"message": "Too long."}}, {}))
    live.routes.replies = [Reply(("Three months.",), hold=1), Reply(("Three months.", "Freeze it.")), refused, Reply()]
    ann = await guest()
    ann.failures_expected = True
    thumbs = ann.page.locator(".thumbs:visible")
    await ann.say("Can I freeze rice?")
    await ann.answered("Three")
    await expect(thumbs).to_have_count(0)
    await ann.named("Stop").click()
    await ann.says("Stopped.", ".turn")
    await ann.say("Cooked?")
    await expect(ann.verdicts).to_have_count(4)
    await expect(thumbs).to_have_count(0)
    await ann.button("Second is better").click()
    await ann.says("Saved")
    await expect(thumbs).to_have_count(0)
    await ann.say("Fried?")
    await expect(ann.turn.locator(".fault")).to_be_visible()
    await expect(thumbs).to_have_count(0)
    await ann.say("Raw?")
    await expect(thumbs).to_have_count(1)


async def test_thumbs_reach_the_export(asking: LiveSite, engine: StubEngine, user: Arrive) -> None:
    ann = await user()
    await ann.named("Don’t ask me to compare").click()
    await ann.say("Can I freeze rice?")
    await ann.named("Bad answer").click()
    await ann.says("Saved")
    exported = (await asking.running.admin.get("/v1/live/live/thumbs")).text
    assert exported.count("\n") == 1
    assert '"label":false' in exported.replace(" ", "")
    assert "Can I freeze rice?" in exported
