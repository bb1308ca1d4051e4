"""Who can still answer: a run is told when nobody can, and a duel that everybody has left ends."""

from typing import Any

import pytest
from service.conftest import Running, claim, free, label

pytestmark = pytest.mark.anyio


async def progress(service: Running) -> dict[str, Any]:
    answer = await service.admin.get("/v1/runs/run/progress")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def people(service: Running) -> tuple[int, int]:
    """Annotators, and duels that lack more votes than annotators are left."""
    counts = await progress(service)
    return counts["annotators"], counts["stuck"]


async def settle(service: Running) -> tuple[int, int]:
    """Duels that are open then, and that ended without an answer."""
    answer = await service.admin.post("/v1/runs/run/settle")
    assert answer.status_code == 200, answer.text
    return answer.json()["open"], answer.json()["cancelled"]


async def skip(client: Any) -> None:
    assert (await client.post(f"/v1/leases/{(await claim(client))['lease_id']}/skip")).status_code == 204


async def test_a_duel_that_the_only_annotator_skipped_ends_and_the_others_stay(service: Running) -> None:
    await service.run()
    await service.post(2)
    ann = await service.annotator("ann")
    assert await people(service) == (1, 0)
    await skip(ann)
    assert await people(service) == (1, 1)
    assert await settle(service) == (1, 1)
    assert await people(service) == (1, 0)
    await label(ann, await claim(ann))
    assert await settle(service) == (0, 1)


async def test_a_duel_whose_time_has_passed_is_not_stuck_and_ends_as_expired(service: Running) -> None:
    await service.run()
    (passing,) = await service.post(1, expires_at="2027-01-15T08:10:00Z")  # in ten minutes
    (staying,) = await service.post(1, start=1)
    ann = await service.annotator("ann")
    await skip(ann)
    await skip(ann)
    assert await people(service) == (1, 2)
    service.clock.jump(600)
    assert await people(service) == (1, 1)
    listed = (await service.admin.get("/v1/runs/run/queries", params={"state": "stuck"})).json()["queries"]
    assert [query["id"] for query in listed] == [staying]
    assert await settle(service) == (0, 2)
    service.clock.jump(-600)  # what was written down holds whatever the time
    for query, state in ((passing, "expired"), (staying, "cancelled")):
        assert (await service.admin.get(f"/v1/queries/{query}")).json()["state"] == state


async def test_while_somebody_can_still_answer_a_skipped_duel_waits(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await skip(ann)
    assert await people(service) == (2, 0)
    assert await settle(service) == (1, 0)
    lease = await claim(bob)
    assert await settle(service) == (1, 0), "bob is at it"
    await bob.post(f"/v1/leases/{lease['lease_id']}/skip")
    assert await settle(service) == (0, 1)


async def test_two_keys_of_one_person_are_one(service: Running) -> None:
    await service.run(votes_needed=2)
    await service.post(1)
    first, second = await service.annotator("ann"), await service.annotator("ann")
    assert await people(service) == (1, 1)
    await label(first, await claim(first))
    assert await free(second)
    assert await people(service) == (1, 1)
    assert await settle(service) == (1, 0), "nobody skipped: somebody else may come"


async def test_a_duel_with_one_vote_of_two_ends_when_the_other_skips(service: Running) -> None:
    await service.run(votes_needed=2)
    await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await skip(ann)
    await label(bob, await claim(bob))
    assert await settle(service) == (0, 1)
    assert len(await service.log()) == 1, "the vote is kept"


async def test_a_person_whose_key_ends_is_not_waited_for(service: Running) -> None:
    await service.run(votes_needed=2)
    await service.post(1)
    ann = await service.annotator("ann")
    made = await service.admin.post("/v1/keys", json={"name": "bob", "scopes": ["annotate"]})
    assert await people(service) == (2, 0)
    await service.admin.delete(f"/v1/keys/{made.json()['id']}")
    assert await people(service) == (1, 1)
    await skip(ann)
    assert await settle(service) == (0, 1)


async def test_keys_for_other_runs_and_other_tasks_are_nobody_here(service: Running) -> None:
    await service.run()
    await service.run("other")
    await service.post(1)
    await service.client("annotate", annotator="elsewhere", runs=["other"])
    await service.client("experiment", "read")
    assert await people(service) == (0, 1)
    assert await settle(service) == (1, 0), "whoever comes can answer it"


async def test_an_admin_counts_once_they_take_duels(service: Running) -> None:
    await service.run()
    await service.post(2)
    ann = await service.annotator("ann")
    assert await people(service) == (1, 0)
    await service.admin.delete(f"/v1/leases/{(await claim(service.admin))['lease_id']}")
    assert await people(service) == (2, 0)
    await skip(ann)
    assert await settle(service) == (2, 0)


async def test_gold_and_repeats_are_no_votes_that_are_lacking(service: Running) -> None:
    await service.run(gold_share=1.0)
    await service.post(1, gold="first")
    await service.annotator("ann")
    assert await people(service) == (1, 0)


async def assign(service: Running, query: str, *annotators: str) -> None:
    answer = await service.admin.patch(f"/v1/queries/{query}", json={"assigned": annotators})
    assert answer.status_code == 200, answer.text


async def test_a_duel_for_ann_alone_ends_when_she_skips_it_though_bob_is_there(service: Running) -> None:
    await service.run()
    first, _ = await service.post(2)
    await assign(service, first, "ann")
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    assert await people(service) == (2, 0)
    await skip(ann)
    await skip(ann)
    assert await people(service) == (2, 1)
    assert await settle(service) == (1, 1), "the other is for bob too"
    await label(bob, await claim(bob))
    assert await settle(service) == (0, 1)


async def test_skips_by_people_whom_a_duel_is_not_for_do_not_end_it(service: Running) -> None:
    await service.run(votes_needed=2)
    (query,) = await service.post(1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await skip(bob)
    await assign(service, query, "ann")
    assert await people(service) == (2, 1), "two votes, and one to give them"
    await label(ann, await claim(ann))
    assert await settle(service) == (1, 0), "ann answered it, and it was not bob's to skip"
    await assign(service, query)
    assert await settle(service) == (0, 1), "now it was"


async def test_a_duel_for_somebody_without_a_key_is_stuck_and_waits_for_them(service: Running) -> None:
    await service.run()
    (query,) = await service.post(1)
    await service.annotator("ann")
    await assign(service, query, "dan")
    assert await people(service) == (1, 1)
    assert await settle(service) == (1, 0)
    dan = await service.annotator("dan")
    assert await people(service) == (2, 0)
    assert (await claim(dan))["query_id"] == query


async def test_an_unknown_run_is_not_settled(service: Running) -> None:
    assert (await service.admin.post("/v1/runs/nowhere/settle")).status_code == 404
