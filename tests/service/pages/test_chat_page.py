"""The chat: answers as they are written, and the pick where there are two."""

from typing import Any

import pytest
from playwright.async_api import expect
from service.pages.browsing import OLD_BROWSER, serve_changed
from service.pages.live_pages import Arrive, Guest, LiveSite
from service.pages.live_routes import Reply
from service.pages.offices import barriers
from service.pages.test_looks import faint_texts, overflow
from service.pages.test_model_text import (
    DANGERS,
    HOSTILE,
    HTML,
    MARKDOWN_OF_ATTACKERS,
    UNPURIFIED,
    has_run,
    runs_unless,
)

pytestmark = pytest.mark.anyio

DUEL = Reply(("Three **months**.", "Freeze it *flat*."))
CHOICES = ["first", "second", "tie", "both_bad"]


def duel(**values: Any) -> Reply:
    """A reply with two texts."""
    return Reply(DUEL.texts, **values)


async def asked(live: LiveSite, guest: Arrive, **options: Any) -> Guest:
    """Somebody who sees a duel that can be answered."""
    live.routes.replies.append(duel())
    ann = await guest(**options)
    await ann.say("Can I freeze rice?")
    await expect(ann.verdicts).to_have_count(4)
    return ann


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_an_answer_is_shown_as_it_is_written_and_the_conversation_goes_on(live: LiveSite, guest: Arrive) -> None:
    live.routes.replies = [held := Reply(("Rice keeps **three** months.",), hold=2), Reply(("Yes.",))]
    ann = await guest()
    await ann.say("Can I freeze rice?")
    await ann.answered("Rice keeps")
    await ann.says("Answering…")
    held.go.set()
    await expect(ann.turn.locator(".reply strong")).to_have_text("three")
    await ann.say("Cooked?")
    await ann.answered("Yes.")
    first, second = live.routes.bodies
    assert first["messages"] == [{"role": "user", "content": "Can I freeze rice?"}]
    assert second["messages"][1:] == [
        {"role": "assistant", "content": "Rice keeps **three** months."},
        {"role": "user", "content": "Cooked?"},
    ]
    assert {(body["model"], body["user"], body["stream"]) for body in (first, second)} == {("live", "ann", True)}
    assert [body["sea"] for body in (first, second)] == [{"duel": "allow"}] * 2


async def test_an_answer_that_is_stopped_stays_as_far_as_it_was(live: LiveSite, guest: Arrive) -> None:
    live.routes.replies = [Reply(("Rice keeps three months.",), hold=2), Reply(hold=0)]
    ann = await guest()
    await ann.say("Can I freeze rice?")
    await ann.answered("Rice keeps")
    await ann.named("Stop").click()
    await expect(ann.turn).to_contain_text("Stopped.")
    await ann.say("Go on.")
    await expect(ann.turn).to_contain_text("…")
    await ann.named("Stop").click()
    await expect(ann.turn).to_contain_text("Stopped before there was an answer.")
    await ann.say("And cooked?")
    await ann.answered("An answer.")
    assert [message["content"] for message in live.routes.bodies[-1]["messages"]] == [
        "Can I freeze rice?",
        "Rice keeps ",
        "And cooked?",
    ]


async def test_a_conversation_is_there_after_a_reload_and_gone_in_a_new_chat(live: LiveSite, guest: Arrive) -> None:
    ann = await guest()
    await ann.say("Can I freeze rice?")
    await ann.answered("An answer.")
    await ann.page.get_by_label("Message").fill("half a")
    await ann.page.reload()
    await ann.answered("An answer.")
    await expect(ann.page.get_by_label("Message")).to_have_value("half a")
    await ann.named("New chat").click()
    await expect(ann.page.locator(".turn")).to_have_count(0)
    await ann.say("Begin anew.")
    await ann.answered("An answer.")
    assert len(live.routes.bodies[-1]["messages"]) == 1
    await ann.button("Sign out").click()
    await ann.page.wait_for_url("**/sign-in")
    kept = await ann.page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}])")
    assert "Begin anew" not in kept


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (
            Reply(refuse=(400, {"error": {"message": "No such model.", "code": "model_not_found"}}, {})),
            "No such model.",
        ),
        (
            Reply(refuse=(400, {"error": {"message": "4096 tokens.", "code": "context_length_exceeded"}}, {})),
            "This conversation has become too long for the model.",
        ),
        (Reply(refuse=(413, {"detail": "Too large."}, {})), "Too large."),
        (Reply(("Half of",), error={"message": "The engine was lost.", "code": None}), "The engine was lost."),
    ],
)
async def test_an_error_is_told_in_words_and_the_message_can_be_sent_again(
    live: LiveSite, guest: Arrive, reply: Reply, told: str
) -> None:
    live.routes.replies = [reply, reply]
    ann = await guest()
    ann.failures_expected = True
    await ann.say("Can I freeze rice?")
    await ann.says(told, ".turn")
    await ann.named("Edit").click()
    await expect(ann.page.get_by_label("Message")).to_have_value("Can I freeze rice?")
    await ann.page.keyboard.press("Enter")
    await ann.says(told, ".turn")
    await ann.named("Try again").click()
    await ann.answered("An answer.")
    assert len(set(live.routes.requests)) == 3, "each is a message of its own, so that it is not answered as before"
    assert len(live.routes.bodies[-1]["messages"]) == 1


# --- duels -----------------------------------------------------------------------------------------------------------


async def test_a_duel_can_be_answered_once_both_are_written(live: LiveSite, guest: Arrive) -> None:
    live.routes.replies = [held := duel(hold=4)]
    ann = await guest()
    await ann.say("Can I freeze rice?")
    await expect(ann.turn.locator(".response")).to_have_count(2)
    await expect(ann.verdicts).to_have_count(0)
    await ann.page.keyboard.press("Escape")
    await ann.page.keyboard.press("2")
    held.go.set()
    await expect(ann.verdicts).to_have_count(4)
    assert await ann.turn.locator(".response em").inner_text() == "flat"
    assert live.routes.wishes == []


@pytest.mark.parametrize("outcome", CHOICES)
@pytest.mark.parametrize("way", ["key", "click"])
async def test_what_is_picked_is_saved_and_the_conversation_goes_on_with_it(
    live: LiveSite, guest: Arrive, outcome: str, way: str
) -> None:
    ann = await asked(live, guest)
    if way == "key":
        await ann.readable()
        await ann.page.keyboard.press(str(CHOICES.index(outcome) + 1))
    else:
        await ann.page.locator(f"[data-outcome={outcome}]").click()
    await ann.says("Saved")
    assert live.routes.feedback == {("chatcmpl-0", "choice"): [{"outcome": outcome}]}
    side = 1 if outcome == "second" else 0
    await expect(ann.turn.locator(".reply .text")).to_have_text(DUEL.texts[side].replace("*", ""))
    await ann.say("Cooked?")
    await ann.answered("An answer.")
    assert live.routes.bodies[-1]["messages"][1]["content"] == DUEL.texts[side]


async def test_a_pick_can_be_changed_and_kept(live: LiveSite, guest: Arrive) -> None:
    ann = await asked(live, guest)
    await ann.button("First is better").click()
    await ann.named("Change").click()
    await expect(ann.turn).to_contain_text("Your pick was: First is better.")
    await ann.page.keyboard.press("Escape")
    await expect(ann.turn).to_contain_text("You picked the first answer.")
    await ann.named("Change").click()
    await ann.button("Second is better").click()
    await ann.says("Saved")
    await ann.say("Cooked?")
    await ann.answered("An answer.")
    assert live.routes.feedback[("chatcmpl-0", "choice")] == [{"outcome": "first"}, {"outcome": "second"}]
    assert live.routes.bodies[-1]["messages"][1]["content"] == DUEL.texts[1]


async def test_who_goes_on_without_picking_goes_on_with_the_first_and_may_pick_later(
    live: LiveSite, guest: Arrive
) -> None:
    ann = await asked(live, guest)
    await ann.say("7 bags?")  # digits in a message pick nothing
    await ann.answered("An answer.")
    assert live.routes.bodies[-1]["messages"][1:] == [
        {"role": "assistant", "content": DUEL.texts[0]},
        {"role": "user", "content": "7 bags?"},
    ]
    assert live.routes.wishes == []
    await ann.button("Second is better").click()
    await ann.says("Saved")
    assert live.routes.feedback == {("chatcmpl-0", "choice"): [{"outcome": "second"}]}
    await ann.say("And now?")
    await ann.answered("An answer.")
    assert live.routes.bodies[-1]["messages"][1]["content"] == DUEL.texts[0], "what was said stays as it was said"


@pytest.mark.parametrize("broken", [False, True])
async def test_a_key_pressed_as_the_duel_appears_picks_nothing(live: LiveSite, guest: Arrive, broken: bool) -> None:
    """It was meant for something else; ``broken`` is a page that takes it, which must be found."""
    live.routes.replies = [duel()]
    ann = await guest()
    if broken:
        await serve_changed(ann.page, "chat/main.js", ("UNREADABLE_MS = 400", "UNREADABLE_MS = 0"))
    await ann.page.add_init_script("let now = 0; performance.now = () => now; window.pass = (ms) => (now += ms);")
    await ann.page.reload()
    await ann.say("Can I freeze rice?")
    await expect(ann.verdicts).to_have_count(4)
    await ann.page.keyboard.press("2")
    await expect(ann.verdicts).to_have_count(0 if broken else 4)
    await ann.page.evaluate("pass(401)")
    await ann.page.keyboard.press("3")
    await ann.says("Saved")
    assert live.routes.feedback == {("chatcmpl-0", "choice"): [{"outcome": "second" if broken else "tie"}]}


async def test_nobody_is_asked_who_does_not_want_to_be(live: LiveSite, guest: Arrive) -> None:
    ann = await asked(live, guest)
    await ann.named("Don’t ask me").click()
    await expect(ann.turn.locator(".reply")).to_contain_text("Three months.")
    await ann.says("Saved")
    assert live.routes.asks == {"ann": False}
    await ann.page.reload()
    await ann.say("Cooked?")
    await ann.answered("An answer.")
    await ann.named("Ask me to compare again").click()
    await ann.says("Saved")
    await ann.say("Fried?")
    await expect(ann.page.locator(".reply")).to_have_count(3)
    assert [body["sea"]["duel"] for body in live.routes.bodies] == ["allow", "never", "allow"]
    assert live.routes.asks == {"ann": True}
    assert [path for path, _ in live.routes.wishes] == ["ann/asks"] * 2


# --- what models write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [HOSTILE, "\n\n".join(MARKDOWN_OF_ATTACKERS[:12])])
async def test_what_a_model_writes_makes_nothing_that_does_anything(live: LiveSite, guest: Arrive, text: str) -> None:
    live.routes.replies = [Reply((text,)), Reply((text, text))]
    ann = await guest(bypass_csp=True)  # so that what could run or load does
    await ann.say(HOSTILE)
    await expect(ann.page.locator("[data-action=stop]")).to_be_hidden()
    await ann.say("Again.")
    await expect(ann.verdicts).to_have_count(4)
    assert await ann.page.locator(".text.rendered").count() == 3
    assert await ann.page.evaluate(DANGERS) == []
    assert await ann.page.locator(".said .text").first.inner_text() == HOSTILE
    assert not await has_run(ann.page)


@pytest.mark.parametrize("policy", [True, False])
async def test_a_page_that_lets_a_models_markup_through_is_found(live: LiveSite, guest: Arrive, policy: bool) -> None:
    """The deliberate fault that the test above must find; what the text says runs unless the policy forbids it."""
    live.routes.replies = [Reply((HOSTILE,))]
    ann = await guest(bypass_csp=not policy)
    ann.failures_expected = True
    await serve_changed(ann.page, UNPURIFIED[0], *UNPURIFIED[1])
    await ann.page.reload()
    await ann.say("Can I freeze rice?")
    await ann.turn.locator(".reply img").first.wait_for(state="attached")
    assert {"img", "script", "svg", "a", "onerror", "href"} <= {*await ann.page.evaluate(DANGERS)}
    await runs_unless(policy, ann)


async def test_markup_that_is_only_purified_does_nothing_either(live: LiveSite, guest: Arrive) -> None:
    live.routes.replies = [Reply((HOSTILE,))]
    ann = await guest(bypass_csp=True)
    await serve_changed(ann.page, *HTML[:1], *HTML[1])
    await ann.page.reload()
    await ann.say("Can I freeze rice?")
    await expect(ann.page.locator("[data-action=stop]")).to_be_hidden()
    assert await ann.page.evaluate(DANGERS) == []
    assert not await has_run(ann.page)


# --- who reads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "percent", "scheme"), [(320, 100, "dark"), (390, 200, "light"), (1280, 100, "light"), (1280, 200, "dark")]
)
async def test_it_fits_is_legible_and_has_no_barriers_at_every_size(
    live: LiveSite, guest: Arrive, width: int, percent: int, scheme: Any
) -> None:
    long = "x" * 300
    wide = f"{long}\n\n| a | b |\n|---|---|\n| {long} | b |\n\n```\n{long}\n```"
    refused = Reply(refuse=(400, {"error": {"message": long}}, {}))
    live.routes.replies = [Reply((wide,)), duel(), Reply((wide, wide)), refused]
    size = {"viewport": {"width": width, "height": 700}, "color_scheme": scheme, "reduced_motion": "reduce"}
    ann = await guest(name="annotator-with-a-long-name@company.test", **size)
    ann.failures_expected = True

    async def looks_right(place: str) -> None:
        await ann.page.evaluate(f"document.documentElement.style.fontSize = '{percent}%'")
        assert await overflow(ann.page) == 0, place
        assert await faint_texts(ann.page) == [], place
        assert await barriers(ann.page) == [], place

    await looks_right("empty")
    await ann.say(long)
    await expect(ann.page.locator("[data-action=stop]")).to_be_hidden()
    await ann.named("Good answer").click()
    await ann.says("Saved")
    await looks_right("answer")
    await ann.say("Again.")
    await expect(ann.verdicts).to_have_count(4)
    await ann.button("Second is better").click()
    await ann.says("Saved")
    await ann.say("Again.")
    await expect(ann.verdicts).to_have_count(4)
    await looks_right("duel")
    await ann.say("Again.")
    await expect(ann.turn.locator(".fault")).to_be_visible()
    await ann.context.set_offline(True)
    await ann.say("Again.")
    await ann.says("Offline: 1 message waiting")
    await looks_right("trouble")
    await ann.page.locator("h1").evaluate("(e) => { e.style.width = '2000px'; e.style.flex = 'none' }")
    await ann.page.locator("#message").evaluate("(e) => e.removeAttribute('aria-label')")
    await ann.page.locator("#message").evaluate("(e) => e.removeAttribute('placeholder')")
    assert await overflow(ann.page) > 0  # so a part that is too wide is found
    assert "label" in await barriers(ann.page)


async def test_side_by_side_where_there_is_room_else_below_each_other(live: LiveSite, guest: Arrive) -> None:
    for width, beside in ((1280, True), (320, False)):
        live.routes.replies = [duel()]
        ann = await guest(viewport={"width": width, "height": 700}, is_mobile=not beside, has_touch=not beside)
        await ann.page.get_by_label("Message").fill("Can I freeze rice?")
        await (ann.named("Send").click() if beside else ann.named("Send").tap())
        await expect(ann.verdicts).to_have_count(4)
        first, second = [await ann.page.locator(".response").nth(k).bounding_box() for k in (0, 1)]
        assert (first["y"] == second["y"]) is beside
        assert (first["x"] == second["x"]) is not beside
        assert first["width"] == pytest.approx(second["width"], abs=1)
        for k in range(4):
            box = await ann.verdicts.nth(k).bounding_box()
            assert box["height"] >= 44
        await (ann.verdicts.nth(1).click() if beside else ann.verdicts.nth(1).tap())
        await ann.says("Saved")
    assert [*live.routes.feedback.values()] == [[{"outcome": "second"}]] * 2


async def test_the_keyboard_alone_writes_picks_and_goes_on(live: LiveSite, guest: Arrive) -> None:
    live.routes.replies = [duel()]
    ann = await guest()
    keys = ann.page.keyboard
    await expect(ann.page.get_by_label("Message")).to_be_focused()
    await keys.type("Can I")
    await keys.press("Shift+Enter")
    await keys.type("freeze rice?")
    await keys.press("Enter")
    await expect(ann.page.get_by_role("group", name="Which answer is better?")).to_be_focused()
    await ann.readable()
    for name in ("First is better", "Second is better"):
        await keys.press("Tab")
        await expect(ann.button(name)).to_be_focused()
        outline = "(e) => getComputedStyle(e).outlineStyle + parseFloat(getComputedStyle(e).outlineWidth)"
        assert await ann.button(name).evaluate(outline) == "solid3"
    await keys.press("Enter")
    await ann.says("Saved")
    await expect(ann.page.get_by_label("Message")).to_be_focused()
    await keys.press("Escape")  # nothing is open any more: out of the field
    await keys.type("Cooked?")  # and what is typed is a message
    await expect(ann.page.get_by_label("Message")).to_have_value("Cooked?")
    await keys.press("Enter")
    await ann.answered("An answer.")
    assert live.routes.bodies[0]["messages"][0]["content"] == "Can I\nfreeze rice?"
    assert live.routes.feedback == {("chatcmpl-0", "choice"): [{"outcome": "second"}]}


async def test_screen_readers_are_told_each_answer_once_it_is_there(live: LiveSite, guest: Arrive) -> None:
    live.routes.replies = [held := Reply(("Rice keeps.",), hold=1), duel()]
    ann = await guest()
    await ann.say("Can I freeze rice?")
    await ann.answered("Rice")
    await expect(ann.turn).to_have_attribute("aria-busy", "true")
    await expect(ann.page.locator("#news")).to_be_empty()
    held.go.set()
    await ann.says("Rice keeps.", "#news")
    await expect(ann.turn).to_have_attribute("aria-busy", "false")
    await ann.say("Cooked?")
    await ann.says("Two answers. First: Three months.", "#news")
    await ann.says("Second: Freeze it flat.", "#news")
    assert await ann.page.locator("#news").get_attribute("role") == "status"
    assert await ann.page.locator("#saved").get_attribute("role") == "status"


@pytest.mark.parametrize("broken", [False, True])
async def test_an_old_browser_chats_and_picks(live: LiveSite, guest: Arrive, broken: bool) -> None:
    """``broken``: a page that needs what is missing, which must be found."""
    live.routes.replies = [duel()]
    ann = await guest()
    await ann.page.add_init_script(OLD_BROWSER + "delete ReadableStream.prototype[Symbol.asyncIterator];")
    await ann.page.add_init_script("delete Crypto.prototype.randomUUID;")
    if broken:
        ann.failures_expected = True
        change = ("const reader = stream.getReader();", "for await (const one of stream) one; const reader = stream;")
        await serve_changed(ann.page, "chat/stream.js", change)
    await ann.page.reload()
    await ann.say("Can I freeze rice?")
    if broken:
        await ann.says("Offline")
        return
    await expect(ann.verdicts).to_have_count(4)
    await ann.button("Second is better").click()
    await ann.says("Saved")
    assert live.routes.feedback == {("chatcmpl-0", "choice"): [{"outcome": "second"}]}


async def test_a_page_that_cannot_start_says_so(guest: Arrive) -> None:
    ann = await guest(reduced_motion="reduce")
    ann.failures_expected = True
    await expect(ann.page.locator("#stalled")).to_have_count(0)
    await ann.page.route("**/static/chat/wishes.js", lambda route: route.abort())
    await ann.page.reload()
    await ann.says("This page has not started", "#stalled")
    await expect(ann.page.locator("#stalled")).to_have_css("opacity", "1")
