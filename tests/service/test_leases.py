"""Posting duels and leasing them, on both databases."""

from collections import Counter

import pytest
from service.conftest import Running, claim, free, label

pytestmark = pytest.mark.anyio


# --- posting ---------------------------------------------------------------------------------------------------------


async def test_a_batch_that_is_posted_again_creates_nothing(service: Running) -> None:
    await service.run()
    first = await service.post(3)
    body = {"client_key": "k3", "prompt": "p", "first": "a", "second": "b"}
    old = [
        {"client_key": f"k{n}", "prompt": f"prompt {n}", "first": f"first {n}", "second": f"second {n}"}
        for n in range(3)
    ]
    again = await service.admin.post("/v1/runs/run/queries:batch", json={"queries": [*old, body, body]})
    rows = again.json()["queries"]
    assert [row["id"] for row in rows[:3]] == first
    assert [row["created"] for row in rows] == [False, False, False, True, False]
    assert (await service.admin.get("/v1/runs/run")).json()["queries"] == 4


async def test_a_client_key_with_another_body_stores_nothing_of_the_batch(service: Running) -> None:
    await service.run()
    await service.post(1)
    new = {"client_key": "new", "prompt": "p", "first": "a", "second": "b"}
    batch = {"queries": [new, {**new, "client_key": "k0"}]}
    assert (await service.admin.post("/v1/runs/run/queries:batch", json=batch)).status_code == 409
    assert (await service.admin.get("/v1/runs/run")).json()["queries"] == 1


async def test_a_query_tells_its_state_and_its_votes(service: Running) -> None:
    await service.run()
    answered, cancelled, open_ = await service.post(3)
    (passing,) = await service.post(1, start=3, expires_at="2027-01-15T09:00:00+01:00")  # the clock stands at 08:00 UTC
    await service.admin.post(f"/v1/queries/{cancelled}/cancel")
    ann = await service.annotator("ann")
    lease = await claim(ann)
    await label(ann, lease, "tie")
    states = {}
    for query in (answered, cancelled, open_, passing):
        found = (await service.admin.get(f"/v1/queries/{query}")).json()
        states[query] = found["state"], [vote["outcome"] for vote in found["votes"]]
    assert states == {
        answered: ("answered", ["tie"]),
        cancelled: ("cancelled", []),
        open_: ("open", []),
        passing: ("expired", []),
    }


async def test_cancelling_twice_is_the_same_and_ends_the_lease(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    ann = await service.annotator("ann")
    lease = await claim(ann)
    for _ in range(2):
        assert (await service.admin.post(f"/v1/queries/{query}/cancel")).json()["state"] == "cancelled"
    assert await free(ann)
    assert (await ann.patch(f"/v1/leases/{lease['lease_id']}", json={})).status_code == 409
    assert (await label(ann, lease)).json()["late"] is True  # the work is kept all the same


async def test_urgent_duels_come_first_then_those_nearest_to_their_votes_then_the_oldest(service: Running) -> None:
    await service.run()
    old, second = await service.post(2, votes_needed=2)
    (single,) = await service.post(1, start=2)
    (urgent,) = await service.post(1, start=3, priority=5, votes_needed=3)
    order = []
    ann = await service.annotator("ann")
    for _ in range(4):
        lease = await claim(ann)
        order.append(lease["query_id"])
        await label(ann, lease)
    assert order == [urgent, single, old, second]


# --- leases ----------------------------------------------------------------------------------------------------------


async def test_a_caller_who_holds_a_lease_gets_it_again(service: Running) -> None:
    await service.run()
    await service.post(2)
    ann = await service.annotator("ann")
    first, second = await claim(ann), await claim(ann)
    assert first == second


async def test_a_duel_is_leased_to_as_many_as_it_has_votes_missing(service: Running) -> None:
    await service.run(votes_needed=2)
    await service.post(1)
    people = [await service.annotator(name) for name in ("ann", "bob", "cem")]
    first, _ = await claim(people[0]), await claim(people[1])
    assert await free(people[2])
    await label(people[0], first)
    assert await free(people[2])  # one vote and one live lease
    await people[1].post(f"/v1/leases/{(await claim(people[1]))['lease_id']}/skip")
    await claim(people[2])


async def test_nobody_answers_a_duel_twice(service: Running) -> None:
    await service.run(votes_needed=3)
    await service.post(2)
    ann = await service.annotator("ann")
    seen = []
    for _ in range(2):
        lease = await claim(ann)
        seen.append(lease["query_id"])
        await label(ann, lease)
    assert len(set(seen)) == 2
    assert await free(ann)


async def test_a_skipped_duel_goes_to_others_and_not_back(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    lease = await claim(ann)
    for _ in range(2):
        assert (await ann.post(f"/v1/leases/{lease['lease_id']}/skip")).status_code == 204
    assert await free(ann)
    assert (await claim(bob))["query_id"] == query
    assert await service.log() == []


async def test_a_released_duel_goes_to_others_and_comes_back_the_same(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    lease = await claim(ann)
    assert (await ann.delete(f"/v1/leases/{lease['lease_id']}")).status_code == 204
    other = await claim(bob)
    assert other["query_id"] == lease["query_id"]
    assert await free(ann)
    await bob.delete(f"/v1/leases/{other['lease_id']}")
    assert await claim(ann) == lease


async def test_an_answered_lease_cannot_be_skipped_or_kept_and_releasing_it_changes_nothing(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann = await service.annotator("ann")
    lease = await claim(ann)
    await label(ann, lease)
    path = f"/v1/leases/{lease['lease_id']}"
    assert (await ann.post(f"{path}/skip")).status_code == 409
    assert (await ann.patch(path, json={})).status_code == 409
    assert (await ann.delete(path)).status_code == 204
    assert (await label(ann, lease)).status_code == 200


async def test_a_heartbeat_keeps_a_lease_over_its_first_time(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    lease = await claim(ann, ttl_s=60)
    service.clock.jump(50)
    assert (await ann.patch(f"/v1/leases/{lease['lease_id']}", json={"ttl_s": 60})).status_code == 200
    service.clock.jump(50)
    assert await free(bob)
    service.clock.jump(11)
    assert (await claim(bob))["query_id"] == lease["query_id"]
    assert (await ann.patch(f"/v1/leases/{lease['lease_id']}", json={})).status_code == 409


async def test_a_foreign_lease_does_not_exist(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    lease = await claim(ann)
    path = f"/v1/leases/{lease['lease_id']}"
    answers = [
        await label(bob, lease),
        await bob.patch(path, json={}),
        await bob.delete(path),
        await bob.post(f"{path}/skip"),
        await label(service.admin, lease),
    ]
    assert [answer.status_code for answer in answers] == [404] * 5
    assert (await label(ann, lease)).status_code == 201


async def test_the_order_shown_is_drawn_for_each_lease_and_mapped_back_in_the_log(service: Running) -> None:
    await service.run()
    queries = await service.post(40)
    ann = await service.annotator("ann")
    shown = Counter()
    expected = {}
    for _ in range(40):
        lease = await claim(ann)
        number = queries.index(lease["query_id"])
        swapped = lease["first"] == f"second {number}"
        assert {lease["first"], lease["second"]} == {f"first {number}", f"second {number}"}
        shown[swapped] += 1
        outcome = ("first", "second", "tie", "both_bad")[number % 4]
        given = await label(ann, lease, outcome)
        assert given.json()["outcome"] == outcome
        other = {"first": "second", "second": "first"}.get(outcome, outcome)
        expected[lease["query_id"]] = other if swapped else outcome
    assert min(shown.values()) >= 10  # both orders: fewer than ten of one has probability 0.0007
    assert {entry["query_id"]: entry["outcome"] for entry in await service.log()} == expected
