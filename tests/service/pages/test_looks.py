"""Everybody can read and use the pages: contrast, small screens, large type, touch, keyboard, less motion."""

from typing import Any

import pytest
from playwright.async_api import Page, expect
from service.pages.browsing import Site, own_outcome
from service.pages.conftest import Visit

pytestmark = pytest.mark.anyio

LEAST_CONTRAST = 4.5  # WCAG 2.2 AA

# Every visible element with a text of its own: its colour and the backgrounds it stands on, nearest first.
COLOURS = """() => {
    const seen = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !element.checkVisibility() || element.closest("[aria-disabled=true], .unseen")) continue;
        const backgrounds = [];
        for (let at = element; at; at = at.parentElement) backgrounds.push(getComputedStyle(at).backgroundColor);
        seen.push([element.textContent.trim().slice(0, 30), getComputedStyle(element).color, backgrounds]);
    }
    return seen;
}"""


def channels(colour: str) -> tuple[list[float], float]:
    """Red, green and blue of ``rgb(…)`` or ``rgba(…)`` between 0 and 1, and how opaque it is."""
    numbers = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")]
    return [number / 255 for number in numbers[:3]], numbers[3] if len(numbers) > 3 else 1.0


def luminance(rgb: list[float]) -> float:
    """Relative luminance as WCAG defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(colour: str, backgrounds: list[str]) -> float:
    """Contrast of a text with the first background under it; none of ours is half transparent."""
    ground = next(rgb for rgb, opacity in map(channels, backgrounds) if opacity == 1.0)
    bright, dark = sorted([luminance(channels(colour)[0]), luminance(ground)], reverse=True)
    return (bright + 0.05) / (dark + 0.05)


async def faint_texts(page: Page) -> list[tuple[str, float]]:
    """Texts with too little contrast."""
    await page.wait_for_load_state()  # its styles
    measured = [(text, contrast(colour, grounds)) for text, colour, grounds in await page.evaluate(COLOURS)]
    assert measured
    return [(text, round(ratio, 2)) for text, ratio in measured if ratio < LEAST_CONTRAST]


def test_contrast_is_that_of_the_definition() -> None:
    assert contrast("rgb(0, 0, 0)", ["rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"]) == pytest.approx(21.0)
    assert contrast("rgb(118, 118, 118)", ["rgb(255, 255, 255)"]) == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_has_enough_contrast(site: Site, run: str, visit: Visit, scheme: Any) -> None:
    site.run(run, instructions="Prefer the better one.")
    site.post(run, 2, first="Bake it for an hour, then rest it.", second="Bake it for ten minutes, then rest it.")
    ann = await visit(run, color_scheme=scheme, reduced_motion="reduce")
    ann.failures_expected = True
    await ann.press("t", "2", "u")  # with what is saved, an earlier answer, and the fields for more
    await ann.ready()
    await ann.says("Saved")
    assert await faint_texts(ann.page) == []
    await ann.page.keyboard.press("i")
    assert await faint_texts(ann.page) == []
    await ann.page.keyboard.press("i")
    await ann.page.keyboard.press("?")
    assert await faint_texts(ann.page) == []
    await ann.page.keyboard.press("Escape")
    await ann.page.locator("[data-action=tie]").evaluate("(button) => button.style.color = 'rgb(128, 128, 128)'")
    assert [text.split()[0] for text, _ in await faint_texts(ann.page)] == ["Tie"]  # so faint texts are found
    await ann.page.route("**/v1/**", lambda route: route.abort())
    await ann.press("b", "b")
    await ann.says("Offline: 2 answers waiting")
    assert await faint_texts(ann.page) == []
    for path in ("/label", "/label/missing", "/sign-in"):
        await ann.page.goto(site.url + path)
        assert await faint_texts(ann.page) == []


async def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    await page.wait_for_load_state()  # its styles
    return int(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.mark.parametrize(("width", "percent"), [(360, 100), (360, 200), (1280, 200)])
async def test_a_phone_and_large_type_need_no_scrolling_sideways(
    site: Site, run: str, visit: Visit, width: int, percent: int
) -> None:
    site.run(run, name="A run with a name that is much too long for a phone", instructions="word " * 50)
    long = "x" * 300
    site.post(run, 2, prompt=long, first=f"one {long}", second=f"two {long}\n{' ' * 200}y")
    ann = await visit(run, name="annotator-with-a-long-name@company.test", viewport={"width": width, "height": 740})
    ann.failures_expected = True

    async def fits() -> bool:
        await ann.page.evaluate(f"document.documentElement.style.fontSize = '{percent}%'")
        return await overflow(ann.page) == 0

    await ann.press("3", "t", "u")
    await ann.ready()
    assert await fits()
    await ann.page.route("**/v1/**", lambda route: route.abort())
    await ann.press("b")
    await ann.says("Offline: 1 answer waiting")
    assert await fits()
    for path in ("/label", "/label/missing", "/sign-in"):
        await ann.page.goto(site.url + path)
        assert await fits()
    await ann.page.locator("h1").evaluate("(e) => { e.style.width = '2000px' }")
    assert not await fits()  # so a part that is too wide is found


async def test_a_phone_answers_by_touch(site: Site, run: str, visit: Visit) -> None:
    site.post(run, 2)
    ann = await visit(run, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    expected = {}
    for n, side in enumerate(["first", "second"]):
        _, first, _ = await ann.shown()
        expected[f"k{n}"] = own_outcome(f"k{n}", first, side)
        button = ann.button(f"{side.title()} is better")
        box = await button.bounding_box()
        assert box["height"] >= 44
        assert box["width"] >= 44
        assert 0 <= box["y"] <= 740 - box["height"]  # in reach without scrolling
        await button.tap()
    await ann.nothing_left()
    assert site.outcomes(run) == expected


LONG = "A dense, gummy crumb usually means that the dough was baked too early. " * 30

# The height of what is seen of the duel between the top of the window and the footer, as a share of the window.
SEEN = """() => {
    const [duel, footer] = ["duel", "answers"].map((id) => document.getElementById(id).getBoundingClientRect());
    return (Math.min(duel.bottom, footer.top) - Math.max(duel.top, 0)) / innerHeight;
}"""

# The side of the response whose heading is seen at the top of the window.
HEADING = """() => {
    const at = document.elementFromPoint(innerWidth / 2, 8)?.closest(".response h2");
    return at && at.textContent;
}"""


@pytest.mark.parametrize("scale", [1, 3])
async def test_on_a_small_phone_at_least_half_of_the_height_is_the_duels(
    site: Site, run: str, visit: Visit, scale: int
) -> None:
    site.run(run, name="Kitchen assistant", instructions="Prefer the better one.")
    site.post(run, 2, prompt="Why is my bread dense?", first=LONG, second=LONG.replace("early", "late"))
    ann = await visit(run, viewport={"width": 320, "height": 568}, is_mobile=True, has_touch=True)
    await ann.press("t")  # with what is saved at the top
    await ann.says("Saved")
    await ann.ready()
    assert await ann.page.evaluate(SEEN) >= 0.5
    await ann.page.evaluate("scrollBy(0, 900)")
    assert await ann.page.evaluate(SEEN) >= 0.75
    for action in ("first", "second", "jump", "tie", "both_bad", "skip", "undo", "more"):
        box = await ann.page.locator(f"[data-action={action}]").bounding_box()
        assert box["height"] >= 44 or box["width"] >= 44, action
        on_top = "([x, y]) => document.elementFromPoint(x, y).closest('[data-action]')?.dataset.action"
        middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
        assert await ann.page.evaluate(on_top, middle) in (action, None if action == "undo" else action)
    await ann.page.locator(".verdict").first.evaluate(f"(e) => e.style.minHeight = '{scale}00px'")
    assert (await ann.page.evaluate(SEEN) < 0.5) is (scale == 3)  # so a footer that covers the duel is found


async def test_in_a_narrow_window_with_the_detail_open_half_of_the_height_stays_the_duels(
    site: Site, run: str, visit: Visit
) -> None:
    """Also where there is a keyboard, whose keys the buttons name in wider windows."""
    site.post(run, first=LONG, second=LONG.replace("early", "late"))
    ann = await visit(run, viewport={"width": 320, "height": 568})
    await ann.ready()
    await ann.page.locator("[data-action=more]").click()
    await ann.page.evaluate("scrollBy(0, 900)")
    assert await ann.page.evaluate(SEEN) >= 0.6
    await ann.page.set_viewport_size({"width": 1280, "height": 568})
    await expect(ann.page.locator("[data-action=tie] kbd")).to_be_visible()


async def test_a_long_answer_is_named_while_it_is_read_and_the_other_a_thumb_away(
    site: Site, run: str, visit: Visit
) -> None:
    site.post(run, first=LONG, second="Short.")
    ann = await visit(run, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    _, first, _ = await ann.shown()
    long, short = ("First", "Second") if first.startswith("A dense") else ("Second", "First")
    await ann.page.locator(".response", has_text="A dense").evaluate("(e) => e.scrollIntoView()")
    await ann.page.evaluate("scrollBy(0, 400)")
    assert await ann.page.evaluate(HEADING) == long
    await ann.page.locator(".response h2").evaluate_all("(all) => all.forEach((e) => e.style.position = 'static')")
    assert await ann.page.evaluate(HEADING) is None  # so a heading that scrolls away is found
    await ann.page.locator(".response h2").evaluate_all("(all) => all.forEach((e) => e.style.position = '')")

    async def focused() -> str:
        return str(await ann.page.evaluate("document.activeElement.textContent"))

    jump = ann.page.get_by_role("button", name="Go to the other response")
    box = await jump.bounding_box()
    assert box["y"] > 844 * 2 / 3
    assert min(box["width"], box["height"]) >= 44
    for turn, expected in enumerate([short, long, short, long]):
        await (jump.tap() if turn < 2 else ann.page.keyboard.press("j"))
        assert await focused() == expected
        heading = ann.page.locator(".response h2", has_text=expected)
        assert 0 <= (await heading.bounding_box())["y"] < box["y"]


async def test_side_by_side_no_jump_is_needed(site: Site, run: str, visit: Visit) -> None:
    site.post(run)
    ann = await visit(run)
    await ann.ready()
    assert await ann.page.locator("[data-action=jump]").is_hidden()


async def test_why_nothing_is_marked_stands_above_the_responses(site: Site, run: str, visit: Visit) -> None:
    site.post(run, first=LONG, second="Nothing like it, x y z.")
    ann = await visit(run, viewport={"width": 390, "height": 844})
    await ann.says("little in common", "#note")
    note, response = [await ann.page.locator(part).first.bounding_box() for part in ("#note", ".response")]
    assert note["y"] + note["height"] <= response["y"] < 844


async def test_the_keyboard_reaches_every_button_and_shows_where_it_is(site: Site, run: str, visit: Visit) -> None:
    site.post(run)
    ann = await visit(run)
    await ann.ready()
    reached = {}
    for _ in range(30):
        await ann.page.keyboard.press("Tab")
        name, outline = await ann.page.evaluate(
            """() => { const style = getComputedStyle(document.activeElement);
                return [document.activeElement.dataset.action, style.outlineStyle + parseFloat(style.outlineWidth)] }"""
        )
        if name in reached:
            break
        if name:
            reached[name] = outline
    assert {*reached} == {
        "differences",
        "rendered",
        "help",
        "first",
        "second",
        "tie",
        "both_bad",
        "skip",
        "undo",
        "more",
    }
    assert {*reached.values()} == {"solid3"}
    await ann.page.locator("[data-action=both_bad]").focus()
    await ann.page.keyboard.press("Enter")
    await ann.nothing_left()
    assert site.outcomes(run) == {"k0": "both_bad"}


async def test_screen_readers_are_told_names_and_news(site: Site, run: str, visit: Visit) -> None:
    site.post(run, 2)
    ann = await visit(run)
    await ann.ready()
    names = await ann.page.get_by_role("button").evaluate_all(
        "(buttons) => buttons.map((button) => [button.localName, button.innerText.trim().length > 0])"
    )
    assert {(tag, named) for tag, named in names} == {("button", True)}
    live = await ann.page.locator("[role=status], [aria-live]").evaluate_all("(all) => all.map((e) => e.id)")
    assert {"saved", "news", "panel", "note"} <= {*live}
    await ann.says("prompt 0", "#news")
    await ann.press("t")
    await ann.says("prompt 1", "#news")


@pytest.mark.parametrize(("motion", "seconds"), [("no-preference", "0.12s"), ("reduce", "0s")])
async def test_nothing_moves_for_who_wants_no_motion(
    site: Site, run: str, visit: Visit, motion: Any, seconds: str
) -> None:
    site.post(run)
    ann = await visit(run, reduced_motion=motion)
    await ann.ready()
    duration = await ann.page.locator("#duel").evaluate("(e) => getComputedStyle(e).transitionDuration")
    assert duration == seconds
