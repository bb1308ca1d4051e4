"""Duels that are for some annotators only, on both databases."""

from typing import Any

import pytest
from service.conftest import Running, claim, free, label
from sqlalchemy import true

from sea_agent.service.store import leases

pytestmark = pytest.mark.anyio


async def patch(service: Running, query: str, **changes: Any) -> dict[str, Any]:
    answer = await service.admin.patch(f"/v1/queries/{query}", json=changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def hand_out(service: Running, *annotators: str, **how: Any) -> dict[str, int]:
    body = {"annotators": list(annotators), **how}
    answer = await service.admin.post("/v1/runs/run/assignments", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["assigned"]


async def assigned(service: Running) -> dict[str, list[str]]:
    """By client key."""
    listed = (await service.admin.get("/v1/runs/run/queries")).json()["queries"]
    return {query["client_key"]: query["assigned"] for query in listed}


# --- one duel --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gold", [None, "first"])
async def test_an_assigned_duel_goes_only_to_whom_it_is_assigned(service: Running, gold: str | None) -> None:
    await service.run(gold_share=1.0)
    (query,) = await service.post(1, votes_needed=2, gold=gold)
    await service.post(1, start=1, votes_needed=2, priority=-1)  # an ordinary one, in whose stead a gold duel is shown
    people = {name: await service.annotator(name) for name in ("ann", "bob", "cem")}
    assert (await patch(service, query, assigned=["cem", "ann", "cem"]))["assigned"] == ["ann", "cem"]
    assert (await claim(people["bob"]))["query_id"] != query
    await people["bob"].delete(f"/v1/leases/{(await claim(people['bob']))['lease_id']}")
    for name in ("ann", "cem"):
        assert (await claim(people[name]))["query_id"] == query


async def test_assignments_that_no_claim_looks_at_are_noticed(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(leases, "_IS_THEIRS", true())
    blind = leases._offers("vote").where(*leases._OPEN_IN_RUN).suffix_with(leases._FIRST)
    monkeypatch.setattr(leases, "_WAITING", blind)
    await sqlite_service.run()
    (query,) = await sqlite_service.post(1)
    await patch(sqlite_service, query, assigned=["ann"])
    assert not await free(await sqlite_service.annotator("bob"))


async def test_a_duel_that_is_for_nobody_is_for_everybody(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    bob = await service.annotator("bob")
    await patch(service, query, assigned=["ann"])
    assert (await patch(service, query, priority=3))["assigned"] == ["ann"], "a field that is absent stays"
    assert await free(bob)
    assert (await patch(service, query, assigned=[]))["assigned"] == []
    assert (await claim(bob))["query_id"] == query


async def test_who_holds_a_duel_that_is_assigned_to_others_loses_it(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    held = await claim(bob)
    changed = await patch(service, query, assigned=["ann"])
    assert [(lease["annotator"], lease["state"]) for lease in changed["leases"]] == [("bob", "released")]
    assert (await bob.patch(f"/v1/leases/{held['lease_id']}", json={})).status_code == 409
    assert await free(bob)
    assert (await claim(ann))["query_id"] == query
    assert (await label(bob, held)).json()["late"] is True, "the work is kept all the same"


async def test_who_holds_a_duel_and_is_assigned_to_it_keeps_it(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    ann = await service.annotator("ann")
    held = await claim(ann)
    for named in (["ann", "bob"], []):
        await patch(service, query, assigned=named)
        assert await claim(ann) == held


@pytest.mark.parametrize("over", ["cancelled", "expired"])
async def test_a_duel_that_is_opened_again_is_for_whom_it_was(service: Running, over: str) -> None:
    await service.run()
    (query,) = await service.post(1, expires_at="2027-01-18T08:00:00Z")  # in three days
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await patch(service, query, assigned=["ann"])
    if over == "cancelled":
        await service.admin.post(f"/v1/queries/{query}/cancel")
    else:
        service.clock.jump(4 * 86_400)
    reopened = (await service.admin.post(f"/v1/queries/{query}/reopen")).json()
    assert (reopened["state"], reopened["assigned"]) == ("open", ["ann"])
    assert await free(bob)
    assert (await claim(ann))["query_id"] == query


# --- handing out -----------------------------------------------------------------------------------------------------


async def test_duels_are_handed_out_evenly_each_to_as_many_as_it_needs_votes(service: Running) -> None:
    await service.run(votes_needed=2)
    await service.post(9)
    assert await hand_out(service, "ann", "bob", "cem", share=1) == {"ann": 6, "bob": 6, "cem": 6}
    assert [len(named) for named in (await assigned(service)).values()] == [2] * 9


async def test_a_share_and_a_number_take_those_that_would_come_first(service: Running) -> None:
    await service.run()
    await service.post(6)
    await service.post(2, start=6, priority=1)
    assert await hand_out(service, "ann", share=0.5) == {"ann": 4}
    assert {key for key, named in (await assigned(service)).items() if named} == {"k6", "k7", "k0", "k1"}
    assert await hand_out(service, "bob", count=1, each=1) == {"bob": 1}
    assert (await assigned(service))["k2"] == ["bob"]
    assert await hand_out(service, "cem", count=100) == {"cem": 3}, "all that are left"


async def test_only_duels_that_nobody_has_or_has_answered_are_handed_out(service: Running) -> None:
    await service.run(votes_needed=2)
    answered, held, cancelled, theirs = await service.post(4)
    await service.post(1, start=4, gold="first")
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await label(ann, await claim(ann))
    assert (await claim(ann))["query_id"] == held
    await service.admin.post(f"/v1/queries/{cancelled}/cancel")
    await patch(service, theirs, assigned=["dan"])
    assert await hand_out(service, "eve", "fay", share=1) == {"eve": 0, "fay": 0}
    service.clock.jump(301)  # the lease ends, and nobody has noticed
    assert await hand_out(service, "eve", "fay", share=1) == {"eve": 1, "fay": 1}
    assert (await assigned(service))["k1"] == ["eve", "fay"]
    assert (await claim(bob))["query_id"] == answered


async def test_a_duel_is_not_handed_out_to_who_skipped_it(service: Running) -> None:
    await service.run()
    await service.post(2)
    ann = await service.annotator("ann")
    await ann.post(f"/v1/leases/{(await claim(ann))['lease_id']}/skip")
    assert await hand_out(service, "ann", share=1) == {"ann": 1}
    assert await assigned(service) == {"k0": [], "k1": ["ann"]}
    assert await hand_out(service, "ann", "bob", share=1) == {"ann": 0, "bob": 1}


async def test_more_votes_than_people_named_are_refused_and_nothing_is_assigned(service: Running) -> None:
    await service.run()
    await service.post(1)
    await service.post(1, start=1, votes_needed=3)
    body = {"annotators": ["ann", "bob", "ann"], "share": 1.0}
    answer = await service.admin.post("/v1/runs/run/assignments", json=body)
    assert answer.status_code == 409
    assert "3 annotators are to answer a duel, and 2 are named" in answer.json()["detail"]
    assert await assigned(service) == {"k0": [], "k1": []}
    assert await hand_out(service, "ann", "bob", share=1, each=2) == {"ann": 2, "bob": 2}


@pytest.mark.parametrize(
    "body",
    [
        {"annotators": ["ann"]},
        {"annotators": ["ann"], "share": 0.5, "count": 3},
        {"annotators": ["ann"], "share": 0},
        {"annotators": ["ann"], "share": 1.5},
        {"annotators": ["ann"], "count": 0},
        {"annotators": [], "share": 1},
    ],
)
async def test_what_is_no_share_and_no_number_is_refused(sqlite_service: Running, body: dict[str, Any]) -> None:
    await sqlite_service.run()
    assert (await sqlite_service.admin.post("/v1/runs/run/assignments", json=body)).status_code == 422


async def test_all_is_taken_back_and_no_other_run_is_touched(service: Running) -> None:
    for run in ("run", "other"):
        await service.run(run)
        await service.post(2, run)
        body = {"annotators": ["ann"], "share": 1}
        assert (await service.admin.post(f"/v1/runs/{run}/assignments", json=body)).status_code == 200
    bob = await service.annotator("bob")
    assert await free(bob)
    assert (await service.admin.delete("/v1/runs/run/assignments")).status_code == 204
    await claim(bob)
    assert await free(bob, "other")
    assert (await service.admin.delete("/v1/runs/nowhere/assignments")).status_code == 404


# --- a whole run -----------------------------------------------------------------------------------------------------


async def assign_run(service: Running, *annotators: str, run: str = "run") -> None:
    answer = await service.admin.put(f"/v1/runs/{run}/assignments", json={"annotators": list(annotators)})
    assert answer.status_code == 204, answer.text


async def told(service: Running, run: str = "run") -> list[str]:
    """Who the service says the run is for, in the run and in the list."""
    found = (await service.admin.get(f"/v1/runs/{run}")).json()["assigned"]
    listed = (await service.admin.get("/v1/runs")).json()["runs"]
    assert {row["id"]: row["assigned"] for row in listed}[run] == found
    return list(found)


async def can_answer(service: Running) -> tuple[list[str], int]:
    """Who can answer duels of the run, and how many of these nobody can."""
    progress = (await service.admin.get("/v1/runs/run/progress")).json()
    assert progress["annotators"] == len(progress["people"])
    return progress["people"], progress["stuck"]


@pytest.mark.parametrize("golds", [0, 3])
async def test_an_assigned_run_gives_its_duels_now_and_later_only_to_whom_it_is_assigned(
    service: Running, golds: int
) -> None:
    await service.run(gold_share=1.0)
    if golds:  # each is shown in the stead of one of the others
        await service.post(golds, start=10, gold="first")
    await service.post(1)
    people = {name: await service.annotator(name) for name in ("ann", "bob", "cem")}
    await assign_run(service, "cem", "ann", "cem")
    assert await told(service) == ["ann", "cem"]
    await service.post(2, start=1)  # as a later round does
    assert await free(people["bob"])
    for name in ("ann", "cem"):
        await label(people[name], await claim(people[name]))
    assert (await service.admin.delete("/v1/runs/run/assignments")).status_code == 204
    assert await told(service) == []
    await claim(people["bob"])


async def test_names_of_a_run_that_no_claim_looks_at_are_noticed(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(leases, "_RUN_IS_THEIRS", true())
    blind = leases._offers("vote").where(*leases._OPEN_IN_RUN).suffix_with(leases._FIRST)
    monkeypatch.setattr(leases, "_WAITING", blind)
    await sqlite_service.run()
    await sqlite_service.annotator("ann")
    bob = await sqlite_service.annotator("bob")
    await assign_run(sqlite_service, "ann")
    await sqlite_service.post(1)
    assert not await free(bob)


async def test_another_run_is_not_touched(service: Running) -> None:
    for run in ("run", "other"):
        await service.run(run)
        await service.post(1, run)
    bob = await service.annotator("bob")
    await service.annotator("ann")
    await assign_run(service, "ann")
    assert await free(bob)
    await claim(bob, "other")
    assert await told(service, "other") == []


async def test_who_holds_a_duel_of_a_run_that_is_assigned_to_others_loses_it_and_may_answer_late(
    service: Running,
) -> None:
    await service.run()
    (query,) = await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    held = await claim(bob)
    assert await free(ann)
    await assign_run(service, "ann")
    assert await free(bob)
    assert (await claim(ann))["query_id"] == query
    await assign_run(service, "ann", "bob")
    assert (await claim(ann))["query_id"] == query, "who is named keeps what they hold"
    assert (await label(bob, held)).json()["late"] is True, "the work is kept all the same"


async def test_a_duel_with_names_of_its_own_is_for_these_whatever_the_run_says(service: Running) -> None:
    await service.run()
    own, _ = await service.post(2)
    ann, bob, cem = [await service.annotator(name) for name in ("ann", "bob", "cem")]
    await assign_run(service, "ann")
    await patch(service, own, assigned=["bob"])
    assert (await claim(bob))["query_id"] == own
    assert (await claim(ann))["query_id"] != own
    assert await free(cem)
    assert await can_answer(service) == (["ann", "bob"], 0)


async def test_only_those_whom_a_run_is_for_can_still_answer(service: Running) -> None:
    await service.run()
    await service.post(2)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await ann.post(f"/v1/leases/{(await claim(ann))['lease_id']}/skip")
    assert await can_answer(service) == (["ann", "bob"], 0), "bob can"
    await assign_run(service, "ann")
    assert await can_answer(service) == (["ann"], 1)
    stuck = (await service.admin.get("/v1/runs/run/queries", params={"state": "stuck"})).json()["queries"]
    assert [query["client_key"] for query in stuck] == ["k0"]
    assert (await service.admin.post("/v1/runs/run/settle")).json()["cancelled"] == 1
    await service.admin.delete("/v1/runs/run/assignments")
    await ann.post(f"/v1/leases/{(await claim(ann))['lease_id']}/skip")
    assert await can_answer(service) == (["ann", "bob"], 0)
    assert (await service.admin.post("/v1/runs/run/settle")).json()["cancelled"] == 1, "bob can have the other"
    await claim(bob)


async def test_names_that_cannot_answer_and_too_few_names_are_refused_in_words(service: Running) -> None:
    await service.run(votes_needed=2)
    await service.run("other")
    await service.annotator("ann")
    await service.client("annotate", annotator="elsewhere", runs=["other"])
    await service.client("read", annotator="reader")
    for names, said in (
        (["ann", "anne", "elsewhere", "reader"], "belongs to 'anne', 'elsewhere', 'reader'; the run is as it was"),
        (["ann", "ann"], "needs votes by 2 people, and the names are those of 1: name more"),
    ):
        answer = await service.admin.put("/v1/runs/run/assignments", json={"annotators": names})
        assert answer.status_code == 409
        assert said in answer.json()["detail"]
    assert await told(service) == []
    empty = await service.admin.put("/v1/runs/run/assignments", json={"annotators": []})
    assert empty.status_code == 422
    nowhere = await service.admin.put("/v1/runs/nowhere/assignments", json={"annotators": ["ann"]})
    assert nowhere.status_code == 404


@pytest.mark.parametrize("how", ["erase", "end"])
async def test_who_is_erased_or_ended_is_named_no_more(service: Running, how: str) -> None:
    await service.run()
    await service.run("closed")
    await service.post(1)
    for name in ("ann", "bob"):
        await service.annotator(name)
    cem = await service.annotator("cem")
    await assign_run(service, "ann", "bob")
    await assign_run(service, "ann", run="closed")
    await service.run("closed", state="closed")
    assert (await service.admin.post(f"/v1/people/ann/{how}")).is_success
    assert (await told(service), await told(service, "closed")) == (["bob"], [])
    assert await free(cem)
    assert (await service.admin.post(f"/v1/people/bob/{how}")).is_success
    await claim(cem)


async def test_names_are_told_to_keys_that_may_read_and_who_can_answer_to_experiments_alone(service: Running) -> None:
    await service.run()
    ann = await service.annotator("ann")
    await assign_run(service, "ann")
    experiment, reader = await service.client("experiment"), await service.client("read")
    for client, named in ((experiment, ["ann"]), (reader, None), (service.admin, ["ann"])):
        assert (await client.get("/v1/runs/run")).json()["assigned"] == ["ann"]
        progress = (await client.get("/v1/runs/run/progress")).json()
        assert (progress["people"], progress["annotators"]) == (named, 1)
        (listed,) = (await client.get("/v1/runs", params={"progress": True})).json()["runs"]
        assert listed["progress"]["people"] == named
    for path in ("/v1/runs/run", "/v1/runs/run/progress"):
        assert {"assigned", "people", "annotators"}.isdisjoint((await ann.get(path)).json())


async def test_a_run_is_taken_back_from_one_and_stays_with_the_others(service: Running) -> None:
    await service.run()
    await service.post(1)
    clients = [await service.annotator(name) for name in ("ann", "bob", "cem")]
    await assign_run(service, "ann", "bob")
    stranger = await service.admin.delete("/v1/runs/run/assignments", params={"annotator": ["ann", "cem"]})
    assert stranger.status_code == 404
    assert "Nothing of run run is assigned to 'cem'" in stranger.json()["detail"]
    assert await told(service) == ["ann", "bob"]
    for name, left in (("ann", ["bob"]), ("bob", [])):
        assert await free(clients[2])
        taken = await service.admin.delete("/v1/runs/run/assignments", params={"annotator": name})
        assert (taken.status_code, await told(service)) == (204, left)
    await claim(clients[2])


async def test_a_run_that_is_deleted_takes_its_names_along(service: Running) -> None:
    await service.run()
    await service.annotator("ann")
    await assign_run(service, "ann")
    await service.run(state="closed")
    assert (await service.admin.delete("/v1/runs/run")).status_code == 204
    await service.run()
    assert await told(service) == []


async def test_duels_are_taken_back_from_one_and_stay_with_others(service: Running) -> None:
    for run in ("run", "other"):
        await service.run(run)
        await service.post(4, run)
        for names in (["ann"], ["ann", "bob"]):
            body = {"annotators": names, "count": 2, "each": len(names)}
            assert (await service.admin.post(f"/v1/runs/{run}/assignments", json=body)).status_code == 200
    ann, cem = await service.annotator("ann"), await service.annotator("cem")
    held = await claim(ann)
    assert await free(cem)
    taken = await service.admin.delete("/v1/runs/run/assignments", params={"annotator": "ann"})
    assert taken.status_code == 204
    assert await assigned(service) == {"k0": [], "k1": [], "k2": ["bob"], "k3": ["bob"]}
    taken_over = await claim(cem)
    assert taken_over["prompt"] == "prompt 1", "what ann holds stays hers"
    for client, lease in ((ann, held), (cem, taken_over)):
        assert (await label(client, lease)).is_success
    assert await free(cem), "what is bob's too is only for bob"
    others = (await service.admin.get("/v1/runs/other/queries", params={"annotator": "ann"})).json()
    assert others["total"] == 4
    await service.admin.delete("/v1/runs/run/assignments", params={"annotator": ["bob"]})
    assert not any((await assigned(service)).values())


async def test_nothing_is_taken_back_when_one_of_those_named_has_nothing(service: Running) -> None:
    await service.run()
    await service.post(1)
    await hand_out(service, "ann", share=1)
    both = {"annotator": ["ann", "zoe"]}
    refused = await service.admin.delete("/v1/runs/run/assignments", params=both)
    assert refused.status_code == 404
    assert "Nothing of run run is assigned to 'zoe'. Nothing was taken back" in refused.json()["detail"]
    assert await assigned(service) == {"k0": ["ann"]}
    many = {"annotator": [f"p{n}" for n in range(21)]}
    assert (await service.admin.delete("/v1/runs/run/assignments", params=many)).status_code == 422
    assert (await service.admin.delete("/v1/runs/run/assignments", params={"annotators": "ann"})).status_code == 422
    assert await assigned(service) == {"k0": ["ann"]}, "a name that is misspelt is not all"
