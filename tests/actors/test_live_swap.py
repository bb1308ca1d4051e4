"""New weights under running streams: no stream is cut, and every token's version is the one that computed it.

``live_publications`` says what is checked of a token.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from live_clients import Client, Streamed, body_of, listening, run, sampled, save_weights
from live_publications import STEPS, Publications, faults, make_publications, under_load
from safetensors.torch import load_file
from tiny_policies import by_id, forward_logprobs, request, varied_requests

from actors.hf_sampler import HfSampler
from actors.live_hf import HfLive
from sea_agent.config import PolicyConfig, SamplerConfig
from sea_agent.weights import WeightUpdate, checksum

PUBLISHES = 100
PROMPT = (5, 6, 7)


@pytest.fixture(scope="module")
def policy(tiny_policy: Callable[..., PolicyConfig]) -> PolicyConfig:
    return tiny_policy("llama")


@pytest.fixture(scope="module")
def publications(policy: PolicyConfig, tmp_path_factory: pytest.TempPathFactory) -> Publications:
    return make_publications(policy, tmp_path_factory.mktemp("weights"))


@pytest.fixture
def backend(policy: PolicyConfig) -> HfLive:
    return HfLive(policy, SamplerConfig(), device="cpu", threads=1, initial=True)


@pytest.fixture
def url(backend: HfLive) -> Iterator[str]:
    with listening(backend) as url:
        yield url
    asyncio.run(backend.close())


def test_a_hundred_publishes_cut_no_stream_and_mislabel_no_token(
    url: str, backend: HfLive, publications: Publications
) -> None:
    responses = run(url, lambda client: under_load(client, publications, PUBLISHES))
    assert [fault for body, streamed in responses for fault in faults(body, streamed, publications)] == []
    for body, streamed in responses:
        tokens, versions = streamed.tokens, streamed.versions
        assert versions == sorted(versions)
        assert streamed.last["versions"] == list(dict.fromkeys(versions))
        assert streamed.last["finish"] == ("stop" if tokens[-1] in backend.end_ids else "length")
        assert len(tokens) == STEPS or tokens[-1] in backend.end_ids
        assert body["id"].startswith("s")
    assert {version for _, streamed in responses for version in streamed.versions} == set(range(PUBLISHES + 1))
    assert sum(len(streamed.last["versions"]) > 1 for _, streamed in responses) > 10
    assert (backend.version, backend.checksum) == (PUBLISHES, publications.of(PUBLISHES)[1].checksum)


def number_first(backend: HfLive, patch: pytest.MonkeyPatch) -> None:
    """The new version is named one step before its weights are there."""
    late: list[WeightUpdate] = []
    step = backend._step

    def swap(update: WeightUpdate, before: Any) -> None:
        late.append(update)
        backend.version, backend.checksum = update.version, update.checksum

    def then_load() -> Any:
        rows = step()
        while late and rows:
            backend._live.load_weights(late.pop())
        return rows

    patch.setattr(backend, "_swap", swap)
    patch.setattr(backend, "_step", then_load)


def without_pause(backend: HfLive, patch: pytest.MonkeyPatch) -> None:
    """The weights change while a pass is between two layers."""
    late: list[WeightUpdate] = []

    def swap(update: WeightUpdate, before: Any) -> None:
        late.append(update)

    def in_the_middle(*_: Any) -> None:
        while late:
            update = late.pop()
            backend._live.load_weights(update)
            backend.version, backend.checksum = update.version, update.checksum

    patch.setattr(backend, "_swap", swap)
    backend._live._model.model.layers[1].register_forward_pre_hook(in_the_middle)


@pytest.mark.parametrize("break_swap", [number_first, without_pause])
def test_a_swap_that_is_not_between_two_steps_is_found(
    url: str,
    backend: HfLive,
    publications: Publications,
    monkeypatch: pytest.MonkeyPatch,
    break_swap: Callable[[HfLive, pytest.MonkeyPatch], None],
) -> None:
    break_swap(backend, monkeypatch)
    responses = run(url, lambda client: under_load(client, publications, 8))
    found = [fault for body, streamed in responses for fault in faults(body, streamed, publications)]
    assert len(found) >= 4


def test_scores_are_those_of_the_named_version(url: str, publications: Publications) -> None:
    row = (list(PROMPT), list(range(10, 20)))

    async def work(client: Client) -> list[Any]:
        answers = []
        for version in range(3):
            if version:
                assert (await client.publish(*publications.of(version))).status_code == 200
            streamed = await client.generate(**body_of(request("r", PROMPT, 3, 1.0)))
            rows = [row, (list(PROMPT), streamed.tokens)]
            for asked in range(3):
                answer = await client.http.post("/score", json={"rows": rows, "version": asked})
                assert answer.status_code == (200 if asked == version else 409), answer.text
                if asked == version:
                    answers.append((version, streamed, answer.json()["logprobs"]))
        return answers

    for version, streamed, (scored, of_stream) in run(url, work):
        assert scored == pytest.approx(forward_logprobs(publications.model(version), *row), abs=1e-4)
        assert set(streamed.versions) == {version}
        assert of_stream == pytest.approx(streamed.logprobs, abs=1e-4)
        others = [forward_logprobs(publications.model(other), *row) for other in range(3) if other != version]
        assert all(scored != pytest.approx(other, abs=0.05) for other in others), "the check tells versions apart"


def test_many_rows_are_scored_as_few_are(url: str, policy: PolicyConfig) -> None:
    rows = [(one.prompt.token_ids, tuple(range(2, 42))) for one in varied_requests(90)]
    expected = HfSampler(policy, device="cpu").logprobs(rows)

    async def work(client: Client) -> Any:
        return (await client.http.post("/score", json={"rows": rows, "version": 0})).json()["logprobs"]

    for ours, theirs in zip(run(url, work), expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_wrong_weights_are_refused_and_the_old_ones_serve(
    url: str, policy: PolicyConfig, publications: Publications, tmp_path: Path
) -> None:
    directory, update = publications.of(1)
    tampered = load_file(directory / "model.safetensors")
    first = min(tampered)
    tampered[first].view(-1).view(torch.int32)[0] ^= 1  # one bit
    smaller = {name: tensor[:-1] for name, tensor in update.tensors.items()}
    lacking = {name: tensor for name, tensor in update.tensors.items() if name != first}
    (tmp_path / "empty").mkdir()
    save_weights(tmp_path / "none", {}).joinpath("model.safetensors").write_bytes(b"no weights at all")
    other = replace(publications.of(2)[1], version=1)
    cases = [
        (save_weights(tmp_path / "tampered", tampered), update, "was published as"),
        (tmp_path / "empty", update, "cannot be read"),
        (tmp_path / "none", update, "cannot be read"),
        (save_weights(tmp_path / "small", smaller), WeightUpdate(2, smaller, checksum(smaller)), "does not fit"),
        (save_weights(tmp_path / "lacking", lacking), WeightUpdate(2, lacking, checksum(lacking)), "is missing"),
        (publications.of(2)[0], other, "a version of their own"),
    ]
    one = request("r", PROMPT, 3, 1.0)

    async def work(client: Client) -> None:
        assert (await client.publish(directory, update)).status_code == 200
        before = await client.generate(**body_of(one))
        for place, wrong, message in cases:
            answer = await client.publish(place, wrong)
            assert (answer.status_code, message in answer.json()["detail"]) == (409, True), answer.text
            state = await client.state()
            assert (state["version"], state["checksum"], state["swaps"]) == (1, update.checksum, 1)
            again = await client.generate(**body_of(one))
            assert (again.tokens, again.versions) == (before.tokens, before.versions)
            assert again.logprobs == pytest.approx(before.logprobs, abs=1e-4)
        assert (await client.publish(directory, update)).status_code == 200, "what is held may be published again"

    run(url, work)


def test_weights_that_arrive_otherwise_than_they_were_read_are_taken_back(
    url: str, backend: HfLive, policy: PolicyConfig, publications: Publications, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = backend._live.load_weights
    broken = [True]

    def arrive(update: WeightUpdate) -> str:
        held = load(update)
        return "of something else" if broken and broken.pop() else held

    monkeypatch.setattr(backend._live, "load_weights", arrive)
    one = request("r", PROMPT, 3, 1.0)

    async def work(client: Client) -> Streamed:
        answer = await client.publish(*publications.of(1))
        assert (answer.status_code, "held of something else" in answer.text) == (409, True)
        return await client.generate(**body_of(one))

    streamed = run(url, work)
    [expected] = HfSampler(policy, device="cpu").sample([one])
    assert (tuple(streamed.tokens), set(streamed.versions)) == (expected.token_ids, {0})
    assert backend._live.own_checksum() == backend.checksum


def test_the_initial_policy_is_served_beside(url: str, policy: PolicyConfig, publications: Publications) -> None:
    bodies = [body_of(one) for one in varied_requests(6)]
    expected = by_id(HfSampler(policy, device="cpu").sample([sampled(body) for body in bodies]))

    async def work(client: Client) -> tuple[list[Streamed], list[Streamed]]:
        assert (await client.publish(*publications.of(1))).status_code == 200
        both = [client.generate(**body, weights=weights) for weights in ("initial", "live") for body in bodies]
        found = await asyncio.gather(*both)
        return found[:6], found[6:]

    initial, lively = run(url, work)
    for body, streamed in zip(bodies, initial, strict=True):
        assert (tuple(streamed.tokens), set(streamed.versions)) == (expected[body["id"]].token_ids, {0})
        assert streamed.logprobs == pytest.approx(expected[body["id"]].logprobs, abs=1e-4)
    assert [one.tokens for one in initial] != [one.tokens for one in lively]
    assert {version for one in lively for version in one.versions} == {1}
