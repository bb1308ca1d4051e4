"""Exports: the winner of each duel with where it comes from, page by page, as the log stood when the export began."""

import asyncio
import csv
import io
import json
from typing import Any

import httpx
import pyarrow.parquet
import pytest
import uvicorn
from service.conftest import Running, claim, label
from service.test_quality_routes import vote
from sqlalchemy import Connection, update

from sea_agent.data.encoders import JsonLines
from sea_agent.service import export
from sea_agent.service.export import COLUMNS
from sea_agent.service.schemas.files import ExportIn
from sea_agent.service.store import answers
from sea_agent.service.store.database import StoreUnavailable
from sea_agent.service.store.tables import queries

pytestmark = pytest.mark.anyio


async def exported(service: Running, **parameters: Any) -> list[dict[str, Any]]:
    """The rows of the JSONL export, which those of the Parquet export and of the CSV export must equal."""
    lines = await service.admin.get("/v1/runs/run/export.jsonl", params=parameters)
    assert lines.status_code == 200, lines.text
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert lines.headers["content-disposition"] == 'attachment; filename="run.jsonl"'
    rows = [json.loads(line) for line in lines.text.splitlines()]
    table = await service.admin.get("/v1/runs/run/export.parquet", params=parameters)
    assert pyarrow.parquet.read_table(io.BytesIO(table.content)).to_pylist() == rows
    sheet = await service.admin.get("/v1/runs/run/export.csv", params=parameters)
    assert sheet.headers["content-type"] == "text/csv; charset=utf-8"
    assert sheet.headers["content-disposition"] == 'attachment; filename="run.csv"'
    assert list(csv.DictReader(io.StringIO(sheet.text, newline=""))) == [as_cells(row) for row in rows]
    return rows


def as_cells(row: dict[str, Any]) -> dict[str, str]:
    """A row as a spreadsheet shows it."""
    texts = {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in row.items()}
    return {name: "" if value is None else str(value) for name, value in texts.items()}


async def test_a_row_holds_the_winner_and_where_it_comes_from(service: Running) -> None:
    await service.run(votes_needed=3)
    (query,) = await service.post(1, rule="sea_ee", policy_version=7, score=0.25)
    for who, outcome in (("ann", "second"), ("bob", "first"), ("cy", "second")):
        service.clock.jump(60)
        await vote(service, who, [outcome])
    (row,) = await exported(service)
    ids = {entry["annotator"]: entry["label_id"] for entry in await service.log()}
    assert row == {
        "prompt": "prompt 0",
        "chosen": "second 0",
        "rejected": "first 0",
        "run": "run",
        "query_id": query,
        "client_key": "k0",
        "outcome": "second",
        "votes": {"first": 1, "second": 2, "tie": 0, "both_bad": 0},
        "agreement": 2 / 3,
        "annotators": ["ann", "bob", "cy"],
        "label_ids": [ids["ann"], ids["bob"], ids["cy"]],
        "rule": "sea_ee",
        "policy_version": 7,
        "score": 0.25,
        "posted_at": "2027-01-15T08:00:00.000Z",
        "answered_at": "2027-01-15T08:03:00.000Z",
    }


async def test_the_answer_as_shown_becomes_the_winner_of_the_query(service: Running) -> None:
    """Whatever the order of presentation: what the annotator read on the side they chose is the chosen text."""
    await service.run()
    await service.post(12)
    ann = await service.annotator("ann")
    read = {}
    for _ in range(12):
        lease = await claim(ann)
        read[lease["prompt"]] = (lease["first"], lease["second"])
        await label(ann, lease, "first")
    assert {row["prompt"]: (row["chosen"], row["rejected"]) for row in await exported(service)} == read
    assert len({row["outcome"] for row in await exported(service)}) == 2, "both orders were shown"


async def test_a_correction_changes_the_winner(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann = await service.annotator("ann")
    lease = await claim(ann)
    given = (await label(ann, lease, "first")).json()
    assert [row["chosen"] for row in await exported(service)] == [lease["first"]]
    made = await ann.post(f"/v1/labels/{given['label_id']}/revisions", json={"outcome": "second"})
    (row,) = await exported(service)
    assert (row["chosen"], row["label_ids"]) == (lease["second"], [made.json()["label_id"]])


async def test_duels_without_a_winner_are_kept_only_when_asked_for(service: Running) -> None:
    await service.run()
    await service.post(5)
    await vote(service, "ann", ["first", "tie", "both_bad", "second"])
    await vote(service, "bob", ["first", "tie", "both_bad", "first"])
    assert [row["client_key"] for row in await exported(service)] == ["k0"]
    kept = {row["client_key"]: row for row in await exported(service, ties="keep")}
    assert {key: row["outcome"] for key, row in kept.items()} == {
        "k0": "first",
        "k1": "tie",
        "k2": "both_bad",
        "k3": None,  # one vote each
    }
    assert {key: row["chosen"] for key, row in kept.items() if row["chosen"]} == {"k0": "first 0"}
    assert kept["k3"]["rejected"] is None


async def test_votes_and_agreement_can_be_asked_for(service: Running) -> None:
    await service.run()
    await service.post(3)
    await vote(service, "ann", ["first", "first", "first"])
    await vote(service, "bob", ["first", "second"])
    await vote(service, "cy", ["first", "first"])

    async def keys(**parameters: Any) -> list[str]:
        return [row["client_key"] for row in await exported(service, **parameters)]

    assert await keys() == ["k0", "k1", "k2"]
    assert await keys(min_votes=3) == ["k0", "k1"]
    assert await keys(min_votes=3, min_agreement=0.7) == ["k0"]
    assert await keys(min_agreement=0.66) == ["k0", "k1", "k2"]
    assert await keys(min_agreement=0.67) == ["k0", "k2"]


async def test_votes_of_others_and_of_other_times_do_not_count_when_asked(service: Running) -> None:
    """As if there were no others: winner, agreement and numbers are of the votes that are left."""
    await service.run(votes_needed=3)
    await service.post(2)
    for who, outcomes in (("ann", ["second", "tie"]), ("bob", ["first", "first"]), ("cy", ["first"])):
        await vote(service, who, outcomes)
        service.clock.jump(60)

    async def winners(**parameters: Any) -> list[tuple[str, str, list[str]]]:
        rows = await exported(service, **parameters)
        return [(row["client_key"], row["outcome"], row["annotators"]) for row in rows]

    assert await winners() == [("k0", "first", ["ann", "bob", "cy"])]
    assert await winners(annotator="ann") == [("k0", "second", ["ann"])]
    assert await winners(annotator=["bob", "cy"]) == [("k0", "first", ["bob", "cy"]), ("k1", "first", ["bob"])]
    assert await winners(annotator=["bob", "cy"], min_votes=2) == [("k0", "first", ["bob", "cy"])]
    assert await winners(annotator="nobody") == []
    assert await winners(until="2027-01-15T08:01:00Z") == [("k0", "second", ["ann"])], "not at the end itself"
    assert await winners(since="2027-01-15T08:01:00Z", until="2027-01-15T09:02:00+01:00") == [
        ("k0", "first", ["bob"]),
        ("k1", "first", ["bob"]),
    ]
    assert await winners(since="2027-01-15T08:02:00Z") == [("k0", "first", ["cy"])]
    assert await winners(since="2027-01-15T09:00:00Z") == []


async def test_an_outcome_can_be_asked_for(service: Running) -> None:
    await service.run()
    await service.post(4)
    await vote(service, "ann", ["first", "tie", "both_bad", "second"])
    for outcome, key in (("first", "k0"), ("tie", "k1"), ("both_bad", "k2"), ("second", "k3")):
        for ties in ("drop", "keep"):
            rows = await exported(service, outcome=outcome, ties=ties)
            assert [(row["client_key"], row["outcome"]) for row in rows] == [(key, outcome)]


async def test_a_duel_whose_texts_were_erased_is_left_out(service: Running) -> None:
    await service.run()
    erased, _ = await service.post(2)
    await vote(service, "ann", ["first", "first"])
    assert [row["client_key"] for row in await exported(service)] == ["k0", "k1"]

    def erase(connection: Connection) -> None:
        gone = {"prompt": "", "first": "", "second": "", "erased_at": service.clock()}
        connection.execute(update(queries).where(queries.c.id == erased).values(gone))

    await service.state.database.write(erase)
    assert [row["client_key"] for row in await exported(service)] == ["k1"]


async def test_a_text_is_no_formula_in_the_csv_and_as_it_was_elsewhere(sqlite_service: Running) -> None:
    await sqlite_service.run()
    await sqlite_service.post(1, prompt="=1+1", first='@SUM(A1)"', second="- a list,\r\nas often", score=-0.5)
    await vote(sqlite_service, "+ann", ["first"])
    sheet = await sqlite_service.admin.get("/v1/runs/run/export.csv")
    (row,) = csv.DictReader(io.StringIO(sheet.text, newline=""))
    assert (row["prompt"], row["chosen"]) == ("'=1+1", "'@SUM(A1)\"")
    assert (row["rejected"], row["score"]) == ("'- a list,\r\nas often", "-0.5")
    assert row["annotators"] == '["+ann"]'
    exact = await sqlite_service.admin.get("/v1/runs/run/export.jsonl")
    assert json.loads(exact.text)["prompt"] == "=1+1"


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
async def test_an_export_can_be_imported(sqlite_service: Running, ending: str) -> None:
    await sqlite_service.run()
    await sqlite_service.run("other")
    await sqlite_service.post(3, rule="sea_ee", policy_version=7, score=0.25)
    await vote(sqlite_service, "ann", ["second"] * 3)
    file = await sqlite_service.admin.get(f"/v1/runs/run/export.{ending}")
    types = {"Content-Type": file.headers["content-type"]}
    answer = await sqlite_service.admin.post("/v1/runs/other/queries:import", content=file.content, headers=types)
    assert (answer.status_code, answer.json()["created"]) == (200, 3), answer.text
    assert "annotators" in answer.json()["ignored"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_vote": 1},
        {"min_votes": 0},
        {"min_agreement": "nan"},
        {"min_agreement": 1.1},
        {"ties": "maybe"},
        {"since": "yesterday"},
        {"until": "2027-01-15T08:00:00"},
        {"outcome": "skip"},
    ],
)
async def test_a_wrong_parameter_is_named(sqlite_service: Running, wrong: dict[str, Any]) -> None:
    await sqlite_service.run()
    answer = await sqlite_service.admin.get("/v1/runs/run/export.jsonl", params=wrong)
    assert answer.status_code == 422
    assert [error["where"] for error in answer.json()["errors"]] == [f"query.{name}" for name in wrong]


async def test_repeats_and_gold_are_left_out(service: Running) -> None:
    await service.run(gold_share=0.3, repeat_share=0.3)
    await service.post(3, gold="first")
    await service.post(30, start=3)
    ann = await service.annotator("ann")
    for _ in range(30):
        await label(ann, await claim(ann), "first")
    log = await service.log()
    assert {entry["kind"] for entry in log} == {"vote", "gold", "repeat"}
    voted = [entry["client_key"] for entry in log if entry["kind"] == "vote"]
    assert [row["client_key"] for row in await exported(service)] == voted, "in the order of their first votes"
    assert all(row["votes"]["first"] + row["votes"]["second"] == 1 for row in await exported(service))


async def test_any_text_survives_in_one_line(sqlite_service: Running) -> None:
    await sqlite_service.run()
    text = 'a\r\nb\u2028c\x85d"\\\t\U0001f600'
    await sqlite_service.post(1, prompt=text, first=text, second="")
    await vote(sqlite_service, "ann", ["first"])
    (row,) = await exported(sqlite_service)
    assert (row["prompt"], row["chosen"], row["rejected"]) == (text, text, "")


async def test_an_empty_export_is_a_file_without_rows(sqlite_service: Running) -> None:
    await sqlite_service.run()
    await sqlite_service.post(1)
    assert await exported(sqlite_service) == []
    table = await sqlite_service.admin.get("/v1/runs/run/export.parquet")
    names = pyarrow.parquet.read_table(io.BytesIO(table.content)).column_names
    assert names == ["prompt", "chosen", "rejected", *COLUMNS]
    sheet = await sqlite_service.admin.get("/v1/runs/run/export.csv")
    assert sheet.text.strip().split(",") == names


async def test_an_export_is_read_page_by_page_and_shows_one_moment(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels that come while it goes on change nothing in it: neither new duels, nor votes, nor corrections."""
    await service.run()
    await service.post(10)
    await vote(service, "ann", ["first"] * 9)
    monkeypatch.setattr(export, "PAGE", 4)
    reads: list[int] = []
    page = answers.page
    monkeypatch.setattr(answers, "page", lambda *args, **rest: reads.append(rest["at_most"]) or page(*args, **rest))

    def begin(up_to_seq: int) -> Any:
        return export.export(service.state.database, "run", up_to_seq, ExportIn(), JsonLines(COLUMNS))

    expected = [chunk async for chunk in begin(9)]
    assert [chunk.count(b"\n") for chunk in expected] == [4, 4, 1, 0]
    pieces = begin(9)
    reads.clear()
    got = [await anext(pieces)]
    assert reads == [4], "nothing is read ahead of what is sent"
    label_id = (await service.log())[8]["label_id"]
    assert (await service.admin.post(f"/v1/labels/{label_id}/revisions", json={"outcome": "second"})).status_code == 201
    await vote(service, "bob", ["second"] * 10)
    got += [chunk async for chunk in pieces]
    assert got == expected
    later = b"".join([chunk async for chunk in begin(20)])
    assert later != b"".join(expected), "the control: the log has grown"
    assert [json.loads(line)["client_key"] for line in later.splitlines()] == ["k8", "k9"]


async def test_an_export_that_breaks_off_is_no_whole_file_to_its_client(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a real socket: what came looks whole by itself, so the end of the transfer has to tell."""
    await sqlite_service.run()
    await sqlite_service.post(6)
    await vote(sqlite_service, "ann", ["first"] * 6)
    monkeypatch.setattr(export, "PAGE", 2)
    page = answers.page

    def breaks_off(*args: Any, **rest: Any) -> Any:
        if rest["after_seq"] == 4 and broken:
            raise StoreUnavailable("The store cannot be read now.")
        return page(*args, **rest)

    monkeypatch.setattr(answers, "page", breaks_off)
    server = uvicorn.Server(uvicorn.Config(sqlite_service.app, port=0, lifespan="off", log_level="critical"))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(60):
        while not server.started:
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    headers = {"Authorization": sqlite_service.admin.headers["authorization"]}
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            for ending in ("jsonl", "parquet", "csv"):
                broken = True
                with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
                    await client.get(f"/v1/runs/run/export.{ending}")
                broken = False
                assert (await client.get(f"/v1/runs/run/export.{ending}")).status_code == 200
    finally:
        server.should_exit = True
        await serving
