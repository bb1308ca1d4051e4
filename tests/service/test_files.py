"""Duels that come in as a file, over HTTP and by the command: all or none, once, and refused with the place."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from service.conftest import Running, claim, start, together
from service.processes import ALTERED, GIVEN_KEY, SECONDS, Process
from service.test_access import is_problem
from service.test_concurrency import waits

from sea_agent.service.client import KEY

pytestmark = pytest.mark.anyio

PATH = "/v1/runs/run/queries:import"
JSONL = "application/jsonl"


def lines(numbers: range | list[int], **more: Any) -> bytes:
    rows = ({"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}", **more} for n in numbers)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


async def send(client: httpx.AsyncClient, content: Any, media_type: str = JSONL, **options: Any) -> httpx.Response:
    return await client.post(PATH, content=content, headers={"Content-Type": media_type}, params=options)


async def stored(service: Running) -> int:
    return (await service.admin.get("/v1/runs/run")).json()["queries"]


# --- over HTTP -------------------------------------------------------------------------------------------------------


async def test_a_file_becomes_duels_once(service: Running) -> None:
    await service.run()
    experiment = await service.client("experiment")
    assert (await send(experiment, lines(range(3)))).json() == {"rows": 3, "created": 3, "known": 0, "ignored": []}
    assert (await send(experiment, lines(range(3)))).json() == {"rows": 3, "created": 0, "known": 3, "ignored": []}
    as_csv = b"id,prompt,first,second,source\r\nk,q,yes,no,me\r\n,p0,good 0,bad 0,me\r\n"
    answer = await send(experiment, as_csv, "text/csv; charset=UTF-8")
    assert answer.json() == {"rows": 2, "created": 1, "known": 1, "ignored": ["source"]}
    again = [{"client_key": "k", "prompt": "q", "response_a": "yes", "response_b": "no"}]
    assert (await experiment.post(PATH, json=again)).json()["known"] == 1
    assert await stored(service) == 4


async def test_which_response_is_shown_first_is_drawn(service: Running) -> None:
    await service.run()
    await send(service.admin, lines(range(20)))
    leases = [await claim(await service.annotator(f"a{n}")) for n in range(20)]
    assert {lease["first"].split()[0] for lease in leases} == {"good", "bad"}
    assert {lease["prompt"] for lease in leases} == {f"p{n}" for n in range(20)}


async def test_chosen_makes_gold_only_when_asked(sqlite_service: Running) -> None:
    await sqlite_service.run()
    await send(sqlite_service.admin, lines([1]))
    assert await stored(sqlite_service) == 1, "gold duels are not counted there"
    answer = await send(sqlite_service.admin, lines([2]), gold="chosen")
    assert (answer.json()["created"], await stored(sqlite_service)) == (1, 1)
    assert is_problem(await send(sqlite_service.admin, lines([2]), gold="rejected"), 422)


async def test_a_waiting_annotator_is_woken_by_a_file(service: Running) -> None:
    await service.run()
    ann = await service.annotator("ann")
    waiting = asyncio.create_task(claim(ann, wait_s=25))
    await waits(service, ("work", "run"))
    await send(service.admin, lines([1]))
    (lease,) = await together(waiting)
    assert lease["prompt"] == "p1"


async def test_a_wrong_row_keeps_the_whole_file_out(service: Running) -> None:
    await service.run()
    answer = await send(service.admin, lines(range(5)) + lines([5], votes_needed=0) + lines([6], priority="x"))
    assert is_problem(answer, 422)
    assert [fault["where"] for fault in answer.json()["errors"]] == ["line 6, votes_needed", "line 7, priority"]
    assert "Nothing was stored. line 6, votes_needed: Input should be" in answer.json()["detail"]
    assert "1 more fault was found" in answer.json()["detail"]
    assert await stored(service) == 0
    assert (await send(service.admin, lines(range(7)))).json()["created"] == 7, "the control"


async def test_a_duel_that_is_there_with_another_body_keeps_the_whole_file_out(service: Running) -> None:
    await service.run()
    await service.post(1)  # k0
    answer = await send(service.admin, lines([1]) + lines([2], client_key="k0"))
    assert is_problem(answer, 409)
    assert [fault["where"] for fault in answer.json()["errors"]] == ["line 2, client_key"]
    assert "line 2, client_key: client_key 'k0' is there already with another body. Give" in answer.json()["detail"]
    assert await stored(service) == 1


async def test_a_run_that_is_missing_gets_nothing(sqlite_service: Running) -> None:
    assert is_problem(await send(sqlite_service.admin, lines([1])), 404)
    assert is_problem(await send(sqlite_service.admin, b"{"), 422)


@pytest.mark.parametrize(
    "media_type", ["", "text/plain", "application/xml", "text/csv; charset=latin-1", "csv", "a/b/c"]
)
async def test_another_kind_of_file_is_refused(sqlite_service: Running, media_type: str) -> None:
    await sqlite_service.run()
    answer = await send(sqlite_service.admin, lines([1]), media_type)
    assert is_problem(answer, 415)
    assert "latin-1" in answer.json()["detail"] or "application/jsonl" in answer.json()["detail"]


async def test_a_file_may_be_larger_than_other_bodies_and_not_larger_than_its_own_limit(
    sqlite_service: Running, tmp_path: Path
) -> None:
    """With a length and without one; other calls keep their limit (see test_access)."""
    long = lines(range(30), rejected="x" * 90_000)
    assert len(long) > 2_000_000
    await sqlite_service.run()
    assert (await send(sqlite_service.admin, long)).json()["created"] == 30
    small = await start(sqlite_service.stack, f"sqlite:///{tmp_path / 'small.sqlite'}", file_bytes=len(long) - 1)
    await small.run()

    async def chunks() -> Any:
        for offset in range(0, len(long), 100_000):
            yield long[offset : offset + 100_000]

    for content in (long, chunks()):
        answer = await send(small.admin, content)
        assert is_problem(answer, 413)
        assert f"larger than {len(long) - 1:,} bytes" in answer.json()["detail"]
    assert is_problem(await small.admin.post("/v1/runs/run/queries:batch", content=long), 413)
    assert await stored(small) == 0


async def test_who_may_not_post_duels_imports_none(sqlite_service: Running) -> None:
    await sqlite_service.run()
    reader = await sqlite_service.client("read")
    assert is_problem(await send(reader, lines([1])), 403)
    foreign = await sqlite_service.client("experiment", runs=["other"])
    assert is_problem(await send(foreign, lines([1])), 403)
    assert await stored(sqlite_service) == 0


async def test_a_file_that_breaks_off_is_not_stored(sqlite_service: Running) -> None:
    await sqlite_service.run()
    parts = [
        {"type": "http.request", "body": lines(range(3)), "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def answer(message: Any) -> None:
        sent.append(message)

    headers = [
        (b"content-type", JSONL.encode()),
        (b"authorization", sqlite_service.admin.headers["authorization"].encode()),
    ]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": PATH,
        "query_string": b"",
    }
    await sqlite_service.app({**scope, "headers": headers, "app": sqlite_service.app}, receive, answer)
    assert sent[0]["status"] == 400
    assert await stored(sqlite_service) == 0


# --- killed ----------------------------------------------------------------------------------------------------------


def killed_within(serve: Callable[..., Process], folder: Path, change: str) -> int:
    """How many duels of a file are there after the service was killed within its transaction."""
    service = serve(key=GIVEN_KEY)
    with service.client(GIVEN_KEY) as admin:
        admin.put("/v1/runs/run", json={}).raise_for_status()
    service.end()
    service = serve(key=GIVEN_KEY, program=(*ALTERED, change))

    def post() -> None:
        headers = {"Content-Type": JSONL}
        with service.client(GIVEN_KEY) as admin, pytest.raises(httpx.TransportError):
            admin.post(PATH, content=lines(range(10_000)), headers=headers)

    posting = threading.Thread(target=post)
    posting.start()
    deadline = time.monotonic() + SECONDS
    while not (folder / "posted").exists():
        assert time.monotonic() < deadline, service.errors.read_text()
        time.sleep(0.01)
    service.end()
    posting.join(SECONDS)
    with serve(key=GIVEN_KEY).client(GIVEN_KEY) as admin:
        left = admin.get("/v1/runs/run").json()["queries"]
        whole = admin.post(PATH, content=lines(range(10_000)), headers={"Content-Type": JSONL}).json()
    assert whole["created"] == 10_000 - left, "and can be sent again"
    return left


def test_a_service_killed_in_the_middle_of_a_file_has_nothing_of_it(
    serve: Callable[..., Process], tmp_path: Path
) -> None:
    assert killed_within(serve, tmp_path, "stop_before_commit") == 0


def test_a_file_stored_in_two_parts_would_be_seen(serve: Callable[..., Process], tmp_path: Path) -> None:
    assert killed_within(serve, tmp_path, "commit_halves") == 5_000


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def site(serve: Callable[..., Process], monkeypatch: pytest.MonkeyPatch) -> Process:
    monkeypatch.setenv(KEY, GIVEN_KEY)
    return serve(key=GIVEN_KEY)


def test_the_command_imports_a_file_and_makes_the_run(
    site: Process, sea_agent: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "duels.jsonl"
    file.write_bytes(lines(range(3), source="me"))
    call = ("duels", "import", file, "--run", "run", "--service", site.url)
    missing = sea_agent(*call)
    assert (missing.code, "refused with 404. There is no run run" in missing.err) == (2, True)
    done = sea_agent(*call, "--make")
    assert (done.code, done.err) == (0, "")
    assert "3 new duels in run run, 0 known ones. Ignored columns: source." in done.out
    assert "0 new duels in run run, 3 known ones" in sea_agent(*call).out
    file.write_bytes(lines([4], votes_needed=0) + lines([5], mood=1))
    refused = sea_agent(*call)
    assert refused.code == 2
    assert "  line 1, votes_needed: " in refused.err
    assert "  line 2, mood: " in refused.err
    golden = tmp_path / "gold.csv"
    golden.write_text("prompt,chosen,rejected\np,a,b\n")
    assert "1 new duels" in sea_agent("duels", "import", golden, *call[3:], "--gold").out


def test_the_command_says_what_is_missing(
    site: Process, sea_agent: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "duels.csv"
    file.write_text("prompt,chosen,rejected\np,a,b\n")

    def said(*arguments: object) -> str:
        done = sea_agent("duels", "import", *arguments)
        assert done.code == 2
        return done.err

    there = ("--run", "run", "--service", site.url)
    assert "ends in .jsonl" in said(tmp_path / "duels.parquet", *there)
    assert "cannot be read (No such file" in said(tmp_path / "gone.csv", *there)
    assert "no feedback service answers there" in said(file, "--run", "run", "--service", "http://127.0.0.1:9")
    assert "give the address of a feedback service" in said(file, "--run", "run", "--service", "nowhere")
    monkeypatch.setenv(KEY, "wrong")
    assert "refused with 401" in said(file, *there)
    monkeypatch.delenv(KEY)
    assert f"{KEY} is not set" in said(file, *there)
