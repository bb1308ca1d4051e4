"""Labels, their corrections, repeats, gold duels and imports, on both databases."""

from collections import Counter

import httpx
import pytest
from service.conftest import Running, claim, free, label

pytestmark = pytest.mark.anyio


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


async def test_a_gold_duel_comes_in_the_place_of_an_ordinary_one_which_waits_meanwhile(service: Running) -> None:
    await service.run(gold_share=1.0)
    (gold,) = await service.post(1, gold="first")
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    assert await free(ann)  # somebody who waits beside others in vain must not be given what they are not
    (ordinary,) = await service.post(1, start=1)
    lease = await claim(ann)
    assert lease["query_id"] == gold
    assert await free(bob)  # as if ann had the ordinary one
    await label(ann, lease)
    assert (await claim(ann))["query_id"] == ordinary


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
    assert unknown.status_code == 404
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
    assert answer.status_code == 422
    assert [error["where"].lower() for error in answer.json()["errors"]] == ["header.idempotency-key"]


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


async def test_an_import_does_not_answer_for_somebody_who_was_erased(service: Running) -> None:
    await service.run()
    await service.post(2)
    ann = await service.annotator("ann")
    await label(ann, await claim(ann))
    pseudonym = (await service.admin.post("/v1/people/ann/erase")).json()["pseudonym"]
    free_name = {"client_key": "k1", "outcome": "tie", "annotator": "erased-people"}
    for name in (pseudonym, "erased-00c0ffee"):  # the second may become somebody's
        refused = await imported(service, [free_name, {"client_key": "k1", "outcome": "tie", "annotator": name}])
        problem = refused.json()
        assert (refused.status_code, problem["errors"][0]["where"]) == (409, "body.labels.1.annotator")
        assert f"{name} stands for somebody who was erased" in problem["detail"]
        assert "Choose another" in problem["detail"]
    assert [entry["annotator"] for entry in await service.log()] == [pseudonym]
    assert (await imported(service, [free_name])).status_code == 200
