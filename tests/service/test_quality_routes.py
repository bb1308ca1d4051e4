"""Agreement and annotators over HTTP, on both databases: what was corrected counts as corrected, and nothing is NaN."""

import json
from typing import Any

import httpx
import pytest
from service.conftest import Running, claim, label

pytestmark = pytest.mark.anyio


def strict(answer: httpx.Response) -> Any:
    """The JSON of an answer, which may hold neither NaN nor infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {answer.text}")

    assert answer.status_code == 200, answer.text
    return json.loads(answer.text, parse_constant=refuse)


async def agreement(service: Running, run: str = "run") -> dict[str, Any]:
    return strict(await service.admin.get(f"/v1/runs/{run}/agreement"))


async def annotators(service: Running, run: str = "run") -> dict[str, dict[str, Any]]:
    rows = strict(await service.admin.get(f"/v1/runs/{run}/annotators"))["annotators"]
    return {row["annotator"]: row for row in rows}


async def vote(service: Running, annotator: str, outcomes: list[str], run: str = "run") -> None:
    """Votes on the duels ``k0, k1, …`` in their own order."""
    labels = [{"client_key": f"k{n}", "outcome": outcome, "annotator": annotator} for n, outcome in enumerate(outcomes)]
    done = await service.admin.post(
        f"/v1/runs/{run}/labels:batch", json={"labels": labels}, headers={"Idempotency-Key": f"{annotator}-{run}"}
    )
    assert done.status_code == 200, done.text


async def test_two_annotators_give_the_alpha_of_a_published_example(service: Running) -> None:
    """Krippendorff 2011, section A: two observers, two values, ten units, α = .095."""
    await service.run(votes_needed=2)
    await service.post(10)
    for who, values in (("ann", "0100000010"), ("bob", "1110010000")):
        await vote(service, who, [("first", "second")[int(value)] for value in values])
    found = await agreement(service)
    assert (found["votes"], found["duels"], found["compared"], found["annotators"]) == (20, 10, 10, 2)
    assert found["alpha"] == pytest.approx(0.095, abs=5e-4)
    assert found["alpha_low"] is None, "ten duels are too few"
    rows = await annotators(service)
    assert rows["ann"]["with_others"]["share"] == rows["bob"]["with_others"]["share"] == 6 / 10
    assert rows["ann"]["median_s"] is rows["ann"]["first_shown"]["share"] is None, "an import was shown nothing"


async def test_many_duels_have_an_interval(sqlite_service: Running) -> None:
    await sqlite_service.run(votes_needed=2)
    await sqlite_service.post(40)
    await vote(sqlite_service, "ann", ["first", "second"] * 20)
    await vote(sqlite_service, "bob", ["first", "second", "first", "first"] * 10)
    found = await agreement(sqlite_service)
    assert 0 < found["alpha_low"] < found["alpha"] < found["alpha_high"] < 1


async def test_a_correction_takes_the_place_of_what_it_corrects(service: Running) -> None:
    await service.run(votes_needed=2)
    await service.post(2)
    ann = await service.annotator("ann")
    first = (await label(ann, await claim(ann), "tie", elapsed_ms=4000)).json()
    await label(ann, await claim(ann), "both_bad", elapsed_ms=6000)
    await vote(service, "bob", ["tie", "both_bad"])
    assert (await agreement(service))["alpha"] == 1.0
    for outcome in ("first", "both_bad"):
        made = await ann.post(
            f"/v1/labels/{first['label_id']}/revisions", json={"outcome": outcome, "elapsed_ms": 60_000}
        )
        assert made.status_code == 201
    found = await agreement(service)
    assert found["votes"] == 4
    assert (found["ties"]["share"], found["both_bad"]["share"]) == (1 / 4, 3 / 4)
    # By hand, of pairs (both_bad, tie) and (both_bad, both_bad): 1 − (4 − 1) · 2 / (2 · 3 · 1) = 0.
    assert found["alpha"] == pytest.approx(0.0)
    row = (await annotators(service))["ann"]
    assert (row["median_s"], row["votes"]) == (5.0, 2), "the time is that of the first answer"


async def test_repeats_gold_skips_and_position_are_told_by_annotator(service: Running) -> None:
    await service.run(gold_share=1.0)
    await service.post(3, gold="second")
    await service.post(1, start=3)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    for outcome in ("first", "first", "tie"):  # always the left one, then neither
        await label(ann, await claim(ann), outcome)
    lease = await claim(ann)
    assert (await ann.post(f"/v1/leases/{lease['lease_id']}/skip")).status_code == 204
    skipped = await claim(bob)
    assert (await bob.post(f"/v1/leases/{skipped['lease_id']}/skip")).status_code == 204
    found, rows = await agreement(service), await annotators(service)
    assert (found["votes"], found["gold_accuracy"]["n"], found["first_shown"]["share"]) == (0, 3, 1.0)
    log = await service.log()
    right = sum(entry["outcome"] == "second" for entry in log)
    assert rows["ann"]["gold_accuracy"]["share"] == found["gold_accuracy"]["share"] == pytest.approx(right / 3)
    assert (rows["ann"]["skips"], rows["ann"]["answers"], rows["ann"]["first_shown"]["n"]) == (1, 3, 2)
    assert (rows["bob"]["skips"], rows["bob"]["answers"], rows["bob"]["late"]["share"]) == (1, 0, None)


async def test_a_repeat_measures_the_annotator_against_themselves(sqlite_service: Running) -> None:
    await sqlite_service.run(repeat_share=1.0)
    await sqlite_service.post(22)
    ann = await sqlite_service.annotator("ann")
    for number in range(24):
        await label(ann, await claim(ann), "tie" if number != 23 else "both_bad")
    found = await agreement(sqlite_service)
    assert (found["self_agreement"]["n"], found["self_agreement"]["share"]) == (4, 3 / 4)
    assert (found["votes"], found["duels"]) == (20, 20)


async def test_runs_do_not_mix_and_an_unknown_one_is_missing(service: Running) -> None:
    for run in ("run", "other"):
        await service.run(run)
        await service.post(1, run)
    await vote(service, "ann", ["first"], "other")
    found = await agreement(service)
    assert (found["votes"], found["alpha"], found["first_shown"]["low"]) == (0, None, None)
    assert await annotators(service) == {}
    assert (await agreement(service, "other"))["votes"] == 1
    for path in ("agreement", "annotators", "export.jsonl", "export.parquet"):
        missing = await service.admin.get(f"/v1/runs/nowhere/{path}")
        assert (missing.status_code, missing.json()["detail"]) == (404, "There is no run nowhere.")


async def test_how_fast_somebody_works_leaves_out_their_pauses(service: Running) -> None:
    await service.run()
    await service.post(6)
    ann = await service.annotator("ann")
    for seconds in (0, 30, 300, 301, 30):
        service.clock.jump(seconds)
        given = (await label(ann, await claim(ann, ttl_s=3600))).json()
    service.clock.jump(1000)
    await ann.post(f"/v1/labels/{given['label_id']}/revisions", json={"outcome": "tie"})
    await claim(await service.annotator("bob"))
    row = (await annotators(service))["ann"]
    assert row["per_hour"] == pytest.approx(3 * 3600 / (30 + 300 + 30))
    assert row["last_at"] == "2027-01-15T08:11:01.000Z", "a correction is no answer"


async def test_one_answer_and_answers_at_one_time_have_no_speed(service: Running) -> None:
    await service.run(votes_needed=2)
    await service.post(2)
    await vote(service, "judge", ["first", "first"])
    ann = await service.annotator("ann")
    await label(ann, await claim(ann))
    rows = await annotators(service)
    assert rows["judge"]["per_hour"] is rows["ann"]["per_hour"] is None
    assert rows["judge"]["last_at"] == "2027-01-15T08:00:00.000Z"


async def test_the_version_of_the_figures_changes_with_what_they_tell(service: Running) -> None:
    """By labels, corrections, skips, the end of a name, and what the run asks for; and by nothing else."""
    told: list[tuple[Any, str]] = []

    async def look(*, changed: bool) -> None:
        progress = (await service.admin.get("/v1/runs/run/progress")).json()
        figures = (await agreement(service), await annotators(service))
        if told:
            assert (progress["quality_version"] != told[-1][1]) is changed
            assert (figures != told[-1][0]) <= changed, "what has changed has another version"
        told.append((figures, progress["quality_version"]))

    await service.run()
    await service.post(4)
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await look(changed=True)
    lease = await claim(ann)
    await service.post(1, start=4)
    await service.run(name="Another", votes_needed=2)
    await look(changed=False)
    given = (await label(ann, lease, "tie")).json()["label_id"]
    await look(changed=True)
    await ann.post(f"/v1/labels/{given}/revisions", json={"outcome": "first"})
    await look(changed=True)
    lease = await claim(bob)
    await look(changed=False)
    await bob.post(f"/v1/leases/{lease['lease_id']}/skip")
    await look(changed=True)
    await service.admin.post("/v1/people/ann/erase")
    await look(changed=True)
    await service.admin.post("/v1/people/bob/erase")
    await look(changed=True)
    await service.run(qualification=2)
    await look(changed=True)
    await service.run(qualifying_share=0.5)
    await look(changed=True)
    assert not {"ann", "bob"} & (await annotators(service)).keys()


async def test_the_figures_tell_who_has_qualified_and_who_has_not(service: Running) -> None:
    await service.run(qualification=2, qualifying_share=1.0)
    await service.post(3, gold="first")
    for name, right in {"ann": (True, True), "bob": (True, False), "cem": (True,)}.items():
        client = await service.annotator(name)
        for is_right in right:
            lease = await claim(client)
            shown = lease["first"].startswith("first") is is_right
            await label(client, lease, "first" if shown else "second")
    told = {name: row["qualification"] for name, row in (await annotators(service)).items()}
    assert told == {
        "ann": {"needed": 2, "given": 2, "passed": True},
        "bob": {"needed": 2, "given": 2, "passed": False},
        "cem": {"needed": 2, "given": 1, "passed": None},
    }
    await service.run(qualification=0)
    assert {row["qualification"] for row in (await annotators(service)).values()} == {None}
