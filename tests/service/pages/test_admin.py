"""The admin page: a run from a file to its export, by people who were invited by link."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, expect
from service.pages.browsing import Site, Visitor
from service.pages.conftest import Attend, Visit
from service.pages.offices import DESKTOP, PHONE

pytestmark = pytest.mark.anyio

PAIRS = 200
HANDED_OUT = 20  # to two people: 40 answers


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service of these tests' own: who can answer there is part of what the page says."""
    site = Site(tmp_path_factory.mktemp("office"))
    yield site
    site.process.end()


def pairs(path: Path) -> Path:
    """A file of pairs with code and Markdown, of which the one that says so is the better."""
    rows = [
        {
            "id": f"k{n}",
            "prompt": f"How do I add {n} to a *number*?",
            "chosen": f"**Better:**\n\n```python\nreturn x + {n}\n```\n\n- short\n- right",
            "rejected": f"Perhaps like this:\n\n```python\nx = x - {n}\n```",
        }
        for n in range(PAIRS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def answer(person: Visitor, count: int, wrong_every: int, tap: bool) -> None:
    """Answer duels on the label page: the better one, but for every so many."""
    for n in range(count):
        await person.ready()
        better = "first" if "Better" in await person.page.locator("#first").inner_text() else "second"
        side = {"first": "second", "second": "first"}[better] if n % wrong_every == wrong_every - 1 else better
        button = person.page.locator(f"[data-action={side}]")
        if tap:
            await button.tap()
        else:
            await person.page.keyboard.press({"first": "ArrowLeft", "second": "ArrowRight"}[side])
        await person.page.wait_for_function(
            "(n) => !document.querySelector('[data-action=first][aria-disabled=false]') || "
            "document.querySelector('#counts').textContent.includes(`${n} by you`)",
            arg=n + 1,
        )


async def test_a_run_is_led_from_a_file_to_an_export_without_any_other_tool(
    site: Site, office: Attend, browser: Browser, tmp_path: Path
) -> None:
    admin = await office()

    # A run from a file of pairs.
    await admin.named("New run").click()
    await admin.dialog.get_by_label("Id", exact=True).fill("led")
    await admin.dialog.get_by_label("Name").fill("Sums")
    await admin.dialog.get_by_label("Instructions").fill("Prefer what is **right**.")
    await admin.dialog.get_by_label("Votes needed").fill("2")
    await admin.dialog.get_by_label("Repeated duels, %").fill("0")
    await admin.dialog.get_by_label("Gold duels, %").fill("0")
    await admin.named("Make the run").click()
    await admin.page.wait_for_url("**/admin/runs/led")
    for said in (f"{PAIRS} duels imported", f"0 duels imported from pairs.jsonl, {PAIRS} known already"):
        await admin.page.get_by_label("File, or drop it here").set_input_files(pairs(tmp_path / "pairs.jsonl"))
        await admin.named("Import").click()
        await admin.told(said)
    run = site.admin.get("/v1/runs/led").json()
    assert (run["queries"], run["votes_needed"], run["instructions"]) == (PAIRS, 2, "Prefer what is **right**.")

    # Two people by link, one at a desk and one with a phone; forty answers of them.
    await expect(
        admin.page.get_by_text(
            f"{PAIRS} duels wait for votes that nobody can give: invite people, lower votes, or take back"
        )
    ).to_be_visible()
    await admin.go("/people")
    people: dict[str, Visitor] = {}
    for name, options in {"lea": DESKTOP, "tom": PHONE}.items():
        form = admin.part("Invite somebody")
        await form.get_by_label("Name", exact=True).fill(name)
        await form.get_by_label("Sums").check()
        await admin.named("Make a link").click()
        await admin.told(f"There is a link for {name}")
        await expect(form.get_by_alt_text(f"QR code of the link for {name}")).to_be_visible()
        link = await form.get_by_label(f"Link for {name}").input_value()
        people[name] = Visitor(await browser.new_context(**options), site, "led")
        await people[name].open(link.removeprefix(site.url))
        await people[name].page.wait_for_url("**/label/led")
        await admin.named("Done").click()

    await admin.go("/runs/led")
    out = admin.part("Hand out duels")
    for name in people:
        await out.get_by_label(name).check()
    await out.get_by_label("How much").fill(str(HANDED_OUT))
    await out.get_by_label("Unit").select_option("duels")
    await out.get_by_label("People for each duel").fill("2")
    await admin.named("Hand out").click()
    await admin.told(f"Handed out: lea {HANDED_OUT}, tom {HANDED_OUT}")

    await admin.named("Pause").click()
    await admin.told("Sums is paused")
    for person in people.values():
        await person.page.reload()
    await admin.named("Go on").click()
    await admin.told("Sums gives duels")
    await answer(people["lea"], HANDED_OUT, wrong_every=HANDED_OUT + 1, tap=False)
    await answer(people["tom"], HANDED_OUT, wrong_every=5, tap=True)
    await expect(admin.page.locator(".summary")).to_contain_text(f"{HANDED_OUT} answered")

    # Agreement; a duel is found by its text and given to one of them.
    quality = admin.part("Agreement and quality")
    await expect(quality).to_contain_text(f"on {HANDED_OUT} duels")
    await expect(quality.get_by_role("row", name="tom")).to_contain_text("80 %")
    await admin.part("Duels").get_by_label("Text").fill("add 150 to")
    await admin.page.get_by_role("button", name="How do I add 150 to").click()
    await expect(admin.dialog).to_contain_text("return x + 150")
    await admin.dialog.get_by_label("Only for").fill("tom")
    await admin.dialog.get_by_label("Votes needed").fill("1")
    await admin.named("Save").click()
    await admin.told("Saved; the duel is only for tom.")
    (listed,) = site.admin.get("/v1/runs/led/queries", params={"text": "add 150 to"}).json()["queries"]
    assert (listed["assigned"], listed["votes_needed"]) == (["tom"], 1)
    await admin.page.keyboard.press("Escape")

    # One of them is erased, by the name and not by another.
    await admin.go("/people")
    card = admin.page.get_by_role("listitem").filter(has=admin.page.get_by_role("heading", name="tom", exact=True))
    await card.get_by_role("button", name="Erase").click()
    await admin.dialog.get_by_label("Type “tom”").fill("lea")
    await admin.named("Erase this person").click()
    await expect(admin.dialog).to_contain_text("nothing was done")
    assert "tom" in {entry["annotator"] for entry in site.log("led")}
    await admin.dialog.get_by_label("Type “tom”").fill("tom")
    await admin.named("Erase this person").click()
    await admin.told(f"Erased: {HANDED_OUT} labels")
    assert [name for name in {entry["annotator"] for entry in site.log("led")} if not name.startswith("erased-")] == [
        "lea"
    ]

    # Export, and the end of the run.
    await admin.go("/runs/led")
    async with admin.page.expect_download() as download:
        await admin.page.get_by_role("link", name="Download").click()
    rows = [json.loads(line) for line in Path(await (await download.value).path()).read_text().splitlines()]
    assert len(rows) == HANDED_OUT - HANDED_OUT // 5  # where they disagree nobody has won
    assert all("Better" in row["chosen"] for row in rows)
    await admin.page.get_by_role("group", name="This run").get_by_role("button", name="Close").click()
    await admin.named("Close the run").click()
    await admin.told("Sums is closed")
    await expect(admin.part("Import duels")).to_contain_text("takes no more duels")
    await admin.named("Archive").click()
    await admin.told("Sums is archived")
    await admin.go()
    await expect(admin.page.get_by_role("link", name="Sums")).to_have_count(0)
    await admin.page.get_by_label("Show archived").check()
    await admin.page.get_by_role("link", name="Sums").click()
    await admin.named("Delete").click()
    await admin.dialog.get_by_label("Type “led” to go on").fill("led")
    await admin.named("Delete the run").click()
    await admin.page.wait_for_url("**/admin")
    assert site.admin.get("/v1/runs/led").status_code == httpx.codes.NOT_FOUND
    for person in people.values():
        await person.context.close()


async def test_a_bad_row_of_a_file_is_named_where_the_file_was_chosen(
    site: Site, run: str, office: Attend, tmp_path: Path
) -> None:
    admin = await office(f"/runs/{run}")
    admin.failures_expected = True
    part, file = admin.part("Import duels"), tmp_path / "bad.csv"
    file.write_text("prompt,first,second,gold\np,a,b,\np,c,d,third\n")
    await part.get_by_label("File, or drop it here").set_input_files(file)
    await admin.named("Import").click()
    await expect(part.get_by_role("alert")).to_contain_text("gold")
    await expect(part.get_by_role("alert")).to_contain_text("3")
    await part.get_by_label("File, or drop it here").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"x"}
    )
    await admin.named("Import").click()
    await expect(part.get_by_role("alert")).to_contain_text("notes.txt does not end in")
    assert site.admin.get(f"/v1/runs/{run}").json()["queries"] == 0


async def test_a_dropped_file_is_the_one_that_is_imported(site: Site, run: str, office: Attend) -> None:
    admin = await office(f"/runs/{run}")
    data = await admin.page.evaluate_handle(
        """() => { const data = new DataTransfer();
            data.items.add(new File(['[{"prompt": "p", "first": "a", "second": "b"}]'], "pairs.json")); return data }"""
    )
    await admin.page.locator(".drop").dispatch_event("drop", {"dataTransfer": data})
    await admin.named("Import").click()
    await admin.told("1 duel imported from pairs.json")
    assert site.admin.get(f"/v1/runs/{run}").json()["queries"] == 1


async def test_what_is_typed_selected_and_focused_stays_while_the_page_follows_the_service(
    site: Site, run: str, office: Attend
) -> None:
    site.post(run, 3)
    site.key("ann")
    admin = await office(f"/runs/{run}")
    part = admin.part("Hand out duels")
    await part.get_by_label("ann", exact=True).check()
    names = part.get_by_label("Other names")
    await names.fill("zoe")
    duel = admin.page.get_by_role("button", name="prompt 1", exact=True)
    await duel.focus()
    await admin.page.evaluate("document.getSelection().selectAllChildren(document.querySelector('.duels code'))")
    site.post(run, 1, start=3)
    site.key("ben")
    await admin.refreshed()
    assert await admin.page.evaluate("document.getSelection().toString()") == "k2"
    await expect(admin.page.locator(".summary")).to_contain_text("4 wait")
    await admin.page.evaluate("document.getSelection().removeAllRanges()")
    await expect(admin.page.get_by_role("button", name="prompt 3", exact=True)).to_be_visible()
    await expect(part.get_by_label("ben", exact=True)).to_be_visible()
    await expect(part.get_by_label("ann", exact=True)).to_be_checked()
    await expect(names).to_have_value("zoe")
    await expect(duel).to_be_focused()


async def test_a_whole_run_is_handed_to_somebody_and_taken_back(site: Site, run: str, office: Attend) -> None:
    site.post(run)
    for name in ("ann", "bob"):
        site.key(f"{run}-{name}")
    admin = await office(f"/runs/{run}")
    admin.failures_expected = True
    part = admin.part("Hand out duels")
    await part.get_by_label("Unit").select_option("the whole run")
    await expect(part.get_by_label("How much")).to_be_disabled()
    await part.get_by_label("Other names").fill("zoe")
    await admin.named("Hand out").click()
    await expect(part.get_by_role("alert")).to_contain_text("belongs to 'zoe'; the run is as it was")
    await part.get_by_label("Other names").fill("")
    await part.get_by_label(f"{run}-ann", exact=True).check()
    await admin.named("Hand out").click()
    await admin.told(f"The run is only for {run}-ann now.")
    await expect(part).to_contain_text(f"The whole run, later duels too, is only for {run}-ann.")
    await expect(admin.page.locator(".summary")).to_contain_text("1 person can answer")
    assert site.admin.get(f"/v1/runs/{run}").json()["assigned"] == [f"{run}-ann"]
    await admin.named("Take all back").first.click()
    await admin.dialog.get_by_role("button", name="Take all back").click()
    await admin.told("Every duel is for everybody again.")
    await expect(part.get_by_text("The whole run, later duels too")).to_be_hidden()
    assert site.admin.get(f"/v1/runs/{run}").json()["assigned"] == []


async def test_the_list_of_runs_is_one_request(site: Site, run: str, office: Attend) -> None:
    site.run(f"{run}-other")
    site.post(run, 2)
    admin = await office()
    await expect(admin.page.get_by_role("listitem").filter(has_text=run).first).to_contain_text("2 wait")
    asked = [path for _, path in admin.methods if path.startswith("/v1/")]
    assert set(asked) == {"/v1/runs"}


async def test_the_warning_of_stuck_duels_leads_to_them(site: Site, run: str, office: Attend) -> None:
    """From the list of runs, and on the page of the run whatever is filtered there."""
    site.post(run, 3)
    (stuck, *_) = site.admin.get(f"/v1/runs/{run}/queries", params={"text": "prompt 1"}).json()["queries"]
    site.admin.patch(f"/v1/queries/{stuck['id']}", json={"assigned": ["nobody"]}).raise_for_status()
    site.key("ann")
    admin = await office()
    card = admin.page.locator(".run-card").filter(has=admin.page.get_by_role("link", name=run, exact=True))
    await card.get_by_role("link", name="Show it").click()
    await admin.page.wait_for_url(f"**/admin/runs/{run}#stuck")
    listed, state = admin.page.locator(".duel-name"), admin.part("Duels").get_by_label("State")
    await expect(listed).to_have_text(["prompt 1"])
    await expect(state).to_be_focused()
    await expect(state).to_be_in_viewport()
    await state.select_option("open")
    await admin.part("Duels").get_by_label("Text").fill("prompt 2")
    await expect(listed).to_have_text(["prompt 2"])
    await admin.page.get_by_role("link", name="Show it").focus()
    await admin.page.keyboard.press("Enter")
    await expect(listed).to_have_text(["prompt 1"])
    await expect(state).to_have_value("stuck")
    await expect(state).to_be_focused()


async def test_a_duel_is_cancelled_opened_again_and_taken_back(site: Site, run: str, office: Attend) -> None:
    site.post(run)
    ann = httpx.Client(base_url=site.url, headers={"Authorization": f"Bearer {site.key('ann')}"})
    admin = await office(f"/runs/{run}")
    await admin.page.get_by_role("button", name="prompt 0").click()
    await admin.dialog.get_by_role("button", name="Cancel").click()
    await admin.told("Cancelled")
    assert ann.post(f"/v1/runs/{run}/leases", json={}).status_code == httpx.codes.NO_CONTENT
    await admin.dialog.get_by_role("button", name="Reopen").click()
    await admin.told("Open again")
    lease = ann.post(f"/v1/runs/{run}/leases", json={})
    assert lease.status_code == httpx.codes.CREATED
    await expect(admin.dialog).to_contain_text("ann has it")
    await admin.dialog.get_by_role("button", name="Take back").click()
    await admin.told("Taken back")
    (held,) = site.admin.get(f"/v1/queries/{lease.json()['query_id']}").json()["leases"]
    assert held["state"] != "live"
    ann.close()


async def test_a_duel_without_texts_cannot_be_changed(site: Site, run: str, office: Attend) -> None:
    site.post(run)
    admin = await office(f"/runs/{run}")
    await admin.page.get_by_role("button", name="prompt 0").click()
    await expect(admin.dialog.get_by_label("Votes needed")).to_be_visible()
    (duel, *_) = site.admin.get(f"/v1/runs/{run}/queries", params={"text": "prompt 0"}).json()["queries"]
    site.admin.post(f"/v1/queries/{duel['id']}/erase").raise_for_status()
    await expect(admin.dialog).to_contain_text("Its texts are erased.")
    await expect(admin.dialog.get_by_label("Votes needed")).to_be_hidden()


async def test_who_may_not_do_everything_sees_only_their_runs_and_no_people(
    site: Site, run: str, visit: Visit, office: Attend
) -> None:
    site.run(f"{run}-other")
    key = site.key("script", "experiment", runs=[run])
    own = await office(key=key)
    await expect(own.page.get_by_role("link", name=run, exact=True)).to_be_visible()
    await expect(own.page.get_by_role("link", name=f"{run}-other")).to_have_count(0)
    await expect(own.page.get_by_role("link", name="People")).to_have_count(0)
    own.failures_expected = True
    for path, status in {"/people": 403, f"/runs/{run}-other": 404, f"/runs/{run}": 200}.items():
        answer = await own.context.request.get(f"{site.url}/admin{path}", max_redirects=0)
        assert answer.status == status, path
    await own.go(f"/runs/{run}")
    await own.named("Pause").click()
    await own.told("is paused")
    await expect(own.page.get_by_role("button", name="Erase texts")).to_have_count(0)
    ann = await visit(run)
    await expect(ann.page.get_by_role("link", name="Admin")).to_have_count(0)
    assert (await ann.context.request.get(f"{site.url}/admin")).status == httpx.codes.FORBIDDEN
    nobody = httpx.get(f"{site.url}/admin/runs/{run}")
    assert nobody.headers["location"] == f"/sign-in?next=/admin/runs/{run}"


async def test_an_admin_of_some_runs_does_everything_there_and_sees_no_people(
    site: Site, run: str, office: Attend
) -> None:
    own = await office(f"/runs/{run}", key=site.key("lead", "admin", runs=[run]))
    await expect(own.page.get_by_role("button", name="Erase texts")).to_be_visible()
    await expect(own.page.locator("#trouble")).to_be_hidden()
    await expect(own.page.get_by_role("link", name="People")).to_have_count(0)
    refused = await own.context.request.get(f"{site.url}/admin/people")
    assert refused.status == httpx.codes.FORBIDDEN
    assert "Your key is for some runs" in await refused.text()


async def test_a_key_is_made_shown_once_and_ended(site: Site, office: Attend) -> None:
    admin = await office("/people")
    part = admin.part("Other keys")
    await part.get_by_text("New key").click()
    await part.get_by_label("Name of the key").fill("a script")
    await part.get_by_label("read: ").check()
    await admin.named("Make a key").click()
    await admin.told("There is a key a script")
    secret = await part.get_by_label("Key a script").input_value()
    headers = {"Authorization": f"Bearer {secret}"}
    assert httpx.get(f"{site.url}/v1/runs", headers=headers).status_code == httpx.codes.OK
    await admin.page.reload()
    await expect(admin.page.get_by_text(secret)).to_have_count(0)
    await part.get_by_role("listitem").filter(has_text="a script").get_by_role("button", name="End").click()
    await admin.named("End the key").click()
    await admin.told("The key a script has ended")
    assert httpx.get(f"{site.url}/v1/runs", headers=headers).status_code == httpx.codes.UNAUTHORIZED


async def test_a_service_that_is_away_is_told_and_followed_again(site: Site, run: str, office: Attend) -> None:
    admin = await office(f"/runs/{run}")
    await expect(admin.page.locator(".summary")).to_be_visible()
    admin.failures_expected = True
    await admin.page.route("**/v1/**", lambda route: route.abort())
    await expect(admin.page.locator("#trouble")).to_contain_text("The service does not answer")
    await admin.page.unroute("**/v1/**")
    site.post(run, 1)
    await expect(admin.page.locator(".summary")).to_contain_text("1 wait")
    await expect(admin.page.locator("#trouble")).to_be_hidden()
