"""What Prometheus reads: right counts, few series, and nothing that is anybody's business."""

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from service.conftest import Running, claim, label, start

from sea_agent.service.store import runs

pytestmark = pytest.mark.anyio


async def scraped(client: httpx.AsyncClient) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by metric and label values."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            values = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[values] = sample.value
    return found


async def test_requests_are_counted_by_the_template_of_their_route(sqlite_service: Running) -> None:
    admin = sqlite_service.admin
    for number in range(3):
        await sqlite_service.run(f"run-{number}")
        await admin.get(f"/v1/runs/run-{number}")
    await admin.get("/v1/runs/missing")
    await admin.get("/v1/runs/a b")
    found = await scraped(admin)
    ours = {key: count for key, count in found["sea_agent_requests_total"].items() if key[1] == "/v1/runs/{run}"}
    assert ours == {
        ("PUT", "/v1/runs/{run}", "200"): 3,
        ("GET", "/v1/runs/{run}", "200"): 3,
        ("GET", "/v1/runs/{run}", "404"): 1,
        ("GET", "/v1/runs/{run}", "422"): 1,
    }
    assert found["sea_agent_request_seconds_count"]["GET", "/v1/runs/{run}"] == 5
    assert found["sea_agent_request_seconds_count"]["PUT", "/v1/runs/{run}"] == 3


async def test_what_a_caller_makes_up_is_no_series_of_its_own(sqlite_service: Running) -> None:
    admin = sqlite_service.admin
    for number in range(5):
        await admin.get(f"/v1/made-up-{number}")
        await admin.request(f"MADE{number}", "/v1/runs")
        await admin.request(f"MADE{number}", f"/v1/made-up-{number}")
        await admin.post("/v1/runs/run/queries:batch", content=b" " * 3_000_000)
    assert (await scraped(admin))["sea_agent_requests_total"] == {
        ("GET", "(none)", "404"): 5,
        ("(other)", "/v1/runs", "405"): 5,
        ("(other)", "(none)", "404"): 5,
        ("(other)", "(none)", "413"): 5,
    }


async def test_a_fault_of_the_service_is_counted(sqlite_service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: object, states: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(runs, "everything", fail)
    with pytest.raises(RuntimeError):
        await sqlite_service.admin.get("/v1/runs")
    assert (await scraped(sqlite_service.admin))["sea_agent_requests_total"]["GET", "/v1/runs", "500"] == 1


async def imported(service: Running, key: str, *client_keys: str) -> httpx.Response:
    labels = [{"client_key": name, "outcome": "tie", "annotator": "judge"} for name in client_keys]
    return await service.admin.post(
        "/v1/runs/run/labels:batch", json={"labels": labels}, headers={"Idempotency-Key": key}
    )


async def test_each_entry_of_the_log_is_counted_once_by_its_kind(service: Running) -> None:
    await service.run(gold_share=1.0)
    await service.post(1, gold="first")
    await service.post(3, start=1)
    ann = await service.annotator("ann")
    gold = await claim(ann)
    assert [(await label(ann, gold)).status_code for _ in range(2)] == [201, 200]  # the second is a replay
    vote = await claim(ann)
    given = (await label(ann, vote)).json()
    assert (await label(ann, vote, "tie")).status_code == 409
    for _ in range(2):
        await ann.post(f"/v1/labels/{given['label_id']}/revisions", json={"outcome": "tie"})
    for _ in range(2):
        assert (await imported(service, "a", "k0", "k2")).status_code == 200
    assert (await imported(service, "b", "k2", "k3")).status_code == 200  # one of them is there
    assert (await imported(service, "c", "k1", "?")).status_code == 404
    found = await scraped(service.admin)
    assert found["sea_agent_labels_total"] == {("vote",): 3, ("gold",): 2, ("repeat",): 0, ("revision",): 1}
    assert sum(found["sea_agent_labels_total"].values()) == len(await service.log())


async def test_the_gauges_tell_what_is_waiting_and_held(service: Running) -> None:
    await service.run("a", votes_needed=1)
    await service.run("b")
    await service.post(5, "a")
    await service.post(2, "a", start=5, gold="first")  # asked of everybody: it waits for nothing
    (cancelled, *_) = await service.post(3, "b")
    await service.post(1, "b", start=3, expires_at="2027-01-15T08:01:00Z")
    await service.admin.post(f"/v1/queries/{cancelled}/cancel")
    ann, bob = await service.annotator("ann"), await service.annotator("bob")
    await label(ann, await claim(ann, "a"))
    await claim(ann, "a")
    await claim(bob, "b", ttl_s=60)
    found = await scraped(service.admin)
    assert found["sea_agent_open_queries"] == {("a",): 4, ("b",): 3}
    assert found["sea_agent_live_leases"] == {(): 2}
    assert found["sea_agent_writer_queue_length"] == {(): 0}
    service.clock.jump(60)
    found = await scraped(service.admin)
    assert found["sea_agent_open_queries"] == {("a",): 4, ("b",): 2}
    assert found["sea_agent_live_leases"] == {(): 1}


async def test_only_the_runs_with_most_to_do_are_named(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MOST_RUNS", 2)
    for number, count in enumerate((1, 4, 2, 3)):
        await sqlite_service.run(f"run-{number}")
        await sqlite_service.post(count, f"run-{number}")
    found = await scraped(sqlite_service.admin)
    assert found["sea_agent_open_queries"] == {("run-1",): 4, ("run-3",): 3, ("(others)",): 3}


async def test_the_writer_tells_its_batches_and_commits(sqlite_service: Running) -> None:
    before = await scraped(sqlite_service.admin)
    await sqlite_service.run()
    await sqlite_service.post(3)
    after = await scraped(sqlite_service.admin)

    def grown(name: str) -> float:
        return after[name][()] - before[name][()]

    assert grown("sea_agent_writer_batch_size_count") == grown("sea_agent_commit_seconds_count") == 2
    assert grown("sea_agent_writer_batch_size_sum") == 2
    assert grown("sea_agent_commit_seconds_sum") > 0


async def test_no_text_and_no_name_of_a_person_is_told(sqlite_service: Running) -> None:
    await sqlite_service.run(instructions="Whispered-instructions", name="Whispered-run-name")
    await sqlite_service.post(1, prompt="Whispered-prompt", first="Whispered-first", rule="Whispered-rule")
    ann = await sqlite_service.annotator("Whispered-annotator")
    await label(ann, await claim(ann), comment="Whispered-comment")
    await ann.get("/v1/Whispered-path", params={"Whispered-parameter": "Whispered-value"})
    text = (await sqlite_service.admin.get("/metrics")).text
    assert "Whispered" not in text
    assert 'kind="vote"' in text


async def test_a_key_for_some_runs_may_not_read_of_all(sqlite_service: Running) -> None:
    await sqlite_service.run()
    some = await sqlite_service.client("read", runs=["run"])
    answer = await some.get("/metrics")
    assert (answer.status_code, answer.json()["status"]) == (403, 403)


async def test_two_services_in_one_process_count_apart(tmp_path: Any, sqlite_service: Running) -> None:
    other = await start(sqlite_service.stack, f"sqlite:///{tmp_path / 'other.sqlite'}")
    await sqlite_service.run()
    await other.admin.get("/v1/runs")
    assert (await scraped(other.admin))["sea_agent_requests_total"] == {("GET", "/v1/runs", "200"): 1}
