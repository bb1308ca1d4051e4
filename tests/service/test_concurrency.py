"""Callers who wait, and many at once, on both databases."""

import asyncio
from collections import Counter

import httpx
import pytest
from service.conftest import Running, claim, label, seqs, together

pytestmark = pytest.mark.anyio


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


async def test_who_waits_is_woken_by_the_answer_to_a_gold_duel_that_took_a_place(service: Running) -> None:
    await service.run(gold_share=1.0)
    await service.post(1, gold="first")
    (query,) = await service.post(1, start=1)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    held = await claim(ann)
    await service.run()
    waiting = asyncio.create_task(claim(bob, wait_s=25))
    await waits(service, ("work", "run"))
    await label(ann, held)
    async with asyncio.timeout(20):  # not at the end of its own waiting
        assert (await waiting)["query_id"] == query


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
