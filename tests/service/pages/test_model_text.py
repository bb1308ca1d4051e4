"""What models wrote does nothing, rendered or raw; raw, it is shown as it is, and its differences are marked."""

import random

import pytest
from playwright.async_api import Page, expect
from service.pages.browsing import Site, Visitor, serve_changed
from service.pages.conftest import Visit

pytestmark = pytest.mark.anyio

RUN = "document.documentElement.dataset.ran = true"
HOSTILE = (
    f'<img src=x onerror="{RUN}"><script>{RUN}</script><b>bold</b><svg onload="{RUN}"></svg>\n'
    f'<a href="javascript:{RUN}">link</a> &lt;i&gt; {{{{ 7 * 7 }}}} ${{1}}'
)
MARKDOWN_OF_ATTACKERS = [
    HOSTILE,
    f'<math><mtext><table><mglyph><style><img src=x onerror="{RUN}"></style></mglyph></table></mtext></math>',
    f"[a](javascript:{RUN}) [b](JaVaScRiPt&colon;{RUN}) [c](<javascript:{RUN}>) <javascript:{RUN}> [d](vbscript:x)",
    f"[e]: javascript:{RUN}\n[f]: data:text/html,<script>{RUN}</script>\n\n[e] [f] [g](data:text/html;base64,PHNj)",
    f'![h](x"onerror="{RUN}) ![i](https://other.test/i.png "\\"onload={RUN}") ![j](data:image/png;base64,iVBORw0KGgo=)',
    "![k](data:image/svg+xml,<svg onload=alert(1)>) [![l](https://other.test/l.png)](https://other.test)",
    f"```<img src=x onerror={RUN}>\n</code></pre><img src=x onerror={RUN}>\n```\n`</code><script>{RUN}</script>`",
    f'| <img src=x onerror={RUN}> |\n|:--"onmouseover={RUN}--|\n| </td><script>{RUN}</script> |',
    rf"$\href{{javascript:{RUN}}}{{x}}$ $\url{{javascript:{RUN}}}$ $$\includegraphics{{https://other.test/x.png}}$$",
    rf"$\text{{<img src=x onerror={RUN}>}}$ \(<script>{RUN}</script>\) $\style{{position:fixed}}{{x}}$",
    r"$\class{panel}{x}$ $\id{panel}{x}$ $\data{action=first}{x}$ $x\label{panel}\ref{panel}$",
    r"$\color{red;background:url(//other.test)}x$ $\color{url(//other.test)}x$ $\colorbox{url(//other.test)}{x}$",
    r"$\rule{9999em}{9999em}$ $\kern-9999em x$ $\raisebox{9999pt}{x}$ $$\hspace{-99in}x$$ $\llap{\rule{19em}{19em}}$",
    r"$\def\a{\a\a}\a$ $\edef\a{xx}\edef\a{\a\a\a\a}\a$ $\newcommand\b{\b}\b$ $\gdef\frac{x}$" + r" $\sqrt{" * 300,
    "$$" + r"\sqrt{" * 180 + "x" + "}" * 180 + "$$ $" + "{" * 900 + "x" + "}" * 900 + "$",
    "[" * 5000 + "]" * 5000 + "*a **b " * 2000 + "`" * 777,
]
RAW = ("text.js", (("element.textContent = text", "element.innerHTML = text"),))
"""A fault: raw texts become markup."""
HTML = ("markdown.js", (("html: false", "html: true"),))
UNPURIFIED = (
    "markdown.js",
    (
        ("html: false", "html: true"),
        ("DOMPurify.sanitize(", "((html) => document.createRange().createContextualFragment(html))("),
    ),
)
"""Faults: the text's own markup counts; and nothing is taken out of it again."""

# What in the texts of the duel could do something: elements and attributes that no rendering makes.
DANGERS = """() => {
    const elements = new Set(("p div h3 h4 h5 h6 strong em s code pre blockquote ul ol li table thead tbody tr th td "
        + "hr span mark math menclose merror mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot "
        + "mrow ms mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover").split(" "));
    const attributes = /^(on.*|href|src|id|name|action|formaction|srcset|data-(?!source$).*)$/;
    return [...document.querySelectorAll(".text *")].flatMap((element) => [
        ...(elements.has(element.localName) ? [] : [element.localName]),
        ...[...element.attributes].map(({name}) => name).filter((name) => attributes.test(name)),
    ]);
}"""


async def elements_in_texts(page: Page) -> list[str]:
    """Elements inside the texts of the duel, but for marks."""
    return list(
        await page.evaluate(
            """() => [...document.querySelectorAll("#prompt *, #first *, #second *")].map((e) => e.localName)
                .filter((name) => name !== "mark")"""
        )
    )


async def has_run(page: Page) -> bool:
    """Whether a text has run as a script."""
    return bool(await page.evaluate("document.documentElement.dataset.ran"))


async def test_markup_in_a_text_is_shown_as_text_and_runs_nothing(site: Site, run: str, visit: Visit) -> None:
    site.run(run, instructions=HOSTILE, name=HOSTILE[:80])
    site.post(run, prompt=HOSTILE, first=f"{HOSTILE} one", second=f"{HOSTILE} two")
    ann = await visit(run)
    await ann.press("r")
    prompt, first, second = await ann.shown()
    assert prompt == HOSTILE
    assert {first, second} == {f"{HOSTILE} one", f"{HOSTILE} two"}
    await ann.says('<img src=x onerror="', "#instructions")
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
    await serve_changed(ann.page, RAW[0], *RAW[1])
    await ann.page.reload()
    await ann.press("r")
    assert {"img", "script", "b", "svg", "a"} <= {*await elements_in_texts(ann.page)}
    await runs_unless(policy, ann)


async def runs_unless(policy: bool, visitor: Visitor) -> None:
    """Whether markup on the page runs what it says depends on the content security policy alone."""
    if policy:
        assert not await has_run(visitor.page)
        assert any("Content Security Policy" in text for text in visitor.complaints)
        await visitor.leave_complaining()
    else:
        await visitor.page.locator("html[data-ran=true]").wait_for()


@pytest.mark.parametrize("text", MARKDOWN_OF_ATTACKERS)
async def test_rendered_a_text_makes_nothing_that_does_anything(site: Site, run: str, visit: Visit, text: str) -> None:
    site.run(run, instructions=text[:5000])
    site.post(run, prompt=text, first=f"one {text}", second=f"two {text}")
    ann = await visit(run, bypass_csp=True)  # so that what could run or load does
    await ann.ready()
    address, asked = ann.page.url, len(ann.methods)
    assert await ann.page.locator("#prompt.rendered, #first.rendered, #second.rendered").count() == 3
    assert await ann.page.evaluate(DANGERS) == []
    size = await ann.page.locator("#first").evaluate("(e) => [e.scrollWidth - e.clientWidth, e.clientHeight]")
    assert size[0] <= 0
    assert size[1] < 12_000  # the longest has 14,000 letters
    for place in ("#prompt", "#first"):
        for part in (await ann.page.locator(f"{place} :is(span, p, td)").all())[:10]:
            await part.dispatch_event("click")
    await ann.press("d", "r", "r", "t")
    await ann.nothing_left()
    assert not await has_run(ann.page)
    assert ann.page.url == address
    assert {path for _, path in ann.methods[asked:] if not path.startswith("/v1/")} == set()


@pytest.mark.parametrize("policy", [True, False])
async def test_without_both_barriers_rendered_markup_is_found(site: Site, run: str, visit: Visit, policy: bool) -> None:
    """The deliberate fault that the test above must find."""
    site.post(run, first=f"{HOSTILE}\n", second=HOSTILE)
    ann = await visit(run, bypass_csp=not policy)
    ann.failures_expected = True
    await serve_changed(ann.page, UNPURIFIED[0], *UNPURIFIED[1])
    await ann.page.reload()
    await ann.ready()
    assert {"img", "script", "svg", "a", "onerror", "onload", "href"} <= {*await ann.page.evaluate(DANGERS)}
    await runs_unless(policy, ann)


async def test_each_barrier_alone_is_enough(site: Site, run: str, visit: Visit) -> None:
    texts = "\n\n".join(MARKDOWN_OF_ATTACKERS[:3])
    site.post(run, prompt=texts, first=texts, second=texts)
    for file, changes in (HTML, (UNPURIFIED[0], UNPURIFIED[1][1:])):
        ann = await visit(run, bypass_csp=True)
        await serve_changed(ann.page, file, *changes)
        await ann.page.reload()
        await ann.ready()
        assert await ann.page.evaluate(DANGERS) == []
        assert not await has_run(ann.page)


@pytest.mark.parametrize(("pure", "found"), [(True, []), (False, ["img", "src"])])
async def test_a_formula_that_loads_an_image_would_be_found(
    site: Site, run: str, visit: Visit, pure: bool, found: list[str]
) -> None:
    """Trusted, the library of formulas makes an image; what is purified has none all the same."""
    site.post(run, first=r"$\includegraphics{x.png}$", second="none")
    ann = await visit(run)
    ann.failures_expected = True
    faults = [("trust: false", "trust: true")] + ([] if pure else [("DOMPurify.sanitize(place, PURE);", "")])
    await serve_changed(ann.page, "formulas.js", *faults)
    await ann.page.reload()
    await ann.ready()
    assert [name for name in await ann.page.evaluate(DANGERS) if name in ("img", "src")] == found


async def test_lines_and_spaces_of_a_text_are_kept(site: Site, run: str, visit: Visit) -> None:
    code = "def f(x):\n    if x:\n\n        return  1\n" + "word " * 40
    site.post(run, first=code, second=code.replace("if", "unless"))
    ann = await visit(run)
    await ann.press("r")
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
    """What the page marks in pairs of raw texts, as pieces, and its note."""
    script = """async (pairs) => {
        const { showDuel } = await import("/static/text.js");
        const pieceOf = (node) => ({text: node.textContent, marked: node.localName === "mark"});
        return pairs.map(([first, second]) => {
            const [prompt, one, two] = [1, 2, 3].map(() => document.createElement("div"));
            const places = {prompt, first: one, second: two};
            const note = showDuel(places, {prompt: "", first, second}, {rendered: false, marking: true});
            return {note, first: [...one.childNodes].map(pieceOf), second: [...two.childNodes].map(pieceOf)};
        });
    }"""
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


async def test_a_word_in_a_long_text_is_marked(run: str, visit: Visit) -> None:
    """Comparing every word with every other would take too long, but both ends are the same."""
    ann = await visit(run)
    before, after = (" ".join(f"{name}{n}" for n in range(4000)) for name in "ab")
    (found,) = await compare(ann.page, [(f"{before} yes {after}", f"{before} no {after}")])
    assert found["note"] == ""
    assert [piece["text"] for piece in found["first"] if piece["marked"]] == ["yes"]
    assert [piece["text"] for piece in found["second"] if piece["marked"]] == ["no"]


async def test_where_marks_would_not_help_there_are_none(run: str, visit: Visit) -> None:
    ann = await visit(run)
    long, other = (" ".join(str(step * n) for n in range(2100)) for step in (1, 2))
    pairs = [("a b c", "a b c"), ("a b c d", "w x y z"), (long, other), ("", "x")]
    found = await compare(ann.page, pairs)
    assert [result["note"].split(",")[0] for result in found] == [
        "Both responses are the same.",
        "The responses have little in common",
        "Too long to mark what differs.",
        "The responses have little in common",
    ]
    assert not any(piece["marked"] for result in found for side in ("first", "second") for piece in result[side])
