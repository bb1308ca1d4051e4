"""Who must qualify first: so many gold duels, of which a share must be right."""

from typing import Any

import httpx
import pytest
from service.conftest import Running, claim, free, label

from sea_agent.service.store import leases

pytestmark = pytest.mark.anyio

NEEDED = 3


async def prepare(service: Running, gold: int = 5, **metadata: Any) -> None:
    """A run that asks for a qualification, with ordinary duels posted before gold ones."""
    await service.run(qualification=NEEDED, qualifying_share=0.6, **metadata)
    await service.post(6, priority=9)
    await service.post(gold, start=100, gold="first")


async def answer(client: httpx.AsyncClient, right: bool = True) -> dict[str, Any]:
    """Claim a gold duel and answer it; the label."""
    lease = await claim(client)
    assert is_gold(lease)
    return dict((await label(client, lease, side(lease, right))).json())


def is_gold(lease: dict[str, Any]) -> bool:
    return int(lease["prompt"].split()[1]) >= 100


def side(lease: dict[str, Any], right: bool) -> str:
    """The outcome that is right or wrong, as the duel was shown."""
    return "first" if lease["first"].startswith("first") is right else "second"


async def progress(client: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await client.get("/v1/runs/run/progress")).json())


async def test_the_first_duels_are_gold_and_others_follow_for_who_answers_well(service: Running) -> None:
    await prepare(service)
    ann = await service.annotator("ann")
    for given, right in enumerate((True, False, True)):
        assert (await progress(ann))["qualification"] == {"needed": NEEDED, "given": given, "passed": None}
        await answer(ann, right)
    assert (await progress(ann))["qualification"] == {"needed": NEEDED, "given": NEEDED, "passed": True}
    for _ in range(6):
        lease = await claim(ann)
        assert not is_gold(lease)
        await label(ann, lease)
    assert [entry["kind"] for entry in await service.log()] == ["gold"] * NEEDED + ["vote"] * 6


async def test_without_the_check_the_first_duel_is_an_ordinary_one(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deliberate fault that the test above must find."""
    monkeypatch.setattr(leases.qualification, "standing", lambda *_: None)
    await prepare(sqlite_service)
    assert not is_gold(await claim(await sqlite_service.annotator("ann")))


async def test_who_fails_gets_no_more_duels_and_is_not_waited_for(service: Running) -> None:
    await prepare(service, votes_needed=2)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    for right in (False, True, False):
        await answer(ann, right)
    assert await free(ann)
    assert (await progress(ann))["qualification"] == {"needed": NEEDED, "given": NEEDED, "passed": False}
    assert (await progress(service.admin))["annotators"] == 1, "ann is no help any more"
    assert (await progress(service.admin))["stuck"] == 6, "as two votes are needed, and there is only bob"
    for _ in range(NEEDED):
        await answer(bob)
    assert not is_gold(await claim(bob))


async def test_corrections_count_until_the_last_answer_and_not_after_the_verdict(service: Running) -> None:
    await prepare(service)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    for client, in_time in ((ann, True), (bob, False)):
        leases_, labels = [], []
        for _ in range(NEEDED):
            if in_time and len(labels) == NEEDED - 1:
                await correct(client, leases_, labels)
            lease = await claim(client)
            leases_.append(lease)
            labels.append((await label(client, lease, side(lease, right=False))).json())
        if not in_time:
            await correct(client, leases_, labels)
        assert (await progress(client))["qualification"]["passed"] is in_time
        assert await free(client) is not in_time


async def correct(client: httpx.AsyncClient, claimed: list[Any], labels: list[Any]) -> None:
    """Correct every answer to the right one."""
    for lease, given in zip(claimed, labels, strict=True):
        body = {"outcome": side(lease, right=True)}
        assert (await client.post(f"/v1/labels/{given['label_id']}/revisions", json=body)).status_code == 201


async def test_an_answer_that_comes_late_or_not_at_all_does_not_qualify(service: Running) -> None:
    await prepare(service)
    ann = await service.annotator("ann")
    skipped = await claim(ann)
    await ann.post(f"/v1/leases/{skipped['lease_id']}/skip")
    lapsed = await claim(ann, ttl_s=60)
    service.clock.jump(61)
    assert (await label(ann, lapsed, side(lapsed, right=True))).json()["late"] is True
    assert (await progress(ann))["qualification"]["given"] == 0
    for _ in range(NEEDED):
        await answer(ann)
    assert not is_gold(await claim(ann))
    assert (await label(ann, skipped, side(skipped, right=False))).json()["late"] is True
    assert (await progress(ann))["qualification"]["passed"] is True


async def test_too_few_gold_duels_give_nothing_and_the_operator_is_told(service: Running) -> None:
    await prepare(service, gold=2)
    ann = await service.annotator("ann")
    assert (await progress(service.admin))["gold_missing"] == 1
    for _ in range(2):
        await answer(ann)
    assert await free(ann), "ordinary duels are for who has qualified"
    assert (await progress(ann))["qualification"] == {"needed": NEEDED, "given": 2, "passed": None}
    await service.post(1, start=200, gold="first")
    assert (await progress(service.admin))["gold_missing"] == 0
    await answer(ann)
    assert not is_gold(await claim(ann))


async def test_a_run_that_asks_for_none_tells_of_none(service: Running) -> None:
    await service.run()
    await service.post(1)
    ann = await service.annotator("ann")
    assert (await progress(ann)) == {"state": "open", "votes_needed": 1, "mine": 0, "qualification": None}
    assert (await progress(service.admin))["gold_missing"] == 0
