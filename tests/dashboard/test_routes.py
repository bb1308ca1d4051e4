"""The page's HTTP: ids are looked up and never lead elsewhere, answers are made once, errors are problems."""

import asyncio
import csv
import io
import json
import re
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from dashboard.runs import append, make_experiment, make_run, row

from sea_agent.dashboard import routes
from sea_agent.dashboard.app import make_app
from sea_agent.dashboard.board import Answers, Board
from sea_agent.errors import UserError
from sea_agent.web.security import HEADERS
from sea_agent.web.signals import Signals

API = "/dashboard/api"
PANELS = ("comparison", "curves", "beliefs", "labels")
OF_ONE_RUN = ("throughput", "duels", "configuration")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``runs``, which holds one experiment; beside it a secret and a run."""
    root = tmp_path_factory.mktemp("made")
    (root / "secret").write_text("secret")
    make_run(root / "outside", rounds=1)
    make_experiment(root / "runs" / "main", seeds=2, rounds=2)
    return root


@pytest.fixture
def board(tmp_path: Path, made: Path) -> Board:
    """Of ``tmp_path / "runs"``, a copy of what was made."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return Board(tmp_path / "runs")


@pytest.fixture
async def client(board: Board) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a dashboard over that."""
    transport = httpx.ASGITransport(make_app(board, Signals()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


RUN = "main/lexicon/sea/seed-0"


@pytest.mark.anyio
async def test_the_page_and_its_files_are_there_with_the_headers_of_the_service(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).headers["location"] == "dashboard/"
    for path in ("/dashboard/", *(f"/dashboard/static/{name}" for name in routes.FILES)):
        answer = await client.get(path)
        assert answer.status_code == 200, path
        for name, value in HEADERS.items():
            if name != "Cache-Control":
                assert answer.headers[name] == value
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def loaded_at_first() -> set[str]:
    """The files that the page names, and those that its modules import before they run."""
    names = {*re.findall(r'(?:src|href)="static/([^"]+)"', routes.FILES["index.html"].read_text())}
    found = {"index.html"}
    while names - found:
        found |= (new := names - found)
        for name in new:
            names |= {*re.findall(r'^import .*?"\./([^"]+)";$', routes.FILES[name].read_text(), re.M | re.S)}
    return found


def test_the_page_weighs_less_than_150_kb_uncompressed_until_a_duel_is_seen() -> None:
    sent = {name: routes.FILES[name].stat().st_size for name in loaded_at_first()}
    assert {"duels.js", "vendor/uPlot.iife.min.js", "style.css"} <= {*sent}
    assert not {"text.js", "vendor/temml.min.js"} & {*sent}
    assert sum(sent.values()) < 150_000, sent


def test_the_page_names_no_other_host() -> None:
    for name, path in routes.FILES.items():
        if name.endswith((".html", ".css", ".js")) and not name.startswith("vendor/"):
            assert "//" not in path.read_text().replace("// ", "").replace("//\n", ""), name


@pytest.mark.anyio
@pytest.mark.parametrize("panel", PANELS)
async def test_each_panel_answers_as_json_and_as_csv(client: httpx.AsyncClient, panel: str) -> None:
    answer = await client.get(f"{API}/{panel}", params={"runs": "main"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()
    table = await client.get(f"{API}/{panel}.csv", params={"runs": "main"})
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert {row["method"] for row in rows} == {"passive", "sea"}


@pytest.mark.anyio
@pytest.mark.parametrize("panel", OF_ONE_RUN)
async def test_each_panel_of_one_run_answers_as_json_and_as_csv(client: httpx.AsyncClient, panel: str) -> None:
    assert (await client.get(f"{API}/{panel}", params={"run": RUN})).json()
    table = await client.get(f"{API}/{panel}.csv", params={"run": RUN})
    assert len(list(csv.DictReader(io.StringIO(table.text)))) > 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    "id_",
    [
        "..",
        "../outside",
        "../secret",
        "main/../../outside",
        "main/lexicon/sea/seed-0/../seed-1",
        "./main/lexicon/sea/seed-0",
        "/etc",
        "%2e%2e%2foutside",
        "..%2foutside",
        "main\\..\\..",
        "main/lexicon",
        "main/lexicon/sea/seed-0/",
        "\x00",
        "",
    ],
)
async def test_an_id_that_was_not_found_by_the_scan_leads_nowhere(client: httpx.AsyncClient, id_: str) -> None:
    for panel in OF_ONE_RUN:
        assert (await client.get(f"{API}/{panel}", params={"run": id_})).status_code == 404
    for panel in PANELS:
        assert (await client.get(f"{API}/{panel}", params={"runs": id_})).status_code == 404


@pytest.mark.anyio
async def test_an_id_of_the_scan_is_found(client: httpx.AsyncClient) -> None:
    """The control of the test above."""
    assert (await client.get(f"{API}/configuration", params={"run": RUN})).json()["run"] == RUN
    assert len((await client.get(f"{API}/comparison", params={"runs": ["main"]})).json()["methods"]) == 2
    one = (await client.get(f"{API}/comparison", params={"runs": [RUN]})).json()
    assert [run["id"] for row in one["methods"] for run in row["runs"]] == [RUN]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("comparison?level=2", 422, "query.level"),
        ("comparison?level=nan", 422, "query.level"),
        ("comparison?baseline=nobody", 422, "no run is of this method; there is passive, sea"),
        ("comparison?group=lexicon", 422, "query.group"),
        ("curves?column=secret", 422, "query.column"),
        ("curves?x=secret", 422, "query.x"),
        (f"duels?run={RUN}&sort=id; DROP TABLE duels", 422, "query.sort"),
        (f"duels?run={RUN}&limit=1000", 422, "query.limit"),
        (f"duel?run={RUN}&duel=nothing", 404, "There is no duel nothing"),
        ("nothing", 404, "There is nothing at"),
    ],
)
async def test_errors_are_problems(client: httpx.AsyncClient, query: str, status: int, words: str) -> None:
    answer = await client.get(f"{API}/{query}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert words in answer.text


@pytest.mark.anyio
async def test_nothing_can_be_written(client: httpx.AsyncClient) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in ("comparison", "duels", "runs", "events"):
            assert (await client.request(method, f"{API}/{path}")).status_code == 405


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["evil.test", "evil.test:8401", "127.0.0.1.evil.test", "localhost.evil.test"])
async def test_a_request_under_a_foreign_name_is_refused(client: httpx.AsyncClient, host: str) -> None:
    """A page of another site whose name was made to lead to this machine must not read it."""
    assert (await client.get(f"{API}/runs", headers={"Host": host})).status_code == 400


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["localhost", "localhost:8401", "127.0.0.1:8401", "[::1]:8401"])
async def test_a_request_under_a_name_of_this_machine_is_answered(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get(f"{API}/runs", headers={"Host": host})).status_code == 200


@pytest.mark.anyio
async def test_formulas_in_model_text_are_no_formulas_in_a_spreadsheet(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "runs" / RUN / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE responses SET text = '=HYPERLINK(\"x\")' WHERE side = 'first'")
        ledger.execute("UPDATE duels SET belief = -0.5")
    table = await client.get(f"{API}/duels.csv", params={"run": RUN})
    (first, *_) = csv.DictReader(io.StringIO(table.text))
    assert first["first"] == '\'=HYPERLINK("x")'
    assert first["belief"] == "-0.5", "numbers stay numbers"
    exact = (await client.get(f"{API}/duels", params={"run": RUN})).json()
    assert exact["duels"][0]["first"] == '=HYPERLINK("x")'


# --- what is answered again ------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_what_has_not_changed_is_not_sent_again(client: httpx.AsyncClient, board: Board, tmp_path: Path) -> None:
    params = {"runs": ["main"]}
    first = await client.get(f"{API}/comparison", params=params)
    again = {"If-None-Match": first.headers["etag"]}
    same = await client.get(f"{API}/comparison", params=params, headers=again)
    assert (same.status_code, same.content) == (304, b"")
    other = await client.get(f"{API}/comparison", params={**params, "level": 0.7}, headers=again)
    assert other.status_code == 200, "another question"
    append(tmp_path / "runs" / RUN, row(3, 24, 0.9))
    board.look()  # requests do so by themselves, once a second
    changed = await client.get(f"{API}/comparison", params=params, headers=again)
    assert changed.status_code == 200
    assert changed.json() != first.json()


def test_an_answer_is_made_once_for_all_who_wait_for_it() -> None:
    answers, started, go, made = Answers(), threading.Event(), threading.Event(), []

    def make() -> bytes:
        made.append(1)
        started.set()
        assert go.wait(60)
        return b"x"

    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(answers.get("tag", make))) for _ in range(8)]
    threads[0].start()
    assert started.wait(60)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(60)
    assert (results, len(made)) == ([b"x"] * 8, 1)


def test_a_failure_is_told_to_all_who_wait_and_is_not_kept() -> None:
    answers = Answers()

    def fail() -> bytes:
        raise UserError("no")

    with pytest.raises(UserError):
        answers.get("tag", fail)
    assert answers.get("tag", lambda: b"x") == b"x"


def test_a_root_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a directory"):
        Board(tmp_path / "file")
    with pytest.raises(UserError, match="no such directory"):
        Board(tmp_path / "nowhere")


# --- news ------------------------------------------------------------------------------------------------------------


class Listener:
    """Reads the events of a dashboard from its ASGI app, which never ends them by itself."""

    def __init__(self, root: Path) -> None:
        self.board, self.signals = Board(root), Signals()
        self.app = make_app(self.board, self.signals)
        self.looks = 0
        look = self.board.look

        def counted(fresh: float = 0.0) -> int:
            self.looks += fresh == 0.0
            return look(fresh)

        self.board.look = counted  # type: ignore[method-assign]

    async def events(self, last_event_id: str | None = None) -> AsyncIterator[dict[str, str]]:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        headers = [(b"host", b"localhost")]
        if last_event_id is not None:
            headers.append((b"last-event-id", last_event_id.encode()))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": f"{API}/events",
            "raw_path": b"",
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("x", 1),
            "server": ("x", 1),
        }
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await queue.put(message.get("body", b""))

        task = asyncio.create_task(self.app(scope, receive, send))
        buffer = b""
        try:
            while True:
                get = asyncio.create_task(queue.get())
                done, _ = await asyncio.wait({get, task}, return_when=asyncio.FIRST_COMPLETED)
                if get not in done:
                    get.cancel()
                    return
                buffer += get.result()
                while b"\n\n" in buffer:
                    event, _, buffer = buffer.partition(b"\n\n")
                    fields = dict(line.split(": ", 1) for line in event.decode().splitlines() if line[0] != ":")
                    if fields:
                        yield fields
        finally:
            gone.set()
            await task


async def following(events: AsyncIterator[dict[str, str]]) -> dict[str, str]:
    async with asyncio.timeout(60):
        return await anext(events)


@pytest.mark.anyio
async def test_a_viewer_hears_of_a_run_that_comes_grows_and_ends(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    events = listener.events()
    make_run(tmp_path / "run", rounds=1, finished=False)
    first = await following(events)
    assert (first["event"], json.loads(first["data"])["runs"]) == ("change", ["run"])
    append(tmp_path / "run", row(2, 16, 0.6))
    second = await following(events)
    assert json.loads(second["data"])["version"] > json.loads(first["data"])["version"]
    listener.signals.close()
    with pytest.raises(StopAsyncIteration):
        await following(events)


@pytest.mark.anyio
async def test_a_viewer_that_comes_back_hears_only_what_it_missed(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    for name in "ab":
        make_run(tmp_path / name, rounds=1, finished=False)
    events = listener.events()
    last = (await following(events))["id"]
    await events.aclose()  # type: ignore[attr-defined]
    append(tmp_path / "b", row(2, 16, 0.6))
    listener.board.look()
    missed = listener.events(last)
    assert json.loads((await following(missed))["data"])["runs"] == ["b"]
    await missed.aclose()  # type: ignore[attr-defined]
    stranger = listener.events("of-another-process-7")
    assert json.loads((await following(stranger))["data"])["runs"] == ["a", "b"]
    await stranger.aclose()  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_fifty_viewers_share_the_looks_and_nobody_looks_when_they_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sea_agent.dashboard.live.LOOK_SECONDS", 0.01)
    listener = Listener(tmp_path)
    make_run(tmp_path / "run", rounds=1, finished=False)
    viewers = [listener.events() for _ in range(50)]
    await asyncio.gather(*(following(viewer) for viewer in viewers))
    before = listener.looks
    append(tmp_path / "run", row(2, 16, 0.6))
    seen = await asyncio.gather(*(following(viewer) for viewer in viewers))
    assert len({event["id"] for event in seen}) == 1
    assert listener.looks - before < 50
    for viewer in viewers:
        await viewer.aclose()  # type: ignore[attr-defined]
    for _ in range(100):
        quiet = listener.looks
        await asyncio.sleep(0.05)
        if listener.looks == quiet:
            break
    assert listener.looks == quiet


@pytest.mark.anyio
async def test_a_look_that_fails_ends_the_stream_so_that_the_viewer_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(tmp_path)
    monkeypatch.setattr(listener.board, "look", lambda: 1 / 0)
    monkeypatch.setattr("sea_agent.dashboard.live._SILENCE_SECONDS", 0.01)
    with pytest.RaisesGroup(ZeroDivisionError):
        await following(listener.events())
