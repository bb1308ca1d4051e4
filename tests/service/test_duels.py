"""The list of duels, and what an experiment changes of one, on both databases."""

from typing import Any

import pytest
from service.conftest import Running, claim, free, label

from sea_agent.service.store import tables

pytestmark = pytest.mark.anyio


async def listed(service: Running, **filters: Any) -> dict[str, Any]:
    answer = await service.admin.get("/v1/runs/run/queries", params=filters)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def keys(service: Running, **filters: Any) -> list[str]:
    """The client keys of the duels that are found; their number is told rightly."""
    page = await listed(service, **filters)
    assert page["total"] == len(page["queries"])
    return sorted(query["client_key"] for query in page["queries"])


async def patch(service: Running, query: str, **changes: Any) -> dict[str, Any]:
    answer = await service.admin.patch(f"/v1/queries/{query}", json=changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def do(service: Running, query: str, what: str) -> dict[str, Any]:
    answer = await service.admin.post(f"/v1/queries/{query}/{what}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def skip(client: Any) -> dict[str, Any]:
    lease = await claim(client)
    assert (await client.post(f"/v1/leases/{lease['lease_id']}/skip")).status_code == 204
    return lease


# --- the list --------------------------------------------------------------------------------------------------------


async def test_pages_hold_every_duel_once_the_newest_first(service: Running) -> None:
    await service.run()
    await service.post(7)
    await service.run("other")
    await service.post(2, "other")
    pages = [await listed(service, limit=3)]
    await service.post(1, start=7)  # comes before what is read next
    while (after := pages[-1]["next_after"]) is not None:
        pages.append(await listed(service, limit=3, after=after))
    found = [[query["client_key"] for query in page["queries"]] for page in pages]
    assert found == [["k6", "k5", "k4"], ["k3", "k2", "k1"], ["k0"]]
    assert [page["total"] for page in pages] == [7, 8, 8]
    assert (await listed(service, limit=8))["next_after"] is None


async def test_pages_hold_every_duel_once_the_oldest_first(service: Running) -> None:
    await service.run()
    await service.post(5)
    pages = [await listed(service, limit=3, order="oldest", text="prompt")]
    await service.post(2, start=5)  # come at the end
    while (after := pages[-1]["next_after"]) is not None:
        pages.append(await listed(service, limit=3, order="oldest", text="prompt", after=after))
    found = [[query["client_key"] for query in page["queries"]] for page in pages]
    assert found == [["k0", "k1", "k2"], ["k3", "k4", "k5"], ["k6"]]
    assert await listed(service, order="newest") == await listed(service)


async def test_a_listed_duel_tells_what_there_is_around_it(service: Running) -> None:
    await service.run(votes_needed=3)
    (query,) = await service.post(1, prompt="x" * 199 + "ab", priority=2, expires_at="2027-01-16T08:00:00Z")
    people = [await service.annotator(name) for name in ("ann", "bob", "cem")]
    await label(people[0], await claim(people[0]))
    service.clock.jump(1)
    await skip(people[1])
    service.clock.jump(1)
    await claim(people[2], ttl_s=60)
    await patch(service, query, assigned=["cem", "ann"])
    service.clock.jump(61)
    (found,) = (await listed(service))["queries"]
    shown = [(lease["annotator"], lease["state"], lease["kind"]) for lease in found.pop("leases")]
    assert shown == [("ann", "labelled", "vote"), ("bob", "skipped", "vote"), ("cem", "expired", "vote")]
    assert found == {
        "id": query,
        "client_key": "k0",
        "state": "open",
        "gold": None,
        "votes": 1,
        "votes_needed": 3,
        "priority": 2,
        "created_at": "2027-01-15T08:00:00.000Z",
        "expires_at": "2027-01-16T08:00:00.000Z",
        "erased_at": None,
        "prompt": "x" * 199 + "a",
        "assigned": ["ann", "cem"],
    }
    one = (await service.admin.get(f"/v1/queries/{query}")).json()
    assert [lease["annotator"] for lease in one["leases"]] == ["ann", "bob", "cem"]
    assert (one["assigned"], one["erased_at"]) == (["ann", "cem"], None)


async def test_duels_are_found_by_their_state(service: Running) -> None:
    await service.run()
    await service.post(4)
    await service.post(1, start=4, gold="first")
    await service.post(1, start=5, expires_at="2027-01-15T08:01:00Z")
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await label(ann, await claim(ann))
    await skip(ann)
    queries = {query["client_key"]: query["id"] for query in (await listed(service))["queries"]}
    await do(service, queries["k3"], "cancel")
    await patch(service, queries["k2"], assigned=["nobody"])
    assert (await claim(bob))["query_id"] == queries["k1"]
    service.clock.jump(61)
    states = ("open", "answered", "cancelled", "expired", "leased", "skipped", "stuck")
    assert {state: await keys(service, state=state) for state in states} == {
        "open": ["k1", "k2", "k4"],
        "answered": ["k0"],
        "cancelled": ["k3"],
        "expired": ["k5"],
        "leased": ["k1"],
        "skipped": ["k1"],
        "stuck": ["k2"],
    }
    assert (await service.admin.get("/v1/runs/run/progress")).json()["stuck"] == 1
    assert await keys(service, gold=True) == ["k4"]
    assert await keys(service, gold=False, state="open") == ["k1", "k2"]
    service.clock.jump(240)
    assert await keys(service, state="leased") == [], "the lease has ended"


async def test_duels_are_found_by_who_has_to_do_with_them(service: Running) -> None:
    await service.run()
    queries = await service.post(5)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await label(ann, await claim(ann))
    await skip(ann)
    await skip(bob)
    assert (await claim(ann))["query_id"] == queries[2]
    await patch(service, queries[3], assigned=["ann", "cem"])
    batch = {"labels": [{"client_key": "k4", "outcome": "tie", "annotator": "judge"}]}
    await service.admin.post("/v1/runs/run/labels:batch", json=batch, headers={"Idempotency-Key": "k"})
    found = {name: await keys(service, annotator=name) for name in ("ann", "bob", "cem", "judge", "nobody")}
    assert found == {"ann": ["k0", "k1", "k2", "k3"], "bob": ["k1"], "cem": ["k3"], "judge": ["k4"], "nobody": []}
    assert await keys(service, annotator="ann", state="skipped") == ["k1"]
    assert await keys(service, annotator="bob", state="leased") == []
    assert await keys(service, annotator="ann", state="leased") == ["k2"]
    assert await keys(service, annotator="ann", state="open") == ["k1", "k2", "k3"]


TEXTS = {"per cent": "100% sure", "number": "100 sure", "line": "a_b", "letter": "axb", "back": "a\\b", "big": "ÄRGER"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%", ["per cent"]),
        ("0% S", ["per cent"]),
        ("a_b", ["line"]),
        ("a\\b", ["back"]),
        ("/", []),
        ("ärger", ["big"]),
        ("Ärg", ["big"]),
        ("SURE", ["number", "per cent"]),
    ],
)
@pytest.mark.parametrize("field", ["prompt", "first", "second"])
async def test_a_text_is_found_as_it_stands_in_capitals_or_not(
    service: Running, field: str, text: str, expected: list[str]
) -> None:
    await service.run()
    other = {"prompt": "-", "first": "-", "second": "-"}
    items = [{"client_key": key, **other, field: said} for key, said in TEXTS.items()]
    assert (await service.admin.post("/v1/runs/run/queries:batch", json={"queries": items})).status_code == 200
    assert await keys(service, text=text) == expected


async def test_a_duel_is_found_by_its_client_key(service: Running) -> None:
    await service.run()
    await service.post(12)
    assert await keys(service, text="K1") == ["k1", "k10", "k11"]


@pytest.mark.parametrize(
    "filters",
    [
        {"state": "lost"},
        {"limit": 0},
        {"limit": 501},
        {"after": -1},
        {"gold": "maybe"},
        {"order": "votes"},
        {"unknown": 1},
    ],
)
async def test_a_filter_that_is_none_is_refused(sqlite_service: Running, filters: dict[str, Any]) -> None:
    await sqlite_service.run()
    answer = await sqlite_service.admin.get("/v1/runs/run/queries", params=filters)
    assert answer.status_code == 422


async def test_an_unknown_run_has_no_list(service: Running) -> None:
    assert (await service.admin.get("/v1/runs/nowhere/queries")).status_code == 404


# --- one duel --------------------------------------------------------------------------------------------------------


async def test_a_duel_that_is_made_urgent_comes_first(service: Running) -> None:
    await service.run()
    *_, last = await service.post(3)
    assert (await patch(service, last, priority=5))["priority"] == 5
    assert (await claim(await service.annotator("ann")))["query_id"] == last


async def test_a_duel_is_answered_and_open_again_as_it_needs_fewer_votes_or_more(service: Running) -> None:
    await service.run(votes_needed=2)
    (query,) = await service.post(1)
    ann, bob, cem = [await service.annotator(name) for name in ("ann", "bob", "cem")]
    await label(ann, await claim(ann))
    assert (await patch(service, query, votes_needed=1))["state"] == "answered"
    assert await free(bob)
    assert (await patch(service, query, votes_needed=2))["state"] == "open"
    await claim(bob)
    assert await free(cem), "one vote and one lease are two"
    await patch(service, query, votes_needed=3)
    await claim(cem)


async def test_votes_needed_do_not_bring_a_cancelled_duel_back(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    await do(service, query, "cancel")
    assert (await patch(service, query, votes_needed=5))["state"] == "cancelled"
    assert await free(await service.annotator("ann"))


async def test_a_duel_that_was_cancelled_or_has_expired_is_asked_again_also_those_who_skipped(service: Running) -> None:
    await service.run()
    (cancelled,) = await service.post(1)
    (expired,) = await service.post(1, start=1, expires_at="2027-01-15T08:01:00Z")
    ann = await service.annotator("ann")
    assert [(await skip(ann))["query_id"] for _ in range(2)] == [cancelled, expired]
    await do(service, cancelled, "cancel")
    service.clock.jump(60)
    for query in (cancelled, expired):
        assert await free(ann)
        again = await do(service, query, "reopen")
        assert (again["state"], again["expires_at"]) == ("open", None)
        lease = await claim(ann)
        assert lease["query_id"] == query
        await label(ann, lease)


async def test_a_duel_is_opened_again_with_the_time_that_it_still_has(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1, expires_at="2027-01-15T08:01:00Z")
    await do(service, query, "cancel")
    assert (await do(service, query, "reopen"))["expires_at"] == "2027-01-15T08:01:00.000Z"
    service.clock.jump(60)
    assert await free(await service.annotator("ann"))


async def test_a_duel_that_has_its_votes_or_lost_its_texts_is_not_opened_again(service: Running) -> None:
    await service.run()
    answered, late, erased = await service.post(3)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await label(ann, await claim(ann))
    lease = await claim(bob)
    for query in (late, erased):
        await do(service, query, "cancel")
    await label(bob, lease)  # late, and all that it needed
    row = tables.queries.update().where(tables.queries.c.id == erased).values(erased_at=1.0)
    await service.state.database.write(lambda connection: connection.execute(row).rowcount)
    refused = [(await service.admin.post(f"/v1/queries/{query}/reopen")) for query in (answered, erased)]
    assert [answer.status_code for answer in refused] == [409, 409]
    assert (await do(service, late, "reopen"))["state"] == "answered"
    assert await free(ann)


async def test_a_duel_that_is_taken_back_goes_to_others(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    held = await claim(ann)
    assert await free(bob)
    for _ in range(2):
        assert [lease["state"] for lease in (await do(service, query, "take-back"))["leases"]] == ["released"]
    assert (await ann.patch(f"/v1/leases/{held['lease_id']}", json={})).status_code == 409
    assert (await claim(bob))["query_id"] == query
    assert await free(ann)
    assert (await label(ann, held)).json()["late"] is True, "the work is kept all the same"


async def test_an_unknown_duel_is_not_changed(service: Running) -> None:
    path = "/v1/queries/query-0"
    answers = [await service.admin.post(f"{path}/{what}") for what in ("reopen", "take-back")]
    answers.append(await service.admin.patch(path, json={}))
    assert [answer.status_code for answer in answers] == [404] * 3
