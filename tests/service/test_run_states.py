"""Runs that are paused, closed, archived, opened again and deleted, on both databases."""

import asyncio
from typing import Any

import pytest
from service.conftest import Running, claim, free, label, together
from sqlalchemy import func, select

from sea_agent.service.store import leases, tables

pytestmark = pytest.mark.anyio

FINISHED = ("closed", "archived")


async def put(service: Running, **metadata: Any) -> dict[str, Any]:
    answer = await service.admin.put("/v1/runs/run", json=metadata)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def listed(client: Any, **parameters: Any) -> list[str]:
    answer = await client.get("/v1/runs", params=parameters)
    assert answer.status_code == 200, answer.text
    return sorted(run["id"] for run in answer.json()["runs"])


# --- fields ----------------------------------------------------------------------------------------------------------


async def test_a_run_keeps_what_it_was_told_and_what_it_was_not(service: Running) -> None:
    example = {"prompt": "p", "first": "a", "second": "b", "outcome": "first", "why": "It is kinder."}
    assert (await put(service))["state"] == "open"
    told = {"qualification": 5, "qualifying_share": 0.6, "retention_days": 30.5, "examples": [example]}
    for given in (told | {"state": "paused"}, {"name": "Another name"}, {"state": None, "qualification": None}):
        await put(service, **given)
    run = (await service.admin.get("/v1/runs/run")).json()
    assert {name: run[name] for name in told} == told
    assert (run["state"], run["name"], run["erased"]) == ("paused", "Another name", False)
    assert (await put(service, examples=[]))["examples"] == []
    assert (await put(service, retention_days=None))["retention_days"] is None, "they are kept for good again"


@pytest.mark.parametrize(
    "given",
    [
        {"state": "shut"},
        {"qualification": 101},
        {"qualification": -1},
        {"qualifying_share": 1.1},
        {"retention_days": 0},
        {"examples": [{"prompt": "p", "first": "a", "second": "b"}]},
        {"examples": [{"prompt": "p", "first": "a", "second": "b", "outcome": "skip"}]},
        {"examples": [{"prompt": "p", "first": "a", "second": "b", "outcome": "tie"}] * 21},
    ],
)
async def test_a_wrong_field_of_a_run_is_refused(sqlite_service: Running, given: dict[str, Any]) -> None:
    assert (await sqlite_service.admin.put("/v1/runs/run", json=given)).status_code == 422
    assert (await sqlite_service.admin.get("/v1/runs/run")).status_code == 404


@pytest.mark.parametrize("state", ["open", "archived"])
async def test_a_run_that_is_there_is_not_made_anew(service: Running, state: str) -> None:
    async def make(**body: Any) -> Any:
        return await service.admin.put("/v1/runs/run", json=body, headers={"If-None-Match": "*"})

    assert (await make(name="One", votes_needed=2)).status_code == 200
    await put(service, state=state)
    before = (await service.admin.get("/v1/runs/run")).json()
    refused = await make(name="Another")
    assert refused.status_code == 412
    assert "There is a run run already; it was not changed." in refused.json()["detail"]
    assert (await service.admin.get("/v1/runs/run")).json() == before
    tag = await service.admin.put("/v1/runs/run", json={}, headers={"If-None-Match": '"1"'})
    assert tag.status_code == 422, "runs have no tags"
    assert (await put(service, name="Another"))["name"] == "Another", "without the header it is changed"


async def test_of_two_who_make_a_run_at_once_one_does(service: Running) -> None:
    new = {"If-None-Match": "*"}
    made = [service.admin.put("/v1/runs/run", json={"votes_needed": n}, headers=new) for n in (1, 2, 3)]
    assert sorted(answer.status_code for answer in await together(*made)) == [200, 412, 412]


async def test_a_run_is_erased_when_all_its_duels_are(service: Running) -> None:
    await service.run()
    assert (await put(service))["erased"] is False, "without a duel nothing was erased"
    queries = await service.post(2)
    for query, erased in zip(queries, (False, True), strict=True):
        row = tables.queries.update().where(tables.queries.c.id == query).values(erased_at=1.0)
        await service.state.database.write(lambda connection, row=row: connection.execute(row).rowcount)
        assert (await put(service))["erased"] is erased


# --- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["paused", "closed", "archived"])
async def test_a_run_that_is_not_open_gives_nothing_and_keeps_answers(service: Running, state: str) -> None:
    await service.run()
    await service.post(2)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    lease = await claim(ann)
    await put(service, state=state)
    assert await free(bob)
    assert await free(ann), "not even what the caller holds"
    assert (await ann.patch(f"/v1/leases/{lease['lease_id']}", json={})).status_code == 200, "the lease has not ended"
    given = await label(ann, lease)
    assert (given.status_code, given.json()["late"]) == (201, False)
    await put(service, state="open")
    assert (await claim(bob))["query_id"] != lease["query_id"]


async def test_a_state_that_no_claim_looks_at_is_noticed(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above."""
    await sqlite_service.run()
    await sqlite_service.post(1)
    await put(sqlite_service, state="paused")
    always = leases._SITUATION.with_only_columns(
        *(
            column if column.key != "state" else tables.OPEN.label("state")
            for column in leases._SITUATION.selected_columns
        )
    )
    monkeypatch.setattr(leases, "_SITUATION", always)
    assert not await free(await sqlite_service.annotator("ann"))


async def test_a_paused_run_takes_duels_and_a_finished_one_does_not(service: Running) -> None:
    await service.run(state="paused")
    (query,) = await service.post(1)
    body = {"queries": [{"client_key": "new", "prompt": "p", "first": "a", "second": "b"}]}
    for state in FINISHED:
        await put(service, state=state)
        answer = await service.admin.post("/v1/runs/run/queries:batch", json=body)
        assert answer.status_code == 409
        assert f"Run run is {state} and takes no duels; open it again" in answer.json()["detail"]
    assert (await put(service, state="open"))["queries"] == 1
    assert (await claim(await service.annotator("ann")))["query_id"] == query


async def test_who_waits_for_a_duel_gets_it_when_the_run_opens(service: Running) -> None:
    await service.run(state="paused")
    (query,) = await service.post(1)
    ann = await service.annotator("ann")
    waiting = asyncio.create_task(claim(ann, wait_s=25))
    async with asyncio.timeout(60):
        while ("work", "run") not in service.state.database.signals._events:
            await asyncio.sleep(0.01)
    await put(service, state="open")
    (lease,) = await together(waiting)
    assert lease["query_id"] == query


async def test_a_lease_that_ends_while_the_run_is_paused_is_free_afterwards(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await claim(ann, ttl_s=60)
    await put(service, state="paused")
    service.clock.jump(61)
    assert await free(bob)
    next_end = await service.state.database.read(lambda connection: leases.next_end(connection, "run"))
    assert next_end is None, "a claim that waits would look again and again for what has ended"
    await put(service, state="open")
    assert (await claim(bob))["query_id"] == query


async def test_finished_runs_leave_the_lists(service: Running) -> None:
    ann, reader = await service.annotator("ann"), await service.client("read")
    for state in ("open", "paused", *FINISHED):
        await service.run(state, state=state)
    assert await listed(reader) == ["closed", "open", "paused"]
    assert await listed(reader, archived=True) == ["archived", "closed", "open", "paused"]
    assert await listed(ann) == await listed(ann, archived=True) == ["open", "paused"]


async def test_the_list_brings_the_progress_of_each_run_where_it_is_asked_for(service: Running) -> None:
    for run, duels in {"other": 1, "run": 2}.items():
        await service.run(run)
        await service.post(duels, run)
    ann, some = await service.annotator("ann"), await service.client("read", runs=["run"])
    await label(ann, await claim(ann))
    await ann.post(f"/v1/leases/{(await claim(ann))['lease_id']}/skip")
    for client, runs in ((service.admin, ["other", "run"]), (some, ["run"])):
        there = (await client.get("/v1/runs", params={"progress": True})).json()["runs"]
        alone = [(await client.get(f"/v1/runs/{run}/progress")).json() for run in runs]
        assert [one["id"] for one in there] == runs
        assert [one["progress"] for one in there] == alone
        assert [alone[-1][name] for name in ("open", "answered", "stuck")] == [1, 1, 1]
    assert [one["progress"] for one in (await some.get("/v1/runs")).json()["runs"]] == [None]
    own = [(await ann.get("/v1/runs", params=asked)).json() for asked in ({}, {"progress": True})]
    assert own[0] == own[1], "who only annotates is told no more"


async def test_duels_of_finished_runs_do_not_wait_in_the_metrics(service: Running) -> None:
    for state in ("open", "paused", *FINISHED):
        await service.run(state)
        await service.post(1, state)
        assert (await service.admin.put(f"/v1/runs/{state}", json={"state": state})).status_code == 200
    text = (await service.admin.get("/metrics")).text
    waiting = {line.split('"')[1] for line in text.splitlines() if line.startswith("sea_agent_open_queries{")}
    assert waiting == {"open", "paused"}


# --- deletion --------------------------------------------------------------------------------------------------------


async def rows(service: Running, run: str) -> dict[str, int]:
    """How many rows each table has of a run."""

    def count(connection: Any) -> dict[str, int]:
        of_run = select(tables.queries.c.id).where(tables.queries.c.run == run)
        conditions = {
            "runs": tables.runs.c.id == run,
            "assignments": tables.assignments.c.query_id.in_(of_run),
            **{name: tables.metadata.tables[name].c.run == run for name in ("queries", "leases", "labels", "requests")},
        }
        return {
            name: connection.execute(
                select(func.count()).select_from(tables.metadata.tables[name]).where(condition)
            ).scalar()
            for name, condition in conditions.items()
        }

    return await service.state.database.read(count)


async def fill(service: Running, run: str) -> None:
    """Something in every table of a run."""
    await service.run(run)
    queries = await service.post(4, run)
    ann = await service.annotator("ann")
    lease = await claim(ann, run)
    given = (await label(ann, lease)).json()
    await ann.post(f"/v1/labels/{given['label_id']}/revisions", json={"outcome": "tie"})
    await claim(ann, run)
    batch = {"labels": [{"query_id": queries[-1], "outcome": "tie", "annotator": "judge"}]}
    path = f"/v1/runs/{run}/labels:batch"
    assert (await service.admin.post(path, json=batch, headers={"Idempotency-Key": "k"})).status_code == 200
    assert (await service.admin.patch(f"/v1/queries/{queries[2]}", json={"assigned": ["bob"]})).status_code == 200


@pytest.mark.parametrize("state", FINISHED)
async def test_a_deleted_run_is_gone_with_everything_and_no_other_is(service: Running, state: str) -> None:
    for run in ("run", "other"):
        await fill(service, run)
    before = await rows(service, "other")
    assert min(before.values()) > 0
    assert await rows(service, "run") == before
    await put(service, state=state)
    assert (await service.admin.delete("/v1/runs/run")).status_code == 204
    assert set((await rows(service, "run")).values()) == {0}
    assert await rows(service, "other") == before
    assert (await service.admin.get("/v1/runs/run")).status_code == 404
    assert (await service.admin.delete("/v1/runs/run")).status_code == 404
    await fill(service, "run")  # the name is free again


@pytest.mark.parametrize("state", ["open", "paused"])
async def test_a_run_that_is_not_finished_is_not_deleted(service: Running, state: str) -> None:
    await service.run(state=state)
    answer = await service.admin.delete("/v1/runs/run")
    assert answer.status_code == 409
    assert answer.json()["detail"] == f"Run run is {state}; close it before you delete it."
    assert (await service.admin.get("/v1/runs/run")).status_code == 200


async def test_those_who_wait_for_a_run_that_is_deleted_are_told(service: Running) -> None:
    await service.run(state="closed")
    ann = await service.annotator("ann")
    lease = asyncio.create_task(ann.post("/v1/runs/run/leases", json={"wait_s": 25}))
    page = asyncio.create_task(service.admin.get("/v1/runs/run/labels", params={"wait_s": 25}))
    async with asyncio.timeout(60):
        while len(service.state.database.signals._events) < 2:
            await asyncio.sleep(0.01)
    assert (await service.admin.delete("/v1/runs/run")).status_code == 204
    assert [answer.status_code for answer in await together(lease, page)] == [404, 404]
