"""Below a path of the host: both kinds of proxies, addresses that stay below it, and whose word is believed."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from service.conftest import ORIGIN, Running, start
from service.processes import GIVEN_KEY, SECONDS, Process
from service.test_serve import refusal

from sea_agent.errors import UserError
from sea_agent.service import pages
from sea_agent.service.app import make_app
from sea_agent.service.settings import Settings
from sea_agent.web.listening import proxy_network
from sea_agent.web.subpath import sub_path

ROOT = "/feedback"
SERVICE = Path(pages.__file__).parent


@pytest.fixture
async def below(tmp_path: Path) -> AsyncIterator[Running]:
    """A service below /feedback, with a dashboard."""
    async with AsyncExitStack() as stack:
        url = f"sqlite:///{tmp_path / 'feedback.sqlite'}"
        yield await start(stack, url, root_path=ROOT, runs=tmp_path)


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("prefix", [ROOT, ""], ids=["left", "stripped"])
async def test_everything_answers_whether_the_proxy_leaves_the_path_or_takes_it_away(
    prefix: str, below: Running
) -> None:
    await below.run()
    paths = ["/label", "/label/run", "/sign-in", "/chat", "/live", "/healthz", "/v1/runs"]
    for path in (*paths, "/static/duel.js", "/static/diff.js", "/static/chat/main.js", "/static/live/main.js"):
        answer = await below.admin.get(f"{prefix}{path}")
        assert answer.status_code in (200, 303), path
        assert answer.headers.get("location", f"{ROOT}/").startswith(f"{ROOT}/")
    for path in ("/dashboard/", "/dashboard/static/api.js", "/dashboard/api/runs"):
        assert (await below.admin.get(f"{prefix}{path}")).status_code == 200
    assert (await below.admin.get(f"{prefix}/label/run")).headers["location"] == f"{ROOT}/sign-in?next={ROOT}/label/run"
    assert (await below.admin.get(f"{prefix}/feedbackfoo")).status_code == 404


async def browser_of(service: Running, *scopes: str) -> httpx.AsyncClient:
    """A client that is signed in on the pages below the path."""
    _, secret = await service.state.keyring.make("ann", frozenset(scopes))
    client = await service.client()
    client.headers["Origin"] = ORIGIN
    answer = await client.post(f"{ROOT}/sign-in", data={"key": secret})
    first = "/label" if "annotate" in scopes else "/dashboard/"
    assert (answer.status_code, answer.headers["location"]) == (303, f"{ROOT}{first}")
    return client


@pytest.mark.anyio
async def test_the_cookie_is_for_the_sub_path_and_ends_there(below: Running) -> None:
    client = await browser_of(below, "annotate")
    (cookie,) = client.cookies.jar
    assert cookie.path == ROOT
    answer = await client.post(f"{ROOT}/sign-out")
    assert answer.headers["location"] == f"{ROOT}/sign-in"
    assert f"Path={ROOT}" in answer.headers["set-cookie"]
    assert list(client.cookies.jar) == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    "elsewhere",
    ["/label", "/other/label", "/feedbacks", f"{ROOT}/../other", f"{ROOT}/%2e%2E/other", f"{ROOT}/./..", "//evil.test"],
)
async def test_signing_in_never_leads_out_of_the_sub_path(elsewhere: str, below: Running) -> None:
    client = await below.client()
    form = {"key": below.admin.headers["authorization"].removeprefix("Bearer "), "next": elsewhere}
    answer = await client.post(f"{ROOT}/sign-in", data=form, headers={"Origin": ORIGIN})
    assert (answer.status_code, answer.headers["location"]) == (303, f"{ROOT}/label")
    form["next"] = f"{ROOT}/label/a..b?x=../y"
    answer = await client.post(f"{ROOT}/sign-in", data=form, headers={"Origin": ORIGIN})
    assert answer.headers["location"] == form["next"]


def test_two_services_of_one_host_have_two_cookies_where_their_databases_are_called_the_same() -> None:
    names = {Settings(root_path=path).cookie for path in ("", "/one", "/two")}
    assert len(names) == 3
    assert Settings().cookie_path == "/"


@pytest.mark.parametrize("path", ["feedback", "/a b", "//a", "/a//b", "/a/../b", "/.", "/ä", "/a?b", 'https://x/"'])
def test_what_is_no_path_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a path such as /feedback"):
        sub_path(path)


def test_a_slash_at_the_end_and_nothing_else_is_taken_away() -> None:
    assert [sub_path(path) for path in ("", "/", "/a/", "/a/b.c", "/..a")] == ["", "", "/a", "/a/b.c", "/..a"]


@pytest.mark.parametrize("path", ["/label", "/static/x", "/v1"])
def test_a_path_that_a_request_could_mean_twice_is_refused(path: str) -> None:
    with pytest.raises(UserError, match="is a path of the service itself"):
        make_app(Settings(root_path=path))


def test_the_command_line_refuses_them_before_anything_is_opened(tmp_path: Path) -> None:
    assert "--root-path feedback: expected a path" in refusal("--root-path", "feedback", cwd=tmp_path)
    assert "--proxy nginx: expected an address" in refusal("--proxy", "nginx", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- addresses in pages and scripts ----------------------------------------------------------------------------------

ABSOLUTE = (
    re.compile(r"""(?:href|src|action|content)\s*=\s*["'](?:\d+; url=)?/(?!/)"""),
    re.compile(r"""(?:fetch|open|assign|replace|EventSource|import)\(\s*["'`]/"""),
    re.compile(r"""location(?:\.href)?\s*=\s*["'`]/"""),
    re.compile(r"""(?:href|src|action):\s*["'`]/"""),
    re.compile(r"""url\(["']?/"""),
    re.compile(r"""RedirectResponse\(f?["']/"""),
)
"""An address that begins at the top of the host. Scripts get theirs of ``at``, templates begin with ``root``."""


def absolute_addresses(text: str) -> Iterator[str]:
    return (found.group() for pattern in ABSOLUTE for found in pattern.finditer(text))


def test_no_page_script_or_style_names_an_address_from_the_top_of_the_host() -> None:
    files = [
        *(path for ending in ("html", "js", "css") for path in SERVICE.rglob(f"*.{ending}")),
        *SERVICE.glob("**/*.py"),
    ]
    assert {path.name: found for path in files if (found := list(absolute_addresses(path.read_text())))} == {}


@pytest.mark.parametrize(
    "line",
    [
        '<a href="/label">',
        "<form action='/sign-out'>",
        '<script src="/static/x.js">',
        '<meta http-equiv="refresh" content="0; url=/label">',
        'fetch("/v1/runs")',
        "fetch(`/v1/runs/${run}`)",
        'location.assign("/label")',
        'location.href = "/label"',
        "way = { text, href: `/sign-in?next=${path}` };",
        "background: url(/static/x.svg)",
        'return RedirectResponse("/label", 303)',
    ],
)
def test_an_address_from_the_top_of_the_host_is_found(line: str) -> None:
    assert list(absolute_addresses(line))


@pytest.mark.anyio
async def test_what_pages_link_to_is_below_the_path_and_there(below: Running) -> None:
    await below.run("run", name="Run")
    seen = set()
    for scope in ("annotate", "read"):
        client = await browser_of(below, scope)
        for path in ("/sign-in", "/label", "/label/run", "/label/missing"):
            page = (await client.get(f"{ROOT}{path}")).text
            seen |= set(re.findall(r' (?:href|src|action)="([^"]+)"', page))
    assert {address for address in seen if not address.startswith(f"{ROOT}/")} == set()
    assert {f"{ROOT}/sign-in", f"{ROOT}/sign-out", f"{ROOT}/label/run", f"{ROOT}/dashboard/"} <= seen
    reader = await browser_of(below, "annotate")
    for address in sorted(seen):
        assert (await reader.get(address)).status_code in (200, 303, 405), address


@pytest.mark.anyio
@pytest.mark.parametrize("prefix", [ROOT, ""], ids=["left", "stripped"])
async def test_the_link_of_somebody_who_is_invited_opens_the_sign_in_page(prefix: str, below: Running) -> None:
    made = (await below.admin.post(f"{prefix}/v1/people", json={"annotator": "ann", "run": "run"})).json()
    place, _, key = made["link"].partition("#key=")
    assert (place, key) == (f"{ORIGIN}{ROOT}/sign-in?next={ROOT}/label/run", made["key"])
    assert (await (await below.client()).get(place)).status_code == 200


# --- whose word is believed ------------------------------------------------------------------------------------------

PAGE = "https://labels.example"


def sign_in(service: Process, source: str, **headers: str) -> httpx.Response:
    """Sign in through a proxy at the address ``source``, which passes on ``headers``."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address=source), timeout=SECONDS) as proxy:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return proxy.post(f"{service.url}/sign-in", data={"key": GIVEN_KEY}, headers={"Origin": PAGE, **headers})


def test_only_proxies_that_are_named_are_believed(serve: Callable[..., Process]) -> None:
    passed = {"Host": "labels.example", "X_Forwarded_Proto": "https"}
    service = serve(key=GIVEN_KEY)
    assert sign_in(service, "127.0.0.1", **passed).status_code == 303, "this machine is believed"
    refused = sign_in(service, "127.0.0.2", **passed)
    assert refused.status_code == 403
    assert "start the service with --proxy 127.0.0.2." in refused.text
    service.stop()
    service = serve("--proxy", "127.0.0.2", "--proxy", "127.0.9.0/24", key=GIVEN_KEY)
    for source, status in (("127.0.0.1", 303), ("127.0.0.2", 303), ("127.0.9.7", 303), ("127.0.0.3", 403)):
        answer = sign_in(service, source, **passed)
        assert answer.status_code == status, source
        assert ("Secure" in answer.headers.get("set-cookie", "")) is (status == 303)


def test_a_network_is_written_as_one() -> None:
    assert [proxy_network(text) for text in ("10.0.0.1", "10.0.0.0/8", "::1")] == [
        "10.0.0.1/32",
        "10.0.0.0/8",
        "::1/128",
    ]
    for text in ("*", "nginx", "10.0.0.1/8", ""):
        with pytest.raises(UserError, match="--proxy"):
            proxy_network(text)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("origin", "headers", "told"),
    [
        (PAGE, {"Host": "a:1"}, "reached as http://a:1: let the proxy pass on the headers Host and X-Forwarded-Proto."),
        (PAGE, {"Host": "labels.example"}, "let the proxy pass on the header X-Forwarded-Proto."),
        ("http://labels.example", {"Host": "a:1"}, "let the proxy pass on the header Host."),
        (f"{PAGE}:8443", {"Host": "labels.example", "X-Forwarded-Proto": "https"}, "header Host; X-Forwarded-Proto is"),
        (PAGE, {"Host": "labels.example", "X-Forwarded-Proto": "https"}, "start the service with --proxy 127.0.0.1."),
        (PAGE, {"Host": "labels.example", "X-Forwarded-Proto": "https, http"}, "on the header X-Forwarded-Proto."),
        ("null", {"Host": "labels.example"}, "must come from a page of http://labels.example."),
    ],
)
async def test_a_refusal_says_what_a_proxy_has_not_passed_on(
    origin: str, headers: dict[str, str], told: str, sqlite_service: Running
) -> None:
    client = await sqlite_service.client()
    answer = await client.post("/sign-out", headers={"Origin": origin, **headers})
    assert answer.status_code == 403
    assert answer.json()["detail"].endswith(told) or f"{told} " in answer.json()["detail"]
    assert (f"The page came from {origin}," in answer.json()["detail"]) is (origin != "null")


# --- HEAD ------------------------------------------------------------------------------------------------------------

FILLED = {"run": "run", "name": "api.js", "query_id": "", "format": "jsonl", "pair_id": ""}


@pytest.mark.anyio
async def test_head_answers_as_get_does_everywhere_and_without_a_body(below: Running) -> None:
    await below.run()
    (query,) = await below.post(1)
    templates = {
        route.path for route in below.app.routes if "GET" in (getattr(route, "methods", None) or ()) if route.path
    }
    paths = {re.sub(r"{(\w+)(:path)?}", lambda part: FILLED.get(part[1], "x") or query, path) for path in templates}
    assert len(paths) > 20
    wrong = {}
    for path in sorted(paths):
        headed = await below.admin.head(f"{ROOT}{path}")
        if path.endswith("/events"):
            assert headed.status_code == 200, "and it ends, where GET would go on"
            continue
        got = await below.admin.get(f"{ROOT}{path}")
        same = all(headed.headers.get(name) == got.headers.get(name) for name in ("content-type", "location"))
        if headed.status_code != got.status_code or headed.content or not same:
            wrong[path] = (headed.status_code, got.status_code)
    assert wrong == {}
    assert (await below.admin.head(f"{ROOT}/sign-out")).status_code == 405
