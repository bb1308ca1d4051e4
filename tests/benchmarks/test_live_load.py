"""The load of live mode: wrong names of weights, lost answers, leaks and cut streams are found, and nothing else is."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from service.chat_service import chatting

from actors.live import LiveRequest
from actors.live_batch import Row
from actors.live_policy import LivePolicy
from benchmarks.live_load import examine, markdown
from benchmarks.live_load_checks import (
    Drawn,
    Learnt,
    Lost,
    Recomputing,
    after_kills,
    growth,
    learnt,
    lost,
    mislabelled,
)
from benchmarks.live_load_run import Watched, stream
from sea_agent.config import PolicyConfig
from sea_agent.live.measuring import FILE
from sea_agent.persistence.ledger import Ledger
from sea_agent.weights import WeightUpdate, checksum
from sea_agent.worlds import resolve

POLICY = resolve("world://lexicon/policy")
STEPS, ROWS = 8, 6


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Weights of versions 1 to 3, each a little further from the initial policy."""
    found = {}
    tensors = load_file(Path(POLICY) / FILE)
    for version in (1, 2, 3):
        found[version] = tmp_path_factory.mktemp(f"version-{version}")
        save_file({name: tensor * (1 + 0.002 * version) for name, tensor in tensors.items()}, found[version] / FILE)
    return found


@pytest.fixture(scope="module")
def responses(weights: dict[int, Path]) -> list[Drawn]:
    """Responses that began under each version; of those of the first, some were under way when the second came or, as
    after a new start of the engine, the third."""
    policy, drawn = LivePolicy(PolicyConfig(path=POLICY), device="cpu"), []

    def load(version: int) -> None:
        tensors = load_file(weights[version] / FILE)
        policy.load_weights(WeightUpdate(version, tensors, checksum(tensors)))

    def begin(version: int) -> list[tuple[Row, int]]:
        asked = [
            LiveRequest(f"{version}-{n}", tuple(range(5, 9 + n)), STEPS, 1.0, 10 * version + n) for n in range(ROWS)
        ]
        rows = [Row(one) for one in asked]
        policy.begin(rows)
        drawn.extend((row, version) for row in rows)
        return [(row, version) for row in rows]

    def finish(steps: int) -> None:
        for _ in range(steps):
            policy.step()
            policy.drop([row for row in policy.rows if row.has_ended(policy.end_ids)])

    load(1)
    begin(1)
    finish(STEPS)
    for version in (3, 2):
        load(1)
        begin(1)
        finish(2)
        load(version)
        finish(STEPS)
    for version in (2, 3):
        load(version)
        begin(version)
        finish(STEPS)
    return [
        Drawn(row.request.id, row.request.prompt_ids, tuple(row.tokens), tuple(row.logprobs), version)
        for row, version in drawn
    ]


def test_responses_are_of_the_weights_that_they_name_and_mislabelled_ones_are_found(
    weights: dict[int, Path], responses: list[Drawn]
) -> None:
    recomputing = Recomputing(POLICY, weights)
    found = recomputing.compare(responses)
    assert found.wrong == []
    assert found.exact >= 3 * ROWS
    assert found.across > ROWS, "some of each were not over after three tokens"
    assert 0 < found.largest < 1e-4
    control = mislabelled(responses, weights, len(responses))
    assert len(control) == len(responses)
    assert {one.version - other.version for one, other in zip(control, responses, strict=True)} == {1, -1}
    assert len(recomputing.compare(control).wrong) == len(control)


def test_one_token_that_is_wrong_is_found(weights: dict[int, Path], responses: list[Drawn]) -> None:
    one = responses[-1]
    off = replace(one, logprobs=(*one.logprobs[:-1], one.logprobs[-1] + 2e-4))
    assert Recomputing(POLICY, weights).compare([one, off]).wrong == [off.id]


def test_what_was_told_and_is_not_on_disk_or_twice_is_counted() -> None:
    on_disk = [("a", 1.0), ("b", 2.0), ("c", 9.0)]
    assert lost(["a", "b"], ["a"], on_disk, ["a", "b"], 5.0) == Lost(0, 0, 0)
    assert lost(["a", "b", "x"], ["c"], on_disk, ["a"], 5.0) == Lost(2, 0, 0), "an answer and a pick are gone"
    assert lost(["a", "a", "b"], ["a"], on_disk, ["a", "a"], 5.0) == Lost(0, 2, 0), "told twice, labelled twice"
    assert lost(["a"], [], on_disk, [], 5.0) == Lost(0, 0, 1), "answered once more, for nobody"


def test_what_the_agent_has_and_nobody_said_is_counted() -> None:
    said = {"a": "first", "b": "second", "c": "first"}
    assert learnt({"a": "first", "b": "second"}, said) == Learnt(2, 0, 1)
    assert learnt({"a": "second", "b": "second", "x": "first"}, said) == Learnt(3, 2, 1)


def test_what_fails_is_counted_for_the_part_that_was_killed_last() -> None:
    kills = [(10.0, "engine"), (20.0, "gateway"), (30.0, "engine")]
    assert after_kills(kills, [5.0, 11.0, 20.5, 29.0, 31.0]) == {"engine": 2, "gateway": 2}
    assert after_kills([], [5.0]) == {}


def test_a_leak_is_told_from_noise() -> None:
    hours = np.linspace(0, 1, 600)
    noise = np.random.default_rng(0).normal(0, 3, 600)
    flat, leak = growth(hours, 400 + noise), growth(hours, 400 + 30 * hours + noise)
    assert flat.low < 0 < flat.high
    same = growth(hours, np.full(600, 400.0))
    assert (same.low, same.per_hour, same.high) == (0.0, 0.0, 0.0)
    assert leak.low < 30 < leak.high
    assert leak.low > 20
    assert leak.sizes[-1] - leak.sizes[0] == pytest.approx(30, abs=4)


def told(lines: Sequence[str], status: int = 200) -> tuple[Watched, Callable[[], None]]:
    body = "".join(f"data: {line}\n\n" for line in lines)
    client = httpx.Client(
        base_url="http://gateway", transport=httpx.MockTransport(lambda _: httpx.Response(status, text=body))
    )
    seen = Watched()
    return seen, lambda: stream(client, {}, seen)


def chunk(delta: dict[str, str], reason: str | None = None) -> str:
    return json.dumps({"id": "c1", "choices": [{"delta": delta, "finish_reason": reason}]})


def test_a_stream_counts_as_whole_only_with_its_end() -> None:
    whole = [chunk({"content": "hot"}), chunk({}, "stop"), "[DONE]"]
    seen, ask = told(whole)
    ask()
    assert seen.streamed == ["c1"]
    assert seen.first_tokens[0] > 0
    for cut in (whole[:2], whole[:1], [whole[0], "[DONE]"], [whole[0], json.dumps({"error": {"message": "gone"}})]):
        seen, ask = told(cut)
        with pytest.raises((ValueError, LookupError)):
            ask()
        assert seen.streamed == []
    _, ask = told(whole, 503)
    with pytest.raises(httpx.HTTPStatusError):
        ask()


def test_the_figures_are_read_from_what_the_service_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[int, Path]
) -> None:
    """The engine here makes up its log-probabilities, which is found out."""

    async def serve() -> list[str]:
        async with chatting(f"sqlite:///{tmp_path / 'service.sqlite'}", monkeypatch) as chat:
            made = {"checksum": "0" * 32, "round": 0, "labels": 0, "path": str(weights[1])}
            (await chat.service.admin.post("/v1/live/live/publications", json=made)).raise_for_status()
            return [(await chat.create()).id for _ in range(3)]

    first, second, _ = asyncio.run(serve())
    rows = [{"at": 0.0, "completion": one, "outcome": None} for one in (first, second)]
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"at": 0.0, "error": "x"}]))
    growing = [(minute / 60, 100.0 + minute) for minute in range(30)]
    memory = {"gateway": growing, "agent": [(hours, min(size, 115.0)) for hours, size in growing]}
    Ledger(tmp_path / "ledger.sqlite").close()
    seen = Watched(memory, {"gateway": {1, 2}}, [0.02], [], [(5.0, "gone")], [(4.0, "gateway")], 2e9)
    figures = examine(tmp_path, seen, 1800.0)
    assert (figures["requests"], figures["failed"], figures["errors"], figures["cut"]) == (3, 0, 1, ["gone"])
    assert figures["after_kills"] == {"cut": {"gateway": 1}, "errors": {"gateway": 0}}
    assert figures["learnt"] == {"answers": 0, "strange": 0, "waiting": 0}
    assert figures["kept"] == {"lost": 0, "doubled": 0, "unheard": 1}
    assert figures["agreement"]["wrong"]
    assert figures["agreement"]["exact"] == 0
    assert figures["restarts"] == {"gateway": 1}
    assert figures["memory"]["gateway"]["warm"]["per_hour"] == pytest.approx(60)
    size = figures["memory"]["agent"]
    assert size["warm"]["low"] > 0
    assert (size["late"]["per_hour"], size["late"]["sizes"][0]) == (0, 115)
    assert "| 115 | 115 |" in (said := markdown(figures | {"users": 1, "cores": 2}))
    assert "| 60.0 [60.0, 60.0] | 60.0 [60.0, 60.0] |" in said
    assert "| 0.0 [0.0, 0.0] |" in said
