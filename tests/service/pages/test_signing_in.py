"""Signing in to the pages and out again, and what they show to whom."""

import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Dialog
from service.conftest import ORIGIN, Running, start
from service.pages.browsing import Site, Visitor, serve_changed
from service.pages.conftest import Visit

pytestmark = pytest.mark.anyio


async def test_a_wrong_key_is_refused_and_the_right_one_leads_back(site: Site, run: str, browser: Browser) -> None:
    site.post(run)
    ann = Visitor(await browser.new_context(), site, run, failures_expected=True)
    await ann.open()
    for wrong in ("sea_wrong", site.key("ann")[:-1]):
        await ann.sign_in(wrong)
        await ann.says("This key is unknown or has ended.", "[role=alert]")
        assert await ann.context.cookies() == []
    await ann.sign_in(f" {site.key('ann')} ")  # as it is when it was copied carelessly
    assert (await ann.shown())[0] == "prompt 0"
    assert ann.page.url == f"{site.url}/label/{run}"
    (cookie,) = await ann.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert await ann.page.evaluate("document.cookie") == ""
    await ann.context.close()
    ann.check()


def link(site: Site, name: str, **body: Any) -> str:
    """A link that signs somebody in."""
    made = site.admin.post("/v1/people", json={"annotator": name, **body}).raise_for_status().json()
    return str(made["link"])


async def test_a_link_signs_in_and_leaves_no_key_behind(site: Site, run: str, browser: Browser) -> None:
    site.post(run)
    ann = Visitor(await browser.new_context(), site, run)
    address = link(site, "ann", runs=[run], run=run)
    key = address.partition("#key=")[2]
    await ann.open()  # the sign-in page, which has a history
    asked: list[str] = []
    ann.page.on("request", lambda request: asked.append(f"{request.url} {request.headers.get('referer', '')}"))
    await ann.page.goto(address)
    assert (await ann.shown())[0] == "prompt 0"
    assert ann.page.url == f"{site.url}/label/{run}"
    assert key.startswith("sea_")
    assert key not in "\n".join(asked), "it is sent in the form's body only"
    for _ in range(2):
        await ann.page.go_back()
        assert key not in ann.page.url
    await ann.page.goto(address)
    assert (await ann.shown())[0] == "prompt 0", "it can be opened again"
    await ann.page.locator(".who", has_text="ann").wait_for()
    await ann.context.close()
    ann.check()


async def test_a_link_signs_in_somebody_else_in_the_same_tab(site: Site, run: str, visit: Visit) -> None:
    ann = await visit(run)
    await ann.page.goto(f"{site.url}/sign-in?next=/label/{run}")
    await ann.page.goto(link(site, "bob", run=run))
    await ann.page.locator(".who", has_text="bob").wait_for()


async def test_a_link_that_was_ended_says_so(site: Site, run: str, browser: Browser) -> None:
    carl = Visitor(await browser.new_context(), site, run, failures_expected=True)
    address = link(site, "carl", run=run)
    site.admin.post("/v1/people/carl/end").raise_for_status()
    await carl.open()
    await carl.page.goto(address)
    await carl.says("This key is unknown or has ended.", "[role=alert]")
    assert "#" not in carl.page.url
    await carl.context.close()
    carl.check()


async def test_without_the_script_the_key_would_stay_in_the_address(site: Site, run: str, browser: Browser) -> None:
    """The control of what is asked about the address above."""
    dora = Visitor(await browser.new_context(), site, run)
    changes = (("history.replaceState", "void"), ('field.form.querySelector("button").click()', ""))
    await serve_changed(dora.context, "sign_in.js", *changes)
    await dora.open()
    address = link(site, "dora", run=run)
    await dora.page.goto(address)
    await dora.page.wait_for_function("document.getElementById('key').value")  # the script has run
    assert dora.page.url == address
    await dora.context.close()
    dora.check()


async def test_signing_out_ends_the_session_for_good(site: Site, run: str, visit: Visit) -> None:
    ann = await visit(run)
    cookies = await ann.context.cookies()
    await ann.button("Sign out").click()
    await ann.page.wait_for_url("**/sign-in")
    assert await ann.context.cookies() == []
    stolen: Any = {cookie["name"]: cookie["value"] for cookie in cookies}
    assert httpx.get(f"{site.url}/v1/runs", cookies=stolen, timeout=60).status_code == 401
    await ann.page.goto(f"{site.url}/label/{run}")
    await ann.page.wait_for_url("**/sign-in?next=/label/*")


async def test_signing_out_asks_first_while_an_answer_waits(site: Site, run: str, visit: Visit) -> None:
    site.post(run)
    ann = await visit(run)
    ann.failures_expected = True
    asked: list[str] = []

    async def stay(dialog: Dialog) -> None:
        asked.append(dialog.message)
        await dialog.dismiss()

    ann.page.on("dialog", stay)
    await ann.page.route("**/v1/**", lambda route: route.abort())
    await ann.press("t")
    await ann.says("Offline: 1 answer waiting")
    await ann.button("Sign out").click()
    assert [message.split(".")[0] for message in asked] == ["Some answers are not saved yet"]
    await ann.page.unroute_all()
    await ann.says("Saved")
    assert site.outcomes(run) == {"k0": "tie"}


async def test_a_link_from_elsewhere_finds_the_session(site: Site, run: str, visit: Visit) -> None:
    """A browser withholds the cookie from the first request that such a link makes."""
    site.post(run)
    ann = await visit(run)
    link = f"<a href='{site.url}/label/{run}'>Please answer</a>"
    await ann.page.route("http://mail.test/", lambda route: route.fulfill(body=link, content_type="text/html"))
    await ann.page.goto("http://mail.test/")
    ann.hosts.clear()
    await ann.page.get_by_text("Please answer").click()
    assert (await ann.shown())[0] == "prompt 0"


async def test_the_list_has_the_runs_of_the_key_and_no_other(site: Site, visit: Visit) -> None:
    mine, other = site.run("mine", name="<i>Mine</i>"), site.run("other")
    site.post(mine)
    ann = await visit(mine, key=site.key("ann", runs=[mine]))
    await ann.page.goto(f"{site.url}/label")
    assert await ann.page.locator("[data-run] h2").all_inner_texts() == ["<i>Mine</i>"]
    await ann.page.get_by_role("link", name="<i>Mine</i>").click()
    assert (await ann.shown())[0] == "prompt 0"
    ann.failures_expected = True
    await ann.page.goto(f"{site.url}/label/{other}")
    await ann.says("No such run", "h1")


async def test_a_link_that_came_before_the_run_shows_it_once_it_begins(site: Site, visit: Visit) -> None:
    ann = await visit(site.run("begun"), key=site.key("ann", runs=["late", "begun"]))
    await ann.page.clock.install()
    ann.failures_expected = True
    await ann.page.goto(f"{site.url}/label/late")
    await ann.says("No such run", "h1")
    site.post(site.run("late"))
    await ann.page.clock.fast_forward("00:11")
    assert (await ann.shown())[0] == "prompt 0"


async def test_a_page_that_waits_for_a_run_outlives_a_service_that_is_gone(site: Site, visit: Visit) -> None:
    """In its place a proxy has a page of its own, which never looks again."""
    ann = await visit(site.run("begun"), key=site.key("ann", runs=["later", "begun"]))
    await ann.page.clock.install()
    ann.failures_expected = True
    await ann.page.goto(f"{site.url}/label/later")
    await ann.says("No such run", "h1")
    await ann.page.route("**/label/later", lambda route: route.fulfill(status=502, body="Bad Gateway"))
    for _ in range(2):
        async with ann.page.expect_response(lambda response: response.status == 502):
            await ann.page.clock.fast_forward("00:11")
    await ann.page.unroute_all()
    site.post(site.run("later"))
    await ann.page.clock.fast_forward("00:11")
    assert (await ann.shown())[0] == "prompt 0"


async def test_an_empty_list_shows_a_run_once_there_is_one(site: Site, visit: Visit) -> None:
    ann = await visit("second", key=site.key("ann", runs=["second"]))
    ann.failures_expected = True  # its page is not there yet
    await ann.page.clock.install()
    await ann.page.goto(f"{site.url}/label")
    assert await ann.page.locator("[data-run]").count() == 0
    site.run("second", name="Second")
    await ann.page.clock.fast_forward("00:11")
    await ann.page.get_by_role("link", name="Second").wait_for()


# --- without a browser -----------------------------------------------------------------------------------------------


async def browser_of(service: Running, *scopes: str, origin: str = ORIGIN) -> httpx.AsyncClient:
    """A client that is signed in on the pages with a key of these scopes."""
    _, secret = await service.state.keyring.make("ann", frozenset(scopes))
    client = await service.client()
    form = {"key": secret, "next": "/label"}
    answer = await client.post(f"{origin}/sign-in", data=form, headers={"Origin": origin})
    assert answer.status_code == 303
    return client


async def test_the_cookie_is_for_encrypted_connections_where_there_are_any(sqlite_service: Running) -> None:
    await browser_of(sqlite_service, "annotate")
    for scheme, secure in (("http", False), ("https", True)):
        origin = f"{scheme}://service.test"
        client = await browser_of(sqlite_service, "annotate", origin=origin)
        (cookie,) = client.cookies.jar
        assert cookie.secure is secure


@pytest.mark.parametrize("path", ["/sign-in", "/sign-out"])
@pytest.mark.parametrize("origin", [None, "null", "https://elsewhere.test", f"{ORIGIN}.evil.test"])
async def test_a_foreign_page_signs_nobody_in_or_out(sqlite_service: Running, path: str, origin: str | None) -> None:
    client = await browser_of(sqlite_service, "annotate")
    _, secret = await sqlite_service.state.keyring.make("eve", frozenset({"annotate"}))
    headers = {} if origin is None else {"Origin": origin}
    answer = await client.post(path, data={"key": secret, "next": "/label"}, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert (await client.get("/label")).status_code == 200  # still signed in, and as before
    assert ">ann<" in (await client.get("/label")).text


async def test_signing_in_again_ends_the_session_before(sqlite_service: Running) -> None:
    client = await browser_of(sqlite_service, "annotate")
    before = dict(client.cookies)
    _, secret = await sqlite_service.state.keyring.make("bob", frozenset({"annotate"}))
    await client.post("/sign-in", data={"key": secret, "next": "/label"}, headers={"Origin": ORIGIN})
    other = await sqlite_service.client()
    other.cookies.update(before)
    assert (await other.get("/v1/runs")).status_code == 401
    assert (await client.get("/v1/runs")).status_code == 200


@pytest.mark.parametrize(
    "elsewhere", ["//evil.test", "/\\evil.test", "https://evil.test", "/\t/evil.test", "/label\r\nX: y", "evil", ""]
)
async def test_signing_in_never_leads_elsewhere(sqlite_service: Running, elsewhere: str) -> None:
    client = await sqlite_service.client()
    form = {"key": sqlite_service.admin.headers["authorization"].removeprefix("Bearer "), "next": elsewhere}
    answer = await client.post("/sign-in", data=form, headers={"Origin": ORIGIN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/label")
    asked = await client.get("/sign-in", params={"next": elsewhere})
    assert 'name="next" value="/label"' in asked.text
    assert (await client.get("/sign-in", params={"next": "/label/a-b?x=1"})).text.count('value="/label/a-b?x=1"') == 1


async def test_what_is_not_for_a_reader_is_told_on_a_page(sqlite_service: Running) -> None:
    await sqlite_service.run()
    nobody = await sqlite_service.client()
    assert (await nobody.get("/")).headers["location"] == "/label"
    assert (await nobody.get("/label/run")).headers["location"] == "/sign-in?next=/label/run"
    reader, annotator = await browser_of(sqlite_service, "read"), await browser_of(sqlite_service, "annotate")
    for client, path, status, told in (
        (reader, "/label", 403, "scope annotate"),
        (reader, "/label/run", 403, "scope annotate"),
        (annotator, "/label/missing", 404, "There is no such run yet"),
        (annotator, "/label/a%00b", 404, "There is no such run yet"),
        (annotator, "/label/run", 200, "First is better"),
    ):
        answer = await client.get(path)
        assert (answer.status_code, told in answer.text) == (status, True), path
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["cache-control"] == "no-store"
        assert "unsafe" not in answer.headers["content-security-policy"]


async def test_whoever_cannot_answer_is_led_to_what_their_key_is_for(sqlite_service: Running, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        beside = await start(stack, f"sqlite:///{tmp_path / 'beside.sqlite'}", runs=tmp_path)
        for service, scopes, restricted, wanted, led in (
            (sqlite_service, ["read"], None, "/label", "/your-key"),
            (sqlite_service, ["experiment"], None, "/label/run", "/admin"),
            (sqlite_service, ["annotate"], None, "/label/run", "/label/run"),
            (sqlite_service, ["admin"], None, "/label", "/label"),
            (beside, ["read"], None, "/label", "/dashboard/"),
            (beside, ["read"], None, "/dashboard/runs/x", "/dashboard/runs/x"),
            (beside, ["read"], frozenset({"run"}), "/label", "/dashboard/"),
        ):
            _, secret = await service.state.keyring.make("key", frozenset(scopes), runs=restricted)
            client = await service.client()
            form = {"key": secret, "next": wanted}
            answer = await client.post("/sign-in", data=form, headers={"Origin": ORIGIN})
            assert (answer.status_code, answer.headers["location"]) == (303, led)


async def test_the_page_of_a_key_says_what_it_is_for_and_leads_there(sqlite_service: Running) -> None:
    await sqlite_service.run("mine")
    await sqlite_service.run("other")
    _, secret = await sqlite_service.state.keyring.make("eve", frozenset({"read"}), runs=frozenset({"mine"}))
    client = await sqlite_service.client()
    await client.post("/sign-in", data={"key": secret}, headers={"Origin": ORIGIN})
    shown = await client.get("/your-key")
    assert shown.status_code == 200
    assert "reads labels" in shown.text
    assert "posts duels" not in shown.text
    links = re.findall(r'href="(/v1/[^"]+)"', shown.text)
    assert len(links) == 4
    assert {(await client.get(link)).status_code for link in links} == {200}
    assert "other" not in shown.text
    nobody = await sqlite_service.client()
    assert (await nobody.get("/your-key")).headers["location"] == "/sign-in?next=/your-key"


async def test_who_may_only_read_is_shown_to_the_dashboard_where_there_is_one(
    sqlite_service: Running, tmp_path: Path
) -> None:
    reader = await browser_of(sqlite_service, "read")
    assert "/dashboard/" not in (await reader.get("/label")).text, "there is none"
    async with AsyncExitStack() as stack:
        beside = await start(stack, f"sqlite:///{tmp_path / 'beside.sqlite'}", runs=tmp_path)
        for scopes, shown in ((("read",), True), (("experiment",), True), (("annotate",), False)):
            client = await browser_of(beside, *scopes)
            assert ('href="/dashboard/"' in (await client.get("/label")).text) is shown


async def test_a_browser_keeps_static_files_and_asks_whether_they_have_changed(sqlite_service: Running) -> None:
    nobody = await sqlite_service.client()
    first = await nobody.get("/static/duel.js")
    assert (first.status_code, first.headers["cache-control"]) == (200, "no-cache")
    again = await nobody.get("/static/duel.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["cache-control"]) == (304, b"", "no-cache")
    assert (await nobody.get("/static/../app.py")).status_code == 404
    assert (await nobody.get("/static/%2e%2e/app.py")).status_code == 404
