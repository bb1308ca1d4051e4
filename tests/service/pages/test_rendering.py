"""Markdown and formulas are rendered, with what differs marked; the text as it was written is one key away."""

import hashlib
import io
import random
import re
from importlib import resources

import matplotlib.image
import pytest
from playwright.async_api import Page, expect
from service.pages.browsing import Site, serve_changed
from service.pages.conftest import Visit, Visitor
from service.pages.offices import barriers

pytestmark = pytest.mark.anyio

ANSWER = r"""# Roots

The roots of $ax^2 + bx + c = 0$ are

$$x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}$$

```python
def roots(a, b, c):
    return "a line that is much too long for a column of the page, so that it has to be scrolled to the side to be read"
```

| case | roots |
|:-----|------:|
| real | **2** |

1. first
2. second
   - `inner`

> quoted [link](https://other.test/page "title") and ![a picture](https://other.test/x.png)
"""

ON_PAGE = """async ([first, second, options]) => {
    const { showDuel } = await import("/static/text.js");
    const [prompt, one, two] = [1, 2, 3].map(() => document.createElement("div"));
    const shown = {rendered: true, marking: true, ...options};
    const note = showDuel({prompt, first: one, second: two}, {prompt: "", first, second}, shown);
    const of = (e) => ({
        rendered: e.classList.contains("rendered"), text: e.textContent, elements: e.querySelectorAll("*").length,
        marks: [...e.querySelectorAll("mark")].map((m) => m.parentElement.dataset.source ?? m.textContent),
        kept: (() => { const copy = e.cloneNode(true);
            copy.querySelectorAll("mark").forEach((m) => m.remove());
            const formulas = copy.querySelectorAll("[data-source] > math");
            formulas.forEach((math) => math.replaceWith(` ${math.parentElement.dataset.source} `));
            return copy.textContent.split(/\\s+/).filter(Boolean); })(),
    });
    return {note, first: of(one), second: of(two)};
}"""


async def shown(page: Page, first: str, second: str, **options: bool) -> dict:
    """What the page makes of two responses: their text, what is marked in it, and the note."""
    return dict(await page.evaluate(ON_PAGE, [first, second, options]))


async def box(visitor: Visitor, place: str) -> dict[str, float]:
    """Where the first such element stands."""
    found = await visitor.page.locator(place).first.bounding_box()
    assert found
    return dict(found)


@pytest.fixture
async def ann(site: Site, run: str, visit: Visit) -> Visitor:
    """Somebody who has the answer above on the page, on both sides."""
    site.run(run, instructions="Prefer **correct** code:\n\n- that runs\n- that is short")
    site.post(run, prompt="Write `roots`.", first=ANSWER, second=ANSWER.replace("first", "third"))
    ann = await visit(run)
    await ann.ready()
    return ann


async def test_markdown_is_rendered(ann: Visitor) -> None:
    first = ann.page.locator("#first")
    await expect(first.locator("h3")).to_have_text("Roots")
    await expect(first.locator("pre code")).to_contain_text('    return "a line')
    await expect(first.locator("td").last).to_have_text("2")
    assert await first.locator("td").last.evaluate("(e) => getComputedStyle(e).textAlign") == "right"
    await expect(first.locator("ol > li")).to_have_count(2)
    await expect(first.locator("ol ul code")).to_have_text("inner")
    await expect(ann.page.locator("#prompt code")).to_have_text("roots")
    await expect(ann.page.locator("#instructions li")).to_have_text(["that runs", "that is short"])


async def test_code_is_in_monospace_and_scrolls_by_itself(ann: Visitor) -> None:
    wide, font = await ann.page.locator("#first pre").evaluate(
        "(e) => [e.scrollWidth > e.clientWidth, getComputedStyle(e.firstChild).fontFamily]"
    )
    assert wide
    assert font.endswith("monospace")
    assert await ann.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


SIDEWAYS = r"""
| method | queries to the target | saved against passive | seconds |
|:--|--:|--:|--:|
| sea | 1024 | 3.1 | 12.5 |

$$x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a} + \sum_{k=0}^n \binom{n}{k} x^k y^{n-k} + \int_0^1 f(t) dt + \alpha + \beta$$
"""


def plain_at_the_edge(picture: bytes) -> float:
    """The share of a picture's right edge that is as white as the card, in the lower half: above are headings."""
    edge = matplotlib.image.imread(io.BytesIO(picture), format="png")[:, -2, :3]
    return float((edge[len(edge) // 2 :] > 0.995).all(1).mean())


@pytest.mark.parametrize(("part", "name"), [(".wide", "Table"), (".formula.display", "Formula")])
async def test_what_goes_on_to_the_side_says_so_and_scrolls_by_keyboard(
    site: Site, run: str, visit: Visit, part: str, name: str
) -> None:
    site.post(run, first=f"one\n{SIDEWAYS}", second="two | three\n-|-\nfour | five")
    ann = await visit(run, viewport={"width": 390, "height": 844}, color_scheme="light")
    await ann.ready()
    region = ann.page.get_by_role("region", name=f"{name}, scrolls sideways")
    await expect(region).to_have_count(1)  # the table that fits is none
    assert await barriers(ann.page) == []
    assert plain_at_the_edge(await region.screenshot()) < 0.1
    await region.focus()
    await ann.page.keyboard.press("ArrowRight")
    await ann.page.wait_for_function("(part) => document.querySelector(part + '[role]').scrollLeft > 0", arg=part)
    await ann.page.set_viewport_size({"width": 2560, "height": 844})
    await expect(region).to_have_count(0)
    assert site.log(run) == []  # no arrow has answered
    assert await ann.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_at_its_end_nothing_says_that_more_is_to_the_side(site: Site, run: str, visit: Visit) -> None:
    site.post(run, first=f"one\n{SIDEWAYS}", second="two")
    ann = await visit(run, viewport={"width": 390, "height": 844}, color_scheme="light")
    await ann.ready()
    formula = ann.page.locator(".formula.display")
    await formula.evaluate("(e) => e.scrollTo(e.scrollWidth, 0)")
    assert plain_at_the_edge(await formula.screenshot()) > 0.5


async def test_links_and_images_are_told_with_their_address_and_lead_nowhere(ann: Visitor) -> None:
    quote = ann.page.locator("#first blockquote")
    text = "quoted link (https://other.test/page) and [image: a picture] (https://other.test/x.png)"
    await expect(quote).to_have_text(text)
    assert await ann.page.locator(".text a, .text img").count() == 0


async def test_formulas_are_set_in_place(ann: Visitor) -> None:
    """Their parts stand where they belong, and the browser refuses no style."""
    assert await ann.page.locator("#first math").count() == 2
    top, bottom = await box(ann, "#first mfrac > :first-child"), await box(ann, "#first mfrac > :last-child")
    assert top["y"] + top["height"] <= bottom["y"] + 2
    base, raised = await box(ann, "#first msup > :first-child"), await box(ann, "#first msup > :last-child")
    assert raised["y"] + raised["height"] < base["y"] + base["height"] - 2
    size = "(e) => parseFloat(getComputedStyle(e).fontSize)"
    sizes = [await ann.page.locator(f"#first msup > :{nth}-child").first.evaluate(size) for nth in ("first", "last")]
    assert sizes[1] < sizes[0]
    formula, column = await box(ann, "#first .display math > *"), await box(ann, "#first")
    assert abs(formula["x"] + formula["width"] / 2 - column["x"] - column["width"] / 2) < 3  # in the middle


async def test_columns_of_a_formula_are_aligned_by_styles(site: Site, run: str, visit: Visit) -> None:
    site.post(run, first=r"\[\begin{aligned} abcdef &= 1 \\ g &= 2222 \end{aligned}\]", second="none")
    ann = await visit(run)
    await ann.ready()
    cells = [await cell.bounding_box() for cell in await ann.page.locator("mtd > :is(mi, mrow)").all()]
    (long, one, short, two) = [cell for cell in cells if cell]
    assert abs(long["x"] + long["width"] - short["x"] - short["width"]) < 1.5
    assert abs(one["x"] - two["x"]) < 1.5


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("It costs $5, not $10, or US$5/A$6, and $HOME:$PATH.", 0),
        (r"\$x\$ and `$x$` are none, $ x $ neither", 0),
        ("$$\n$$ and $ $ and $$", 0),
        (r"$x$, \(y\), $$z$$ and \[w\]", 4),
        ("A list:\n\n- item\n\n  $$\n  a\n  - b\n  = c\n  $$\n- next", 1),
        ("Then\n\\[\nx\n\n= 1\n\\]\nholds.", 1),
        (r"$\nonsense{x}$ and $\frac{a}$ and $x^{$ stay", 0),
    ],
)
async def test_formulas_are_told_from_dollars(run: str, visit: Visit, text: str, formulas: int) -> None:
    ann = await visit(run)
    count = f"async (text) => {{ const {{ render }} = await import('/static/markdown.js'); {COUNT} }}"
    assert await ann.page.evaluate(count, text) == formulas


COUNT = "return render(text).content.querySelectorAll('math').length;"


async def test_plain_prose_looks_as_it_is_written(site: Site, run: str, visit: Visit) -> None:
    prose = (
        "A line, and\nanother one.\n    def f(x):\n        return x  # 2 * 3 * 4, a_b_c\n\n"
        "It costs $5 and not $10.\n\n\u2014 Jo"
    )
    site.post(run, prompt=prose, first=prose, second=f"{prose}!")
    ann = await visit(run)
    prompt, first, second = await ann.shown()
    assert prompt == prose
    assert {first, second} == {prose, f"{prose}!"}


async def test_paragraphs_run_in_the_direction_of_their_language(site: Site, run: str, visit: Visit) -> None:
    site.post(
        run,
        prompt="- \u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd\n\n\u05e9\u05dc\u05d5\u05dd\n\nhello",
        first="a",
        second="b",
    )
    ann = await visit(run)
    await ann.ready()
    edges = await ann.page.locator("#prompt > p").evaluate_all(
        """(all) => all.map((p) => { const range = document.createRange(); range.selectNodeContents(p);
            const [text, column] = [range.getBoundingClientRect(), p.getBoundingClientRect()];
            return [text.left - column.left, column.right - text.right].map(Math.round); })"""
    )
    assert edges[0][1] == 0 < edges[0][0]
    assert edges[1][0] == 0 < edges[1][1]


async def test_the_raw_text_is_one_key_away_and_remembered(ann: Visitor) -> None:
    texts = {ANSWER, ANSWER.replace("first", "third")}
    rendered = ann.page.locator(".duel .rendered")
    await expect(rendered).to_have_count(3)
    await ann.page.keyboard.press("r")
    await expect(rendered).to_have_count(0)
    assert {*(await ann.shown())[1:]} == texts
    assert {*await ann.page.locator(".duel mark").all_inner_texts()} == {"first", "third"}
    await expect(ann.button("Rendered")).to_have_attribute("aria-pressed", "false")
    await ann.page.reload()
    assert {*(await ann.shown())[1:]} == texts
    await ann.button("Rendered").click()
    await expect(rendered).to_have_count(3)
    await ann.page.keyboard.press("?")
    await expect(ann.page.locator("#help dl")).to_contain_text("rendered")


async def test_words_and_formulas_that_differ_are_marked_in_what_is_rendered(run: str, visit: Visit) -> None:
    ann = await visit(run)
    second = (
        ANSWER.replace("2a", "3a")
        .replace("real", "complex")
        .replace("roots(a, b", "solve(a, b")
        .replace("first", "1st")
    )
    found = await shown(ann.page, ANSWER, second)
    formula = re.findall(r"\$\$.*?\$\$", ANSWER + second)
    assert found["note"] == ""
    assert found["first"]["marks"] == [formula[0], "roots", "real", "first"]
    assert found["second"]["marks"] == [formula[1], "solve", "complex", "1st"]
    again = await shown(ann.page, ANSWER, second, marking=False)
    assert again["first"]["marks"] == []
    assert again["first"]["text"] == found["first"]["text"]


@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        ("# a **b**", "# a **b**", "Both responses are the same."),
        ("# a **b**", "a *b*", "Both say the same words; only their spaces or their form differ."),
        ("> " * 10_000 + "a", "a", "Nested too deeply to be rendered, so shown as it was written."),
        ("- " * 10_000 + "a", "a", "Nested too deeply to be rendered, so shown as it was written."),
        ("a " * 50_000, "a", "Too long to be rendered, so shown as it was written."),
        (f"|{'a|' * 300}\n|{'-|' * 300}\n" + "|\n" * 200, "a", "Too long to be rendered, so shown as it was written."),
    ],
)
async def test_the_note_says_what_is_not_seen(run: str, visit: Visit, first: str, second: str, note: str) -> None:
    ann = await visit(run)
    found = await shown(ann.page, first, second)
    assert found["note"].startswith(note)
    assert found["first"]["rendered"] == found["second"]["rendered"] == ("rendered" not in note)
    if "rendered" in note:
        assert found["first"]["text"] == first


async def test_for_random_texts_what_is_not_marked_is_the_same_on_both_sides(run: str, visit: Visit) -> None:
    ann = await visit(run)
    draw = random.Random(7)
    parts = [
        "salt",
        "**and**",
        "*bread*",
        "`the`",
        "$x^2$",
        "$y_1$",
        "\n\n",
        "\n- ",
        "\n\n# ",
        "\n> ",
        "[oil](https://a.test)",
        "火",
    ]
    marked = 0
    for _ in range(60):
        words = [draw.choice(parts) for _ in range(40)]
        changed = [draw.choice(parts) if draw.random() < 0.15 else word for word in words]
        found = await shown(ann.page, " ".join(words), " ".join(changed))
        plain = await shown(ann.page, " ".join(words), " ".join(changed), marking=False)
        for side in ("first", "second"):
            assert found[side]["text"] == plain[side]["text"]
        if not found["note"]:
            assert found["first"]["kept"] == found["second"]["kept"]
            marked += bool(found["first"]["marks"])
    assert marked > 20


async def copied(page: Page, place: str) -> str:
    """What a reader copies who selects all of an element."""
    return str(
        await page.evaluate(
            """(place) => new Promise((resolve) => {
                getSelection().selectAllChildren(document.querySelector(place));
                const listen = ({clipboardData}) => resolve(clipboardData.getData("text/plain"));
                addEventListener("copy", listen, {once: true});
                document.execCommand("copy");
            })""",
            place,
        )
    )


async def test_formulas_are_copied_as_they_were_written(ann: Visitor) -> None:
    text = await copied(ann.page, "#first")
    assert "The roots of $ax^2 + bx + c = 0$ are" in text.splitlines()
    assert r"$$x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}$$" in text.splitlines()
    assert "def roots(a, b, c):\n    return" in text
    assert await ann.page.locator(".copied").count() == 0


async def test_very_long_texts_do_not_freeze_the_page(site: Site, run: str, visit: Visit) -> None:
    """In milliseconds, the longest task on a busy machine; a browser calls a page hung after several seconds."""
    long = ("Some **words** of $x$ prose, and `more`.\n\n" * 2500)[:99_990]
    site.post(run, prompt=long[:29_000], first=long, second=f"{long}end")
    ann = await visit(run)
    await ann.ready()
    await ann.says("Too long to be rendered", "#note")
    assert await ann.page.locator("#first").text_content() in (long, f"{long}end")
    taken = await ann.page.evaluate(
        """() => { const [start, button] = [performance.now(), document.querySelector("[data-action=rendered]")];
            button.click(); button.click(); document.body.offsetHeight; return performance.now() - start; }"""
    )
    assert taken < 4000


LARGE = r"$$\rule{30em}{900em}$$ $\kern-400em x$ $\raisebox{-900em}{x}$"


async def test_a_browser_without_mathml_shows_formulas_as_they_are_written(run: str, visit: Visit) -> None:
    ann = await visit(run)
    await ann.page.evaluate("delete window.MathMLElement")
    found = await shown(ann.page, r"It is $\frac{a}{b}$.", "none")
    assert found["first"]["text"].strip() == r"It is $\frac{a}{b}$."


@pytest.mark.parametrize("limit", [True, False])
async def test_a_formula_takes_no_more_room_than_it_may(site: Site, run: str, visit: Visit, limit: bool) -> None:
    site.post(run, first=LARGE, second="none")
    ann = await visit(run)
    if not limit:  # the deliberate fault
        await serve_changed(ann.page, "formulas.js", (".some(isLarge)", ".some(() => false)"))
    await ann.page.reload()
    await ann.ready()
    heights = [(await box(ann, f"#{side}"))["height"] for side in ("first", "second")]
    assert (max(heights) < 1000) is limit


async def test_no_formula_may_define_commands(run: str, visit: Visit) -> None:
    """A few that double each other are enough to fill the memory."""
    ann = await visit(run)
    for text in (r"$\def\a{x}\a$", r"$\edef\a{xx}\a$", r"$\newcommand{\a}{x}\a$", r"$\let\a=x\a$"):
        found = await shown(ann.page, text, "none")
        assert found["first"]["text"].strip() == text
    await serve_changed(ann.page, "formulas.js", ("if (REFUSED.test(source)) return null;", ""))
    await ann.page.reload()
    assert (await shown(ann.page, r"$\def\a{x}\a$", "none"))["first"]["text"].strip() == "x"


def test_libraries_of_others_are_the_ones_that_are_named() -> None:
    folder = resources.files("sea_agent.web") / "static" / "vendor"
    named = dict(re.findall(r"^\| `([^`]+)`.* \| `([0-9a-f]{64})` \|$", (folder / "README.md").read_text(), re.M))
    scripts = {file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith(".js")}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in scripts.items()} == named
    assert all((folder / f"{name.partition('.')[0]}.LICENSE").is_file() for name in scripts)
