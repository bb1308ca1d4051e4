"""What models wrote is shown as text: it runs nothing, keeps its lines, and its differences are marked."""

import random

import pytest
from playwright.async_api import Page, expect
from service.pages.browsing import Site, serve_changed
from service.pages.conftest import Visit

pytestmark = pytest.mark.anyio

RUN = "document.documentElement.dataset.ran = true"
HOSTILE = (
    f'<img src=x onerror="{RUN}"><script>{RUN}</script><b>bold</b><svg onload="{RUN}"></svg>\n'
    f'<a href="javascript:{RUN}">link</a> &lt;i&gt; {{{{ 7 * 7 }}}} ${{1}}'
)
MARKUP = (("piece.textContent = text", "piece.innerHTML = text"),)
"""A fault: texts become markup."""


async def elements_in_texts(page: Page) -> list[str]:
    """Elements inside the texts of the duel, but for the pieces that they are made of."""
    return list(
        await page.evaluate(
            """() => [...document.querySelectorAll("#prompt *, #first *, #second *")].map((e) => e.localName)
                .filter((name) => name !== "span" && name !== "mark")"""
        )
    )


async def has_run(page: Page) -> bool:
    """Whether a text has run as a script."""
    return bool(await page.evaluate("document.documentElement.dataset.ran"))


async def test_markup_in_a_text_is_shown_as_text_and_runs_nothing(site: Site, run: str, visit: Visit) -> None:
    site.run(run, instructions=HOSTILE, name=HOSTILE[:80])
    site.post(run, prompt=HOSTILE, first=f"{HOSTILE} one", second=f"{HOSTILE} two")
    ann = await visit(run)
    prompt, first, second = await ann.shown()
    assert prompt == HOSTILE
    assert {first, second} == {f"{HOSTILE} one", f"{HOSTILE} two"}
    await ann.says(HOSTILE, "#instructions")
    assert await elements_in_texts(ann.page) == []
    await ann.press("t")  # and the same where the page quotes it
    await ann.nothing_left()
    assert not await has_run(ann.page)


@pytest.mark.parametrize("policy", [True, False])
async def test_markup_that_is_not_escaped_is_found(site: Site, run: str, visit: Visit, policy: bool) -> None:
    """The deliberate fault that the test above must find; without the content security policy the text even runs."""
    site.post(run, first=HOSTILE, second=HOSTILE)
    ann = await visit(run, bypass_csp=not policy)
    ann.failures_expected = True
    await serve_changed(ann.page, "view.js", *MARKUP)
    await ann.page.reload()
    await ann.ready()
    assert {"img", "script", "b", "svg", "a"} <= {*await elements_in_texts(ann.page)}
    if policy:
        assert not await has_run(ann.page)
        assert any("Content Security Policy" in text for text in ann.complaints)
        ann.complaints.clear()
    else:
        await ann.page.locator("html[data-ran=true]").wait_for()


async def test_lines_and_spaces_of_a_text_are_kept(site: Site, run: str, visit: Visit) -> None:
    code = "def f(x):\n    if x:\n\n        return  1\n" + "word " * 40
    site.post(run, first=code, second=code.replace("if", "unless"))
    ann = await visit(run)
    _, first, second = await ann.shown()
    assert {first, second} == {code, code.replace("if", "unless")}
    height = await ann.page.locator("#first").evaluate("(e) => e.getClientRects()[0].height")
    line = await ann.page.locator("#first").evaluate("(e) => parseFloat(getComputedStyle(e).lineHeight)")
    assert round(height / line) >= 6


async def test_words_that_differ_are_marked_unless_that_is_switched_off(site: Site, run: str, visit: Visit) -> None:
    site.post(run, first="Bake it for an hour, then rest it.", second="Bake it for ten minutes, then rest it.")
    ann = await visit(run)
    await ann.ready()
    marks = ann.page.locator("mark")
    assert sorted(await marks.all_inner_texts()) == ["an hour", "ten minutes"]
    await ann.page.keyboard.press("d")
    await expect(marks).to_have_count(0)
    await expect(ann.button("Differences")).to_have_attribute("aria-pressed", "false")
    await ann.page.reload()
    await ann.ready()
    await expect(marks).to_have_count(0)
    await ann.button("Differences").click()
    await expect(marks).to_have_count(2)


async def compare(page: Page, pairs: list[tuple[str, str]]) -> list[dict]:
    """What the page's comparison says about pairs of texts."""
    script = "async (pairs) => { const { compare } = await import('/static/diff.js');" + (
        "return pairs.map(([first, second]) => compare(first, second)); }"
    )
    return list(await page.evaluate(script, pairs))


def words(pieces: list[dict], marked: bool) -> list[str]:
    return [word for piece in pieces if piece["marked"] is marked for word in piece["text"].split()]


async def test_what_is_not_marked_is_the_same_on_both_sides_and_no_character_is_lost(run: str, visit: Visit) -> None:
    """For random texts: without their marked words, both sides read the same."""
    ann = await visit(run)
    draw = random.Random(5)
    vocabulary = ["salt", "and", "bread", "the", "çà", "naïve", "火", "🍞"]
    texts = ["".join(draw.choice(vocabulary) + draw.choice([" ", "  ", "\n"]) for _ in range(40)) for _ in range(200)]
    pairs = []
    for text in texts:
        changed = [word if draw.random() < 0.8 else "other" for word in text.split(" ")]
        pairs.append((text, " ".join(changed)))
    marked = 0
    for (first, second), found in zip(pairs, await compare(ann.page, pairs), strict=True):
        assert "".join(piece["text"] for piece in found["first"]) == first
        assert "".join(piece["text"] for piece in found["second"]) == second
        if not found["note"]:
            assert words(found["first"], False) == words(found["second"], False)
            marked += bool(words(found["second"], True))
    assert marked > 150


async def test_where_marks_would_not_help_there_are_none(run: str, visit: Visit) -> None:
    ann = await visit(run)
    long = " ".join(str(n) for n in range(2001))
    pairs = [("a b c", "a b c"), ("a b c d", "w x y z"), (long, long + " end"), ("", "x")]
    found = await compare(ann.page, pairs)
    assert [result["note"].split(",")[0] for result in found] == [
        "Both responses are the same.",
        "The responses have little in common",
        "Too long to mark what differs.",
        "The responses have little in common",
    ]
    assert not any(piece["marked"] for result in found for side in ("first", "second") for piece in result[side])
