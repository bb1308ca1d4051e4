"""The chat page, the gateway behind it and an engine: from a message to a label in the log."""

import pytest
from live_stub import StubEngine
from playwright.async_api import expect
from service.pages.live_pages import Arrive, LiveSite

pytestmark = pytest.mark.anyio


async def labels(site: LiveSite) -> list[str]:
    """The outcomes in the label log."""
    log = (await site.running.admin.get("/v1/runs/live/labels")).json()["labels"]
    return [entry["outcome"] for entry in log]


async def test_a_pick_becomes_a_label_and_the_conversation_goes_on_with_it(asking: LiveSite, user: Arrive) -> None:
    ann = await user()
    await ann.say("Can I freeze rice?")
    await expect(ann.verdicts).to_have_count(4)
    first, second = await ann.page.locator(".response .text").all_inner_texts()
    assert first
    assert second
    await ann.button("Second is better").click()
    await ann.says("Saved")
    assert len(await labels(asking)) == 1
    await ann.named("Change").click()
    await ann.page.locator("[data-outcome=tie]").click()
    await ann.says("Saved")
    await ann.say("Cooked?")
    await expect(ann.page.locator(".reply")).to_have_count(2)  # nobody is asked twice in a row
    await ann.says("Saved")
    assert (await labels(asking))[-1] == "tie"
    admin = await user(name="boss", path="/live", scopes=("admin",))
    figures = admin.page.get_by_role("region", name="Users and answers")
    await expect(figures).to_contain_text("Asked50.0 %1 of 2 requests that allow it")
    await expect(figures).to_contain_text("0 first, 0 second, 1 tie, 0 both bad")


async def test_a_message_whose_connection_breaks_is_answered_once_and_its_pick_counts(
    asking: LiveSite, engine: StubEngine, user: Arrive
) -> None:
    engine.hold_after = 2
    ann = await user()
    ann.failures_expected = True
    await ann.say("Can I freeze rice?")
    await expect(ann.turn.locator(".text").nth(1)).not_to_be_empty()
    await ann.page.reload()  # while it is written
    engine.release.set()
    await expect(ann.verdicts).to_have_count(4)
    await ann.context.set_offline(True)
    await ann.button("First is better").click()
    await ann.says("Offline: 1 choice waiting")
    await ann.context.set_offline(False)
    await ann.says("Saved")
    assert len(await labels(asking)) == 1
    assert len(engine.requests) == 2, "one for each of the two answers"


async def test_who_does_not_want_to_be_asked_is_not(asking: LiveSite, user: Arrive) -> None:
    ann = await user()
    await ann.named("Don’t ask me to compare").click()
    await ann.says("Saved")
    for count, text in enumerate(("Can I freeze rice?", "Cooked?"), 1):
        await ann.say(text)
        await expect(ann.page.locator(".reply")).to_have_count(count)
        await expect(ann.named("Stop")).to_be_hidden()
    await expect(ann.page.locator(".response")).to_have_count(0)


async def test_a_prompt_that_the_engine_refuses_is_told_in_words(
    asking: LiveSite, engine: StubEngine, user: Arrive
) -> None:
    engine.refuse = "the prompt is too long for the policy's context. Shorten it."
    ann = await user()
    ann.failures_expected = True
    await ann.say("Can I freeze rice?")
    await ann.says("the prompt is too long", ".turn .fault")


async def test_a_message_waits_until_an_engine_is_back(asking: LiveSite, engine: StubEngine, user: Arrive) -> None:
    engine.answer = 503
    ann = await user()
    ann.failures_expected = True
    await ann.say("Can I freeze rice?")
    await ann.says("Your message waits here and is sent again by itself.", ".turn")
    engine.answer = None
    await expect(ann.verdicts).to_have_count(4)
