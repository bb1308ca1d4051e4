"""The service below a path of its host, behind real proxies with TLS that leave the path or take it away."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from dashboard.runs import append, make_run, row
from playwright.async_api import Browser, expect
from service.pages.browsing import SECONDS, Site, Visitor, serve_changed
from service.pages.proxies import FORGETTING, KINDS, STRIPPING, Below

pytestmark = pytest.mark.anyio

WAYS = [(kind, strips) for kind in KINDS for strips in (False, True)]
BROWSER = {"ignore_https_errors": True}  # nobody vouches for the certificate
BUFFERING = (
    ("proxy_buffering off;", "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering; proxy_buffers 8 64k;"),
)


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]}-{'strips' if way[1] else 'leaves'}")
def below(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Below]:
    """A service with a dashboard of one run, at /feedback of a proxy that leaves the path or takes it away."""
    kind, strips = request.param
    folder = tmp_path_factory.mktemp("below")
    make_run(folder / "runs" / "shown", rounds=2)
    site = Below(folder, ("--runs", folder / "runs"), kind, STRIPPING[kind] if strips else ())
    site.run("run")
    yield site
    site.end()


async def test_a_person_signs_in_answers_and_signs_out(below: Below, browser: Browser) -> None:
    below.post("run")
    ann = Visitor(await browser.new_context(**BROWSER), below, "run")
    await ann.open()
    assert ann.page.url == f"{below.url}/sign-in?next=/feedback/label/run"
    await ann.sign_in(below.key("ann"))
    assert (await ann.shown())[0] == "prompt 0"
    (cookie,) = await ann.context.cookies()
    assert (cookie["path"], cookie["secure"], cookie["sameSite"]) == ("/feedback", True, "Strict")
    await ann.press("t")
    await ann.nothing_left()
    assert below.outcomes("run")["k0"] == "tie"
    below.post("run", start=1)  # the page waits for it, through the proxy
    assert (await ann.shown())[0] == "prompt 1"
    await ann.press("b")
    await ann.nothing_left()
    await ann.page.get_by_role("link", name="sea-agent").click()
    await ann.page.locator("[data-run=run]").click()
    await ann.page.wait_for_url(f"{below.url}/label/run")
    await ann.button("Sign out").click()
    await ann.page.wait_for_url(f"{below.url}/sign-in")
    assert await ann.context.cookies() == []
    outside = {path for _, path in ann.methods if not path.startswith("/feedback/")}
    assert outside == set(), "something was asked for beside the sub-path"
    await ann.context.close()
    ann.check()


async def test_the_dashboard_loads_and_gets_news(below: Below, browser: Browser) -> None:
    kim = Visitor(await browser.new_context(**BROWSER), below, "run", failures_expected=True)
    await kim.open("/dashboard/")
    await kim.page.locator("#message a").click()  # nobody is signed in yet
    await kim.sign_in(below.key("kim", "read"))
    await kim.page.wait_for_url(f"{below.url}/dashboard/")
    await expect(kim.page.locator("#run option")).to_have_count(1)
    await expect(kim.page.locator("#live")).to_have_class("live live")
    await expect(kim.page.locator("#annotators select")).to_have_value("run")
    before = await kim.page.locator("#throughput .note").inner_text()
    append(below.folder / "runs" / "shown", row(3, 24, 0.7))
    await expect(kim.page.locator("#throughput .note")).not_to_have_text(before)
    outside = {path for _, path in kim.methods if not path.startswith("/feedback/")}
    assert outside == set(), "something was asked for beside the sub-path"
    await kim.context.close()
    kim.check()


def events(site: Below, run: str, seconds: float = SECONDS) -> list[str]:
    """The first event of a log, and the one after an answer that was given in between."""
    key, found = site.key("reader", "experiment", "annotate"), []
    headers = {"Authorization": f"Bearer {key}"}
    with (
        httpx.Client(base_url=site.url, headers=headers, verify=False, timeout=seconds) as client,
        client.stream("GET", f"/v1/runs/{run}/events") as stream,
    ):
        for line in stream.iter_lines():
            if not line.startswith("data: "):
                continue
            found.append(line)
            if len(found) == 2:
                break
            site.post(run)
            lease = client.post(f"/v1/runs/{run}/leases", json={}).json()["lease_id"]
            assert client.put(f"/v1/leases/{lease}/label", json={"outcome": "tie"}).status_code == 201
    return found


def test_events_arrive_one_by_one(below: Below) -> None:
    assert events(below, below.run("told")) == ['data: {"seq": 0}', 'data: {"seq": 1}']


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind == "nginx"])
def test_events_that_a_proxy_holds_back_are_missed(kind: str, tmp_path: Path) -> None:
    site = Below(tmp_path, (), kind, BUFFERING)
    with pytest.raises(httpx.ReadTimeout):
        events(site, site.run("told"), seconds=2)
    site.end()


def test_what_is_asked_without_the_end_of_the_path_is_led_to_it(below: Below) -> None:
    with httpx.Client(verify=False, follow_redirects=True, timeout=SECONDS) as client:
        for path, leads in (("", "/sign-in"), ("/", "/sign-in"), ("/label", "/sign-in"), ("/dashboard", "/dashboard/")):
            assert str(client.get(f"{below.url}{path}").url).partition("?")[0] == f"{below.url}{leads}"
        document = client.get(f"{below.url}/v1/openapi.json").json()
        assert {"url": "/feedback"} in document["servers"]
        assert client.head(f"{below.url}/healthz").status_code == 200


@pytest.mark.parametrize("header", ["Host", "X-Forwarded-Proto"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_header_that_is_not_passed_on_is_named_on_the_page(
    kind: str, header: str, tmp_path: Path, browser: Browser
) -> None:
    site = Below(tmp_path, (), kind, FORGETTING[kind, header])
    ann = Visitor(await browser.new_context(**BROWSER), site, "run", failures_expected=True)
    await ann.open("/sign-in")
    await ann.sign_in(site.key("ann"))
    await ann.says(f"The page came from {site.proxy.url}, but this service was reached as", "[role=alert]")
    await ann.says(f": let the proxy pass on the header {header}.", "[role=alert]")
    await ann.context.close()
    site.end()


# --- two services of one host ----------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Site, Below]]:
    """Two services with a run of the same name, at /other and /feedback of one proxy."""
    (tmp_path / "other").mkdir()
    other = Site(tmp_path / "other", ("--root-path", "/other"))
    handle = f"\thandle /other/* {{\n\t\treverse_proxy 127.0.0.1:{other.process.port}\n\t}}\n"
    below = Below(tmp_path, (), "caddy", (("\tredir /feedback /feedback/\n", handle),))
    for site in (other, below):
        site.post(site.run("run"))
    yield other, below
    below.end()
    other.process.end()


async def answered_offline(two: tuple[Site, Below], ann: Visitor) -> None:
    """Sign in to both services, answer a duel of /feedback that is not sent, and go to the page of the other one."""
    other, below = two
    await ann.open()
    await ann.sign_in(below.key("ann"))
    await ann.ready()
    await ann.page.goto(f"{below.proxy.url}/other/label/run")
    await ann.sign_in(other.key("ann"))
    await ann.ready()
    await ann.page.goto(f"{below.url}/label/run")  # still signed in there
    await ann.page.route("**/feedback/v1/**", lambda route: route.abort())
    await ann.press("t")
    await ann.says("Offline: 1 answer waiting")
    ann.methods.clear()
    await ann.page.goto(f"{below.proxy.url}/other/label/run")


async def test_two_services_of_one_host_share_neither_session_nor_answers(
    two: tuple[Site, Below], browser: Browser
) -> None:
    other, below = two
    ann = Visitor(await browser.new_context(**BROWSER), below, "run", failures_expected=True)
    await answered_offline(two, ann)
    await ann.ready()
    await ann.press("b")
    await ann.nothing_left()
    assert other.outcomes("run") == {"k0": "both_bad"}
    await ann.page.unroute_all()
    await ann.page.goto(f"{below.url}/label/run")
    await ann.nothing_left()
    assert below.outcomes("run") == {"k0": "tie"}
    await ann.button("Sign out").click()
    await ann.page.wait_for_url(f"{below.url}/sign-in")
    await ann.page.goto(f"{below.proxy.url}/other/label/run")
    await ann.says("Nothing to answer now", "#panel")  # not signed out there
    await ann.context.close()
    ann.check()


async def test_with_one_name_for_what_two_services_keep_an_answer_goes_to_the_wrong_one(
    two: tuple[Site, Below], browser: Browser
) -> None:
    ann = Visitor(await browser.new_context(**BROWSER), two[1], "run", failures_expected=True)
    await serve_changed(ann.context, "place.js", ("${ROOT && `:${encodeURIComponent(ROOT)}`}", ""))
    await answered_offline(two, ann)
    await ann.says("was not taken", "#notices")
    await ann.context.close()
