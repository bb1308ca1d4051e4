"""Duels, leases and labels, on both databases."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import httpx
import pytest
from service.conftest import Running, claim, label, together

pytestmark = pytest.mark.anyio


async def free(client: httpx.AsyncClient, run: str = "run") -> bool:
    """Whether there is nothing to lease."""
    return (await client.post(f"/v1/runs/{run}/leases", json={})).status_code == 204


def seqs(log: Sequence[dict]) -> list[int]:
    return [entry["seq"] for entry in log]


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


# --- labels ----------------------------------------------------------------------------------------------------------


async def test_an_exact_replay_finds_the_label_and_another_body_is_refused(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann = await service.annotator("ann")
    lease = await claim(ann)
    body = {"strength": 2, "comment": "clear", "elapsed_ms": 900}
    first = await label(ann, lease, "second", **body)
    again = await label(ann, lease, "second", **body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert (await label(ann, lease, "second", **{**body, "strength": 3})).status_code == 409
    assert (await label(ann, lease, "first", **body)).status_code == 409
    assert len(await service.log()) == 1


async def test_an_answer_to_an_expired_lease_is_kept_as_late(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    lease = await claim(ann, ttl_s=60)
    service.clock.jump(61)
    other = await claim(bob)
    assert other["query_id"] == lease["query_id"]
    late = await label(ann, lease)
    assert (late.status_code, late.json()["late"]) == (201, True)
    in_time = await label(bob, other)  # bob's work is not thrown away either
    assert (in_time.status_code, in_time.json()["late"]) == (201, False)
    assert [(entry["annotator"], entry["late"]) for entry in await service.log()] == [("ann", True), ("bob", False)]
    assert (await service.admin.get("/v1/runs/run")).json()["answered"] == 1


async def test_a_clock_set_forward_and_back_neither_revives_nor_loses_a_lease(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    lease = await claim(ann)
    service.clock.jump(86_400)
    other = await claim(bob)
    assert other["query_id"] == query
    service.clock.jump(-86_400)
    assert await free(ann)  # the lease stays ended, though its time lies ahead again
    assert (await claim(bob))["lease_id"] == other["lease_id"]
    assert (await label(ann, lease)).json()["late"] is True
    assert (await label(bob, other)).status_code == 201


async def test_a_clock_set_back_by_a_day_does_not_keep_a_duel_for_a_day(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    lease = await claim(ann)
    service.clock.jump(-86_400)
    assert await free(bob)  # ann still holds it
    service.clock.jump(301)
    assert (await claim(bob))["query_id"] == query
    assert (await label(ann, lease)).json()["late"] is True


async def test_a_duel_that_passed_its_time_stays_so_when_the_clock_goes_back(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1, expires_at="2027-01-15T09:00:00Z")
    ann = await service.annotator("ann")
    service.clock.jump(7200)
    assert await free(ann)
    service.clock.jump(-7200)
    assert await free(ann)
    assert (await service.admin.get(f"/v1/queries/{query}")).json()["state"] == "expired"


async def test_a_revision_is_an_entry_of_its_own_and_a_repeated_one_is_not(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    lease = await claim(ann)
    given = (await label(ann, lease, "first")).json()
    path = f"/v1/labels/{given['label_id']}/revisions"
    assert (await bob.post(path, json={"outcome": "tie"})).status_code == 404
    made = await ann.post(path, json={"outcome": "second"})
    assert (made.status_code, made.json()["outcome"], made.json()["seq"]) == (201, "second", 2)
    assert (await ann.post(path, json={"outcome": "second"})).status_code == 200
    back = await ann.post(f"/v1/labels/{made.json()['label_id']}/revisions", json={"outcome": "first"})
    assert back.status_code == 201
    log = await service.log()
    assert [entry["revises"] for entry in log] == [None, given["label_id"], given["label_id"]]
    assert log[0]["outcome"] == log[2]["outcome"] != log[1]["outcome"]
    assert {entry["annotator"] for entry in log} == {"ann"}
    assert (await label(ann, lease, "first")).status_code == 200  # the first answer stays what it was


async def test_an_admin_may_revise_for_an_annotator(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann = await service.annotator("ann")
    given = (await label(ann, await claim(ann), "first")).json()
    made = await service.admin.post(f"/v1/labels/{given['label_id']}/revisions", json={"outcome": "tie"})
    assert made.status_code == 201
    assert [entry["annotator"] for entry in await service.log()] == ["ann", "ann"]


# --- repeats and gold ------------------------------------------------------------------------------------------------


async def test_a_repeat_comes_after_twenty_leases_and_is_no_vote(service: Running) -> None:
    await service.run(repeat_share=1.0)
    queries = await service.post(25)
    ann = await service.annotator("ann")
    seen = []
    for _ in range(24):
        lease = await claim(ann)
        seen.append(lease["query_id"])
        await label(ann, lease, "tie")
    kinds = [entry["kind"] for entry in await service.log()]
    assert kinds == ["vote"] * 20 + ["repeat"] * 4
    assert seen[:20] == queries[:20]
    assert len(set(seen[20:])) == 4
    counts = (await service.admin.get("/v1/runs/run")).json()
    assert (counts["answered"], counts["labels"]) == (20, 24)


async def test_a_gold_duel_is_shown_once_and_counts_for_nothing(service: Running) -> None:
    await service.run(gold_share=1.0)
    (gold,) = await service.post(1, gold="first")
    (vote,) = await service.post(1, start=1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    for who in (ann, bob):
        lease = await claim(who)
        assert lease["query_id"] == gold
        await label(who, lease)
    lease = await claim(ann)
    assert lease["query_id"] == vote
    await label(ann, lease)
    assert await free(bob)
    assert [entry["kind"] for entry in await service.log()] == ["gold", "gold", "vote"]
    counts = (await service.admin.get("/v1/runs/run")).json()
    assert (counts["queries"], counts["answered"]) == (1, 1)


async def test_about_the_wanted_share_of_leases_is_gold(service: Running) -> None:
    await service.run(gold_share=0.2)
    await service.post(60, gold="second")
    await service.post(100, start=60)
    ann = await service.annotator("ann")
    for _ in range(100):
        await label(ann, await claim(ann))
    kinds = Counter(entry["kind"] for entry in await service.log())
    assert 8 <= kinds["gold"] <= 32  # three standard deviations around 20


# --- imports ---------------------------------------------------------------------------------------------------------


async def imported(service: Running, labels: list[dict], key: str = "batch-1") -> httpx.Response:
    return await service.admin.post(
        "/v1/runs/run/labels:batch", json={"labels": labels}, headers={"Idempotency-Key": key}
    )


async def test_an_import_is_stored_once_whatever_is_replayed(service: Running) -> None:
    await service.run()
    queries = await service.post(2)
    labels = [
        {"client_key": "k0", "outcome": "first", "annotator": "judge", "at": "2026-12-31T23:00:00Z"},
        {"query_id": queries[1], "outcome": "second", "annotator": "judge"},
    ]
    first = await imported(service, labels)
    assert first.status_code == 200
    assert [row["created"] for row in first.json()["labels"]] == [True, True]
    assert (await imported(service, labels)).json() == first.json()
    assert (await imported(service, labels[:1])).status_code == 409
    other_key = await imported(service, labels, key="batch-2")
    assert [row["created"] for row in other_key.json()["labels"]] == [False, False]
    log = await service.log()
    assert [(entry["query_id"], entry["outcome"], entry["annotator"]) for entry in log] == [
        (queries[0], "first", "judge"),
        (queries[1], "second", "judge"),
    ]
    assert log[0]["at"] == "2026-12-31T23:00:00.000Z"
    assert (await service.admin.get("/v1/runs/run")).json()["answered"] == 2


async def test_an_import_with_one_fault_stores_nothing(service: Running) -> None:
    await service.run()
    await service.post(2)
    unknown = await imported(service, [{"client_key": "k0", "outcome": "tie"}, {"client_key": "?", "outcome": "tie"}])
    assert unknown.status_code == 422
    assert unknown.json()["errors"][0]["where"] == "body.labels.1.client_key"
    other = [{"client_key": "k1", "outcome": "first"}, {"client_key": "k1", "outcome": "second"}]
    assert (await imported(service, other)).status_code == 409
    assert await service.log() == []
    assert (await imported(service, other[:1])).json()["labels"][0]["seq"] == 1  # no gap was left behind


async def test_an_import_needs_an_idempotency_key(service: Running) -> None:
    await service.run()
    await service.post(1)
    answer = await service.admin.post(
        "/v1/runs/run/labels:batch", json={"labels": [{"client_key": "k0", "outcome": "tie"}]}
    )
    assert answer.status_code == 400


async def test_who_answered_in_an_import_is_not_asked(service: Running) -> None:
    await service.run(votes_needed=2)
    await service.post(1)
    ann = await service.annotator("ann")
    lease = await claim(ann)
    assert (await imported(service, [{"client_key": "k0", "outcome": "tie", "annotator": "ann"}])).status_code == 200
    assert (await label(ann, lease)).status_code == 409
    await ann.delete(f"/v1/leases/{lease['lease_id']}")
    assert await free(ann)
    assert len(await service.log()) == 1


# --- waiting ---------------------------------------------------------------------------------------------------------


async def test_a_waiting_annotator_is_woken_by_a_new_duel(service: Running) -> None:
    await service.run()
    ann = await service.annotator("ann")
    waiting = asyncio.create_task(claim(ann, wait_s=25))
    await waits(service, ("work", "run"))
    (query,) = await service.post(1)
    (lease,) = await together(waiting)
    assert lease["query_id"] == query


async def test_a_waiting_annotator_is_woken_by_a_released_duel(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    held = await claim(ann)
    waiting = asyncio.create_task(claim(bob, wait_s=25))
    await waits(service, ("work", "run"))
    await ann.delete(f"/v1/leases/{held['lease_id']}")
    (lease,) = await together(waiting)
    assert lease["query_id"] == query


async def test_a_waiting_reader_is_woken_by_a_label(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann = await service.annotator("ann")
    waiting = asyncio.create_task(service.admin.get("/v1/runs/run/labels", params={"wait_s": 25}))
    await waits(service, ("log", "run"))
    await label(ann, await claim(ann))
    (page,) = await together(waiting)
    assert seqs(page.json()["labels"]) == [1]
    assert page.json()["next_seq"] == 1


async def test_those_who_wait_are_answered_when_the_service_ends(service: Running) -> None:
    await service.run()
    ann = await service.annotator("ann")
    lease = asyncio.create_task(ann.post("/v1/runs/run/leases", json={"wait_s": 25}))
    page = asyncio.create_task(service.admin.get("/v1/runs/run/labels", params={"wait_s": 25}))
    await waits(service, ("work", "run"))
    await waits(service, ("log", "run"))
    service.state.database.signals.close()
    empty, log = await together(lease, page)
    assert empty.status_code == 204
    assert log.json() == {"labels": [], "next_seq": 0}


async def waits(service: Running, topic: tuple[str, str]) -> None:
    """Until somebody waits for a topic."""
    async with asyncio.timeout(30):
        while topic not in service.state.database.signals._events:
            await asyncio.sleep(0.001)


# --- many at once ----------------------------------------------------------------------------------------------------


async def test_fifty_annotators_at_once_get_no_duel_twice_and_leave_a_log_without_gaps(service: Running) -> None:
    await service.run(votes_needed=1)
    single = await service.post(150)
    triple = await service.post(30, start=150, votes_needed=3)
    people = {f"a{n}": await service.annotator(f"a{n}") for n in range(50)}
    acknowledged = []

    async def work(client: httpx.AsyncClient) -> None:
        while (answer := await client.post("/v1/runs/run/leases", json={})).status_code == 201:
            given = await label(client, answer.json())
            assert given.status_code == 201
            acknowledged.append(given.json())

    await together(*(work(client) for client in people.values()))
    log = await service.log()
    assert seqs(log) == list(range(1, 150 + 3 * 30 + 1))
    assert {row["label_id"] for row in acknowledged} == {entry["label_id"] for entry in log}
    votes = Counter(entry["query_id"] for entry in log)
    assert votes == Counter({**dict.fromkeys(single, 1), **dict.fromkeys(triple, 3)})
    assert len({(entry["query_id"], entry["annotator"]) for entry in log}) == len(log)


async def test_the_same_answer_sent_many_times_at_once_is_one_label(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann = await service.annotator("ann")
    lease = await claim(ann)
    answers = await together(*(label(ann, lease) for _ in range(20)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 19}
    assert len(await service.log()) == 1
