"""The dashboard beside the feedback service: behind its keys, and with what it knows of its annotators."""

import http.client
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from dashboard.conftest import SECONDS, Served, Viewer
from dashboard.runs import append, make_run, row
from service.conftest import Running, start
from service.processes import GIVEN_KEY, SERVE

from sea_agent.service.app import make_app
from sea_agent.service.settings import Settings

API = "/dashboard/api"
DATA = (
    *(f"{API}/{name}{ending}" for name in ("comparison", "curves", "beliefs", "labels") for ending in ("", ".csv")),
    *(f"{API}/{name}{ending}?run=run" for name in ("throughput", "duels", "configuration") for ending in ("", ".csv")),
    f"{API}/duel?run=run&duel=duel-0-1-1",
    f"{API}/runs",
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    """A service that shows one run."""
    make_run(tmp_path / "runs" / "run", rounds=1)
    async with AsyncExitStack() as stack:
        yield await start(stack, f"sqlite:///{tmp_path / 'feedback.sqlite'}", runs=tmp_path / "runs")


def test_every_route_of_the_data_is_asked_for_here() -> None:
    """So that a new one cannot be forgotten in the test of keys below."""
    routes = {route.path for route in make_app(Settings(runs=Path(__file__).parent)).routes if hasattr(route, "path")}
    data = {path for path in routes if path.startswith(API)}
    assert data == {path.partition("?")[0] for path in DATA} | {f"{API}/events"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("scopes", "status"),
    [((), 401), (("annotate",), 403), (("read",), 200), (("experiment",), 200), (("admin",), 200)],
)
async def test_only_keys_that_may_read_see_the_runs(scopes: tuple[str, ...], status: int, service: Running) -> None:
    client = await service.client(*scopes)
    assert {path: (await client.get(path)).status_code for path in DATA} == dict.fromkeys(DATA, status)
    if status != 200:
        assert (await client.get(f"{API}/events")).status_code == status


@pytest.mark.anyio
async def test_without_a_directory_of_runs_there_is_no_dashboard(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        service = await start(stack, f"sqlite:///{tmp_path / 'feedback.sqlite'}")
        assert (await service.admin.get("/dashboard/")).status_code == 404
        assert (await service.admin.get(f"{API}/runs")).status_code == 404


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that asks people."""
    people = ("oracle.kind=feedback_service", "oracle.url=http://127.0.0.1:8400", "oracle.run=kitchen")
    return make_run(tmp_path_factory.mktemp("runs") / "asked", rounds=2, settings=people)


@pytest.fixture(scope="module")
def beside(asked: Path, serve: Callable[..., Served]) -> Served:
    """A service as a process, which shows that run."""
    return serve("--runs", asked.parent, program=SERVE, key=GIVEN_KEY)


def test_annotators_are_shown_after_signing_in(beside: Served, view: Callable[..., Viewer]) -> None:
    admin, odd = beside.process.client(GIVEN_KEY), (3, "jo", "kitchen")
    for run in ("other", "kitchen"):
        admin.put(f"/v1/runs/{run}", json={"name": run.title(), "votes_needed": 2}).raise_for_status()
        queries = [{"client_key": f"k{n}", "prompt": "p", "first": f"one {n}", "second": f"two {n}"} for n in range(4)]
        admin.post(f"/v1/runs/{run}/queries:batch", json={"queries": queries}).raise_for_status()
        labels = [
            {"client_key": f"k{n}", "annotator": name, "outcome": "second" if (n, name, run) == odd else "first"}
            for n in range(4)
            for name in ("mira", "jo")
        ]
        headers = {"Idempotency-Key": run}
        admin.post(f"/v1/runs/{run}/labels:batch", json={"labels": labels}, headers=headers).raise_for_status()
    agreement = admin.get("/v1/runs/kitchen/agreement").raise_for_status().json()

    viewer = view()
    viewer.page.goto(beside.url)
    viewer.loaded()
    assert "sign in with a key that may read" in viewer.text("#message")
    viewer.page.get_by_role("link", name="Sign in").click()
    viewer.page.get_by_label("Your key").fill(GIVEN_KEY)
    # Every three seconds the page that has now been left listened anew, and was refused.
    assert all("401" in fault for fault in viewer.faults)
    viewer.faults.clear()
    viewer.page.get_by_role("button", name="Sign in").click()
    viewer.loaded()
    assert viewer.page.get_by_role("link", name="Live mode").get_attribute("href") == "../live"
    assert viewer.page.locator("#annotators select").input_value() == "kitchen", "the run that the chosen one asks"
    rows = viewer.page.locator("#annotators tbody tr").all_inner_texts()
    assert [row.split()[:2] for row in rows] == [["jo", "4"], ["mira", "4"]]
    assert agreement["alpha"] is not None
    assert viewer.text("#tile-agreement .figure") == f"{agreement['alpha']:.2f}"
    assert viewer.page.locator("#live").get_attribute("class") == "live live"

    with viewer.page.expect_response(lambda response: "/v1/runs/other/annotators" in response.url):
        viewer.page.locator("#annotators select").select_option("other")
    viewer.until(f"!document.querySelector('#annotators .flow').innerText.includes('{agreement['alpha']:.2f}')")
    assert viewer.text("#tile-agreement .figure") == f"{agreement['alpha']:.2f}", "still that of the chosen run"


def test_who_answers_is_shown_before_there_is_a_run(
    tmp_path: Path, serve: Callable[..., Served], view: Callable[..., Viewer]
) -> None:
    alone = serve("--runs", tmp_path, program=SERVE, key=GIVEN_KEY)
    alone.process.client(GIVEN_KEY).put("/v1/runs/office", json={"name": "Office"}).raise_for_status()
    viewer = view()
    viewer.page.goto(f"{alone.url.split('/dashboard')[0]}/sign-in?next=/dashboard/")
    viewer.page.get_by_label("Your key").fill(GIVEN_KEY)
    viewer.page.get_by_role("button", name="Sign in").click()
    viewer.page.wait_for_url("**/dashboard/")
    viewer.loaded()
    assert "sea-agent run sea --out" in viewer.text("#empty")
    assert viewer.page.locator("#annotators select").input_value() == "office"
    assert not viewer.page.locator("#targets").is_visible()


def test_the_news_end_with_the_key(beside: Served, asked: Path) -> None:
    admin = beside.process.client(GIVEN_KEY)
    made = admin.post("/v1/keys", json={"name": "reader", "scopes": ["read"]}).raise_for_status().json()
    connection = http.client.HTTPConnection("127.0.0.1", beside.port, timeout=SECONDS)
    connection.request("GET", f"{API}/events", headers={"Authorization": f"Bearer {made['key']}"})
    stream = connection.getresponse()
    assert stream.readline().startswith(b"event: change")
    admin.delete(f"/v1/keys/{made['id']}").raise_for_status()
    append(asked, row(3, 24, 0.6))
    assert b"event" not in stream.read(), "it ends without the news of that"


def test_a_viewer_does_not_hold_up_the_end_of_the_service(beside: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", beside.port, timeout=SECONDS)
    connection.request("GET", f"{API}/events", headers={"Authorization": f"Bearer {GIVEN_KEY}"})
    stream = connection.getresponse()
    assert stream.readline().startswith(b"event: change")
    assert beside.process.stop(signal.SIGTERM) == 0
    assert "Cancel" not in beside.process.errors.read_text(), "the stream ended by itself"
