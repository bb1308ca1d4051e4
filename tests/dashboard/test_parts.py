"""The dashboard for keys of some runs: theirs, and nothing of any other, on every route that there is."""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from dashboard.conftest import SECONDS, Served, Viewer
from dashboard.runs import append, make_run, row
from dashboard.test_service import API, DATA
from service.conftest import Running, start
from service.processes import GIVEN_KEY, SERVE

from sea_agent.dashboard import part
from sea_agent.dashboard.board import Board
from sea_agent.dashboard.part import Parts

MINE, FOREIGN = "office/mine", "lab/foreign"
FOREIGN_WORDS = ("foreign", "nobody", "broken", "elsewhere", "lab/", "garden")


def asking(run: str) -> tuple[str, ...]:
    """Settings of a run that asks people in a run of the service."""
    return ("oracle.kind=feedback_service", "oracle.url=http://127.0.0.1:8400", f"oracle.run={run}")


def make_both(root: Path) -> None:
    """A run that asks in `kitchen`, one in `garden`, one that asks nobody, and one that cannot be read."""
    make_run(root / MINE, seed=0, rounds=2, settings=asking("kitchen"))
    make_run(root / FOREIGN, seed=7, rounds=2, settings=asking("garden"))
    make_run(root / "lab" / "nobody", seed=8, rounds=1)
    make_run(root / "lab" / "broken", seed=9, rounds=1)
    (root / "lab" / "broken" / "config.yaml").write_text("oracle: [")
    (root / "elsewhere").symlink_to(root / "lab", target_is_directory=True)  # a trouble that names a place


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    make_both(tmp_path / "runs")
    async with AsyncExitStack() as stack:
        yield await start(stack, f"sqlite:///{tmp_path / 'feedback.sqlite'}", runs=tmp_path / "runs")


def asked_for(run: str, duel: str) -> list[str]:
    """Every address of data, asked for one run in each way that it can be named."""
    found = []
    for path in (path.partition("?")[0] for path in DATA):
        found += [
            f"{path}?runs={run}&run={run}&duel={duel}",
            f"{path}?runs={run.partition('/')[0]}&run={run}&duel={duel}",
        ]
    return [address for address in found if not address.startswith(f"{API}/runs?")]


async def statuses(client: httpx.AsyncClient, addresses: list[str]) -> dict[str, int]:
    return {address: (await client.get(address)).status_code for address in addresses}


@pytest.mark.anyio
@pytest.mark.parametrize("scope", ["read", "experiment"])
async def test_a_key_of_some_runs_sees_those_and_no_other_on_every_route(scope: str, service: Running) -> None:
    client = await service.client(scope, runs=["kitchen"])
    mine, foreign = asked_for(MINE, "duel-0-1-1"), asked_for(FOREIGN, "duel-7-1-1")
    assert await statuses(client, mine) == dict.fromkeys(mine, 200)
    assert await statuses(client, foreign) == dict.fromkeys(foreign, 404)
    assert await statuses(service.admin, foreign) == dict.fromkeys(foreign, 200), "they are there"
    beside = f"{API}/configuration?run={MINE}&against={FOREIGN}"
    assert [(await one.get(beside)).status_code for one in (client, service.admin)] == [404, 200]


async def leaks(client: httpx.AsyncClient) -> list[str]:
    """Answers to questions about everything, and refusals, that hold a word of a foreign run."""
    everything = [path for path in DATA if "run=" not in path]
    refused = [f"{API}/duels?run={MINE}-not", f"{API}/comparison?runs=not-there"]
    texts = {path: (await client.get(path)).text for path in (*everything, *refused)}
    return [path for path, text in texts.items() if any(word in text for word in FOREIGN_WORDS)]


@pytest.mark.anyio
async def test_what_is_told_of_everything_holds_no_word_of_another_run(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await service.client("read", runs=["kitchen"])
    assert await leaks(client) == []
    listing = (await client.get(f"{API}/runs")).json()
    assert [run["id"] for run in listing["runs"]] == [MINE]
    assert (listing["trouble"], listing["experiments"]) == ([], [])
    (group,) = (await client.get(f"{API}/comparison")).json()["groups"]
    assert group["runs"] == 1
    assert len(await leaks(service.admin)) > 2, "who sees everything is told more by the same questions"

    monkeypatch.setattr(part.Parts, "of", lambda parts, reach: parts._whole)
    assert len(await leaks(client)) > 2, "without the filter it would be found"


@pytest.mark.anyio
async def test_a_key_whose_runs_nobody_asks_in_sees_none(service: Running) -> None:
    client = await service.client("read", runs=["attic", "None"])
    assert (await client.get(f"{API}/runs")).json()["runs"] == []
    assert (await client.get(f"{API}/comparison")).json()["methods"] == []


@pytest.mark.anyio
async def test_two_keys_of_the_same_runs_are_told_the_same_and_of_others_not(service: Running) -> None:
    one, same = [await service.client("read", annotator=name, runs=["kitchen"]) for name in ("a", "b")]
    both = await service.client("read", runs=["kitchen", "garden"])
    tags = [(await client.get(f"{API}/comparison")).headers["etag"] for client in (one, same, both)]
    assert tags[0] == tags[1] != tags[2]
    headers = {"If-None-Match": tags[2]}
    assert (await one.get(f"{API}/comparison", headers=headers)).status_code == 200


@pytest.mark.anyio
async def test_head_ends_where_get_would_stream(service: Running) -> None:
    async with asyncio.timeout(SECONDS):
        answer = await service.admin.head(f"{API}/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_part_changes_only_with_its_own_runs(tmp_path: Path) -> None:
    make_both(tmp_path)
    whole = Board(tmp_path)
    kitchen, garden = (Parts(whole).of(frozenset([run])) for run in ("kitchen", "garden"))
    assert [board.look() for board in (kitchen, garden)] == [1, 1]
    append(tmp_path / FOREIGN, row(3, 24, 0.6))
    whole.look()
    assert [board.look() for board in (kitchen, garden)] == [1, 2]
    assert kitchen.changed_since(1) == []
    assert garden.changed_since(1) == [FOREIGN]
    make_run(tmp_path / "office" / "second", seed=1, rounds=1, settings=asking("kitchen"))
    whole.look()
    assert [board.look() for board in (kitchen, garden)] == [2, 2]
    assert kitchen.changed_since(1) == ["office/second"]
    (tmp_path / MINE / "config.yaml").write_bytes((tmp_path / FOREIGN / "config.yaml").read_bytes())
    whole.look()
    assert [board.look() for board in (kitchen, garden)] == [3, 3]
    assert [run.id for run in kitchen.runs()] == ["office/second"]
    assert [run.id for run in garden.runs()] == [FOREIGN, MINE]


def test_what_a_part_has_read_is_read_once_for_all(tmp_path: Path) -> None:
    make_both(tmp_path)
    whole = Board(tmp_path)
    assert Parts(whole).of(frozenset(["kitchen"])).run(MINE) is whole.run(MINE)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Served]) -> tuple[Path, Served]:
    """The runs, and a service as a process which shows them."""
    root = tmp_path_factory.mktemp("both")
    make_both(root)
    return root, serve("--runs", root, program=SERVE, key=GIVEN_KEY)


def key_of(served: Served, **body: Any) -> str:
    admin = served.process.client(GIVEN_KEY)
    return str(admin.post("/v1/keys", json={"name": "reader", **body}).raise_for_status().json()["key"])


def test_the_news_of_a_part_are_of_its_runs(beside: tuple[Path, Served]) -> None:
    root, served = beside
    key = key_of(served, scopes=["read"], runs=["kitchen"])
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=SECONDS)
    connection.request("GET", f"{API}/events", headers={"Authorization": f"Bearer {key}"})
    stream = connection.getresponse()

    def news() -> dict[str, Any]:
        while not (line := stream.readline()).startswith(b"data: "):
            assert line
        return dict(json.loads(line.removeprefix(b"data: ")))

    first = news()
    assert first["runs"] == [MINE]
    with served.process.client(GIVEN_KEY) as admin:
        version = admin.get(f"{API}/runs").json()["version"]
        append(root / FOREIGN, row(3, 24, 0.6))
        while admin.get(f"{API}/runs").json()["version"] == version:  # the service has seen it
            pass
    append(root / MINE, row(3, 24, 0.6))
    second = news()
    assert (second["runs"], second["version"]) == ([MINE], first["version"] + 1), "nothing in between"


def test_the_page_shows_an_experiments_own_run_to_its_key(
    beside: tuple[Path, Served], view: Callable[..., Viewer]
) -> None:
    _, served = beside
    for run in ("kitchen", "garden"):
        served.process.client(GIVEN_KEY).put(f"/v1/runs/{run}", json={"name": run.title()}).raise_for_status()
    viewer = view()
    viewer.page.goto(f"{served.url.removesuffix('/dashboard/')}/sign-in?next=/dashboard/")
    viewer.page.get_by_label("Your key").fill(key_of(served, scopes=["experiment"], runs=["kitchen"]))
    viewer.page.get_by_role("button", name="Sign in").click()
    viewer.page.wait_for_url("**/dashboard/")
    viewer.loaded()
    assert viewer.page.locator("#run option").all_inner_texts()[0].endswith(MINE)
    assert viewer.page.locator("#run option").count() == 1
    assert viewer.page.locator("#annotators select option").all_inner_texts() == ["Kitchen (kitchen)"]
    assert viewer.page.locator("#live").get_attribute("class") == "live live"
