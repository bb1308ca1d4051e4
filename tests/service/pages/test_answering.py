"""Answering on the label page: what each key does, and what the log then holds."""

import itertools

import pytest
from playwright.async_api import expect
from service.pages.browsing import Site, own_outcome
from service.pages.conftest import Visit

pytestmark = pytest.mark.anyio


async def test_the_arrows_mean_the_side_on_which_a_response_was_shown(site: Site, run: str, visit: Visit) -> None:
    """With both orders of presentation met, of which each is drawn for half of the duels."""
    ann = await visit(run)
    orders: set[bool] = set()
    expected = {}
    for n, (key, side) in zip(range(60), itertools.cycle([("ArrowLeft", "first"), ("ArrowRight", "second")])):
        site.post(run, start=n)
        prompt, first, _ = await ann.shown()
        assert prompt == f"prompt {n}"
        expected[f"k{n}"] = own_outcome(f"k{n}", first, side)
        orders.add(expected[f"k{n}"] == side)
        await ann.press(key)
        await ann.nothing_left()
        if len(orders) == 2 and n:
            break
    assert site.outcomes(run) == expected


async def test_every_other_key_does_what_it_says(site: Site, run: str, visit: Visit) -> None:
    site.post(run, 3)
    ann = await visit(run)
    await ann.press("t", "b", "s")
    await ann.nothing_left()
    assert site.outcomes(run) == {"k0": "tie", "k1": "both_bad"}
    bob = await visit(run, "bob")
    assert (await bob.shown())[0] == "prompt 2"  # skipped is left to others, and never comes back to who skipped it


@pytest.mark.parametrize(
    ("key", "code", "outcome"),
    [("е", "KeyT", "tie"), ("β", "KeyB", "both_bad"), ("T", "KeyT", "tie"), ("t", "KeyK", "tie"), ("k", "KeyT", None)],
    ids=["Cyrillic", "Greek", "shifted", "Dvorak", "another letter of Dvorak"],
)
async def test_letters_are_found_on_other_keyboards(
    key: str, code: str, outcome: str | None, site: Site, run: str, visit: Visit
) -> None:
    site.post(run)
    ann = await visit(run)
    await ann.ready()
    await ann.page.locator("body").dispatch_event("keydown", {"key": key, "code": code})
    if outcome is None:
        await ann.press("b")  # of a duel that is still there
    await ann.nothing_left()
    assert site.outcomes(run) == {"k0": outcome or "both_bad"}


async def test_a_french_digit_says_how_much_better(site: Site, run: str, visit: Visit) -> None:
    site.post(run)
    ann = await visit(run)
    await ann.ready()
    await ann.page.locator("body").dispatch_event("keydown", {"key": "é", "code": "Digit2"})
    await ann.press("ArrowLeft")
    await ann.nothing_left()
    assert site.log(run)[0]["strength"] == 2


async def test_what_was_begun_outlives_a_reload(site: Site, run: str, visit: Visit) -> None:
    site.post(run, 2)
    ann = await visit(run)
    first = await ann.shown()
    await ann.page.keyboard.press("3")
    await ann.page.keyboard.press("c")
    await ann.page.keyboard.type("so far")
    await ann.page.reload()
    assert await ann.shown() == first
    assert await ann.page.locator("textarea").input_value() == "so far"
    await ann.press("ArrowLeft")
    await ann.says("prompt 1", "#prompt")
    await ann.says("Saved")
    assert [(entry["strength"], entry["comment"]) for entry in site.log(run)] == [(3, "so far")]
    await ann.page.reload()
    await ann.shown()
    assert await ann.page.locator("textarea").input_value() == "", "it belongs to the other duel"


async def test_what_was_begun_is_nobody_elses(site: Site, run: str, visit: Visit) -> None:
    """Two people take turns in one tab, at one duel that the first gave back."""
    site.post(run)
    ann = await visit(run)
    await ann.ready()
    await ann.page.keyboard.press("c")
    await ann.page.keyboard.type("mine")
    await ann.page.goto(f"{site.url}/label")
    await ann.page.get_by_role("button", name="Sign out").click()
    await ann.sign_in(site.key("bob"))
    await ann.page.goto(f"{site.url}/label/{run}")
    assert (await ann.shown())[0] == "prompt 0"
    assert await ann.page.locator("textarea").input_value() == ""


async def test_the_buttons_do_what_the_keys_do(site: Site, run: str, visit: Visit) -> None:
    site.post(run, 5)
    ann = await visit(run)
    expected = {}
    for n, side in enumerate(["first", "second"]):
        _, first, _ = await ann.shown()
        expected[f"k{n}"] = own_outcome(f"k{n}", first, side)
        await ann.button(f"{side.title()} is better").click()
    await ann.button("Tie").click()
    await ann.button("Both bad").click()
    await ann.button("Skip").click()
    await ann.nothing_left()
    assert site.outcomes(run) == expected | {"k2": "tie", "k3": "both_bad"}


async def test_undo_answers_an_earlier_duel_again_and_comes_back(site: Site, run: str, visit: Visit) -> None:
    site.post(run, 3)
    ann = await visit(run)
    await ann.press("t", "b")
    assert (await ann.shown())[0] == "prompt 2"
    await ann.page.keyboard.press("u")
    await ann.says("Your answer was: Both bad", "#earlier")
    await ann.page.keyboard.press("u")
    await ann.says("Your answer was: Tie", "#earlier")
    assert (await ann.shown())[0] == "prompt 0"
    await ann.press("b")
    await ann.says("prompt 2", "#prompt")
    await ann.page.reload()  # what was answered can be taken back after a reload too
    await ann.press("u")
    await ann.says("prompt 1", "#prompt")
    await ann.press("t")
    await ann.press("b")
    await ann.nothing_left()
    first, second, *later = site.log(run)
    assert [(entry["client_key"], entry["outcome"], entry["revises"]) for entry in later] == [
        ("k0", "both_bad", first["label_id"]),
        ("k1", "tie", second["label_id"]),
        ("k2", "both_bad", None),
    ]


async def test_undo_without_another_answer_changes_nothing(site: Site, run: str, visit: Visit) -> None:
    site.post(run, 2)
    ann = await visit(run)
    await ann.press("t", "u")
    await ann.says("prompt 0", "#prompt")
    await ann.page.keyboard.press("Escape")
    await ann.says("prompt 1", "#prompt")
    await ann.press("u")
    await ann.says("prompt 0", "#prompt")
    await ann.press("t")  # the same answer
    await ann.says("prompt 1", "#prompt")
    await ann.press("b")
    await ann.nothing_left()
    assert [entry["outcome"] for entry in site.log(run)] == ["tie", "both_bad"]


async def test_a_skip_can_be_undone(site: Site, run: str, visit: Visit) -> None:
    site.post(run)
    ann = await visit(run)
    await ann.press("s")
    await ann.nothing_left()
    await ann.page.keyboard.press("u")
    await ann.says("Your answer was: Skip", "#earlier")
    await ann.press("t")
    await ann.nothing_left()
    assert site.outcomes(run) == {"k0": "tie"}


async def test_how_much_better_a_comment_and_the_time_are_kept(site: Site, run: str, visit: Visit) -> None:
    site.post(run, 2)
    ann = await visit(run)
    await ann.press("3", "2", "c")
    await ann.page.keyboard.type("both bad tuts, 1 better")  # letters and digits answer nothing here
    await ann.page.keyboard.press("ArrowLeft")
    await ann.page.keyboard.press("Escape")
    await ann.press("ArrowLeft")
    await ann.says("prompt 1", "#prompt")
    await ann.press("1", "t")  # nothing is better in a tie
    await ann.nothing_left()
    first, second = site.log(run)
    assert (first["strength"], first["comment"]) == (2, "both bad tuts, 1 better")
    assert (second["strength"], second["comment"], second["outcome"]) == (None, None, "tie")
    assert first["elapsed_ms"] >= 250  # a duel cannot be answered before


async def test_a_second_press_meant_for_the_same_duel_does_not_answer_the_next(
    site: Site, run: str, visit: Visit
) -> None:
    site.post(run, 2)
    ann = await visit(run)
    await ann.ready()
    # The next duel is answered as soon as its text is there, by a script that is faster than any hand.
    await ann.page.evaluate(
        """() => new MutationObserver(() => document.querySelector("[data-action=tie]").click())
            .observe(document.getElementById("prompt"), { childList: true })"""
    )
    await ann.page.keyboard.press("t")
    await ann.says("prompt 1", "#prompt")
    await ann.ready()
    await ann.says("Saved")
    assert site.outcomes(run) == {"k0": "tie"}


async def test_an_empty_run_says_so_and_shows_a_duel_as_soon_as_there_is_one(
    site: Site, run: str, visit: Visit
) -> None:
    ann = await visit(run)
    await ann.says("Nothing to answer now", "#panel")
    site.post(run)
    assert (await ann.shown())[0] == "prompt 0"


async def test_nobody_answers_a_duel_behind_open_instructions(site: Site, run: str, visit: Visit) -> None:
    site.run(run, instructions="Prefer the shorter one.")
    site.post(run, 2)
    ann = await visit(run)
    await expect(ann.page.locator("#instructions")).to_be_visible()
    await expect(ann.page.locator("#first")).to_be_visible()
    for key in ("ArrowLeft", "t", "s"):
        await ann.page.keyboard.press(key)
    await ann.page.wait_for_timeout(400)  # longer than a duel is held to be unread
    for action in ("first", "tie", "skip", "more"):
        await expect(ann.page.locator(f"[data-action={action}]")).to_have_attribute("aria-disabled", "true")
    await ann.press("t")
    await ann.says("Saved")
    assert len(site.log(run)) == 1


async def test_progress_instructions_and_help_are_shown(site: Site, run: str, visit: Visit) -> None:
    site.run(run, instructions="Prefer the shorter one.\n<b>Always.</b>")
    site.post(run, 3)
    ann = await visit(run, "Ann Ø")
    await ann.says("Ann Ø", ".who")
    await ann.says("0 by you", "#counts")
    await ann.says("<b>Always.</b>", "#instructions")
    await ann.button("Got it").click()
    await ann.press("t")
    await ann.says("1 by you", "#counts")
    await ann.page.reload()
    await ann.ready()
    await expect(ann.page.locator("#instructions")).to_be_hidden()  # they have been read
    await ann.page.keyboard.press("?")
    await expect(ann.page.get_by_role("dialog")).to_be_visible()
    await ann.page.keyboard.press("t")  # answers nothing while help is open
    await ann.page.keyboard.press("Escape")
    await expect(ann.page.get_by_role("dialog")).to_be_hidden()
    await ann.page.goto(f"{site.url}/label")
    await ann.says("Something to answer", f"[data-run={run}]")
    await ann.says("1 by you", f"[data-run={run}]")
    assert len(site.log(run)) == 1


async def test_how_far_the_run_is_is_shown_to_who_may_read_and_to_nobody_else(
    site: Site, run: str, visit: Visit
) -> None:
    site.post(run, 3)
    reader = await visit(run, key=site.key("reader", "annotate", "read"))
    await reader.says("3 open · 0 answered · 0 by you", "#counts")
    await reader.press("t")
    await reader.says("2 open · 1 answered · 1 by you", "#counts")
    ann = await visit(run)
    await ann.says("0 by you", "#counts")
    await expect(ann.page.locator("#bar")).to_be_hidden()
    for visitor, counts in ((reader, "2 open"), (ann, "0 by you")):
        await visitor.page.goto(f"{site.url}/label")
        await visitor.says(counts, f"[data-run={run}]")
    assert "open" not in (await ann.page.locator(f"[data-run={run}]").inner_text())


async def test_the_lease_is_kept_while_the_page_is_in_view(site: Site, run: str, visit: Visit) -> None:
    site.post(run)
    ann = await visit(run)
    await ann.page.clock.install()
    await ann.page.reload()
    await ann.ready()
    async with ann.page.expect_response(lambda response: response.request.method == "PATCH") as beat:
        await ann.page.clock.fast_forward(61_000)
    assert (await beat.value).status == 200


async def test_leaving_the_page_gives_an_unanswered_duel_to_others(site: Site, run: str, visit: Visit) -> None:
    site.post(run)
    ann, bob = await visit(run), await visit(run, "bob")
    await ann.ready()
    await bob.says("Nothing to answer now", "#panel")
    await ann.page.close()
    assert (await bob.shown())[0] == "prompt 0"


async def test_signing_out_gives_an_unanswered_duel_to_others(site: Site, run: str, visit: Visit) -> None:
    site.post(run)
    ann, bob = await visit(run), await visit(run, "bob")
    await ann.ready()
    await bob.says("Nothing to answer now", "#panel")
    await ann.button("Sign out").click()
    assert (await bob.shown())[0] == "prompt 0"
