"""The vLLM back end of a live engine, in a process of its own as users run it; vLLM has two more, one for each policy.

``live_publications`` says what is checked of a token. vLLM draws with random numbers of its own, so of a token its
log-probability is checked.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from live_clients import DEADLINE_SECONDS, TOKEN, Client, Streamed, body_of, gathered, run, save_weights, take
from live_publications import Publications, faults, make_publications, under_load
from live_vllm_program import BROKEN, UNSALTED
from safetensors.torch import load_file
from tiny_policies import forward_logprobs, perturbed, request, varied_requests

from sea_agent.config import PolicyConfig
from sea_agent.config.live import TOKEN as TOKEN_VARIABLE
from sea_agent.weights import WeightUpdate, checksum

pytestmark = pytest.mark.vllm

PUBLISHES, CONTEXT = 100, 512
ROUNDING = 1e-3  # nats by which vLLM's kernels and transformers' differ at most
PROGRAM = Path(__file__).with_name("live_vllm_program.py")


@dataclass
class Served:
    """An engine that runs, and the next version that it has not seen."""

    url: str
    process: subprocess.Popen[str]
    version: int = 0

    def publish(self, publications: Publications, count: int = 1) -> int:
        """Publish this many versions; the last one."""

        async def work(client: Client) -> None:
            for _ in range(count):
                self.version += 1
                answer = await client.publish(*publications.of(self.version))
                assert answer.status_code == 200, answer.text

        run(self.url, work)
        return self.version


@pytest.fixture(scope="module")
def policy(tiny_policy: Callable[..., PolicyConfig], tmp_path_factory: pytest.TempPathFactory) -> PolicyConfig:
    """One with room for prompts of which vLLM caches whole blocks."""
    directory = tmp_path_factory.mktemp("policy")
    shutil.copytree(tiny_policy("llama", tied=True).path, directory, dirs_exist_ok=True)
    settings = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": CONTEXT}))
    return PolicyConfig(path=str(directory))


@pytest.fixture(scope="module")
def publications(policy: PolicyConfig, tmp_path_factory: pytest.TempPathFactory) -> Publications:
    return make_publications(policy, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def served(policy: PolicyConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = tmp_path_factory.mktemp("engine") / "engine.json"
    sampler = {"backend": "vllm", "kv_cache_gb": 0.25, "prefix_caching": True}
    settings.write_text(json.dumps({"policy": {"path": policy.path}, "sampler": sampler, "port": 0, "initial": True}))
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(settings)],
        env=os.environ | {TOKEN_VARIABLE: TOKEN, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("Ready: http://127.0.0.1:"), ready
        yield Served(ready.split()[1].removesuffix("/state"), process)
    finally:
        process.kill()


def test_the_checksum_is_that_of_the_weights_which_vllm_computes_with(served: Served, policy: PolicyConfig) -> None:
    async def work(client: Client) -> dict[str, Any]:
        return await client.state()

    state = run(served.url, work)
    assert state["checksum"] == perturbed(policy, 0, scale=0.0)[0].checksum
    assert (state["version"], state["backend"], state["context"], state["running"]) == (0, "vllm", CONTEXT, 0)


def test_a_seed_decides_the_tokens_and_their_numbers_are_the_policys(
    served: Served, publications: Publications
) -> None:
    bodies = [body_of(one) for one in varied_requests(12)]
    once = run(served.url, lambda client: gathered(client, bodies))
    again = run(served.url, lambda client: gathered(client, bodies))
    others = run(served.url, lambda client: gathered(client, [body | {"seed": 7} for body in bodies]))
    assert [one.tokens for one in once] == [one.tokens for one in again]
    assert [one.tokens for one in once] != [one.tokens for one in others]
    for body, streamed in zip(bodies, once, strict=True):
        expected = forward_logprobs(publications.initial, body["token_ids"], streamed.tokens)
        assert streamed.logprobs == pytest.approx(expected, abs=ROUNDING)
        assert streamed.text == streamed.last["text"]
        assert streamed.last["finish"] == ("stop" if streamed.tokens[-1] == 1 else "length")


def found_in(responses: list[tuple[dict, Streamed]], publications: Publications) -> list[str]:
    return [
        fault
        for body, streamed in responses
        for fault in faults(body, streamed, publications, keyed=False, tolerance=ROUNDING)
    ]


def test_publishes_under_load_cut_no_stream_and_mislabel_no_token(served: Served, publications: Publications) -> None:
    first = served.version + 1
    responses = run(served.url, lambda client: under_load(client, publications, PUBLISHES, first))
    served.version += PUBLISHES
    assert found_in(responses, publications) == []
    versions = {version for _, streamed in responses for version in streamed.versions}
    assert versions >= set(range(first, first + PUBLISHES))
    assert sum(len(streamed.last["versions"]) > 1 for _, streamed in responses) > 5


def test_a_version_that_is_named_before_its_weights_come_is_found(served: Served, publications: Publications) -> None:
    responses = run(served.url, lambda client: under_load(client, publications, 4, BROKEN))
    assert len(found_in(responses, publications)) >= 4
    served.version = BROKEN - 1 - BROKEN // 2  # the next ones are sound again
    served.publish(publications)


@pytest.mark.parametrize("name", ["salted", UNSALTED])
def test_prefixes_that_older_weights_computed_are_not_read(
    served: Served, publications: Publications, name: str
) -> None:
    prompt = [2 + place * place % 40 for place in range(400)]
    served.publish(publications)
    for turn in range(2):  # the second time the prompt is cached
        body = body_of(request(f"{name}-{turn}", prompt, 3, 1.0))
        run(served.url, lambda client, body=body: gathered(client, [body]))
    version = served.publish(publications)
    [streamed] = run(served.url, lambda client: gathered(client, [body_of(request(f"{name}-2", prompt, 3, 1.0))]))
    expected = forward_logprobs(publications.model(version), prompt, streamed.tokens)
    assert (streamed.logprobs == pytest.approx(expected, abs=ROUNDING)) == (name != UNSALTED)


def test_wrong_weights_are_refused_and_the_old_ones_serve(
    served: Served, publications: Publications, tmp_path: Path
) -> None:
    version = served.publish(publications)
    directory, update = publications.of(version)
    tampered = load_file(directory / "model.safetensors")
    name = min(tampered)
    tampered[name].view(-1).view(torch.int32)[0] ^= 1  # one bit
    smaller = {name: tensor[:-1] for name, tensor in update.tensors.items()}
    wrong = [
        (save_weights(tmp_path / "tampered", tampered), replace(update, version=version + 1)),
        (save_weights(tmp_path / "small", smaller), WeightUpdate(version + 1, smaller, checksum(smaller))),
    ]
    body = body_of(request("r", (5, 6, 7), 3, 1.0))

    async def work(client: Client) -> None:
        before = await client.generate(**body)
        for place, other in wrong:
            answer = await client.publish(place, other)
            assert answer.status_code == 409, answer.text
            state = await client.state()
            assert (state["version"], state["checksum"]) == (version, update.checksum)
            again = await client.generate(**body)
            assert (again.tokens, again.versions) == (before.tokens, before.versions)

    run(served.url, work)


def test_scores_are_those_of_the_named_version(served: Served, publications: Publications) -> None:
    version = served.publish(publications)
    rows = [([5, 6, 7], [2 + place % 40 for place in range(length)]) for length in (1, 20, 61)]

    async def work(client: Client) -> tuple[Any, int]:
        answer = await client.http.post("/score", json={"rows": rows, "version": version})
        stale = await client.http.post("/score", json={"rows": rows, "version": version - 1})
        return answer.json()["logprobs"], stale.status_code

    scored, stale = run(served.url, work)
    assert stale == 409
    for (prompt, response), values in zip(rows, scored, strict=True):
        assert values == pytest.approx(forward_logprobs(publications.model(version), prompt, response), abs=ROUNDING)


def test_the_initial_policy_is_served_beside(served: Served, publications: Publications) -> None:
    version = served.publish(publications)
    bodies = [body_of(one) for one in varied_requests(6)]

    async def work(client: Client) -> list[list[Streamed]]:
        both = [[body | {"weights": weights} for body in bodies] for weights in ("initial", "live")]
        return list(await asyncio.gather(*(gathered(client, some) for some in both)))

    for expected, responses in zip((0, version), run(served.url, work), strict=True):
        for body, streamed in zip(bodies, responses, strict=True):
            numbers = forward_logprobs(publications.model(expected), body["token_ids"], streamed.tokens)
            assert streamed.logprobs == pytest.approx(numbers, abs=ROUNDING)
            assert set(streamed.versions) == {expected}


def test_a_response_goes_on_after_the_tokens_of_another_engine(served: Served, publications: Publications) -> None:
    version = served.publish(publications)
    body = body_of(request("r", (5, 6, 7), 3, 1.0, 40), stop_after=[8, 9, 10])
    [rest] = run(served.url, lambda client: gathered(client, [body]))
    numbers = forward_logprobs(publications.model(version), [5, 6, 7], [8, 9, 10, *rest.tokens])[3:]
    assert rest.logprobs == pytest.approx(numbers, abs=ROUNDING)
    assert len(rest.tokens) == 37 or rest.tokens[-1] == 1
    assert rest.last["text"].startswith("w8 w9 w10")


def test_a_client_that_leaves_ends_its_response(served: Served) -> None:
    async def work(client: Client) -> None:
        for seed in range(8):
            lines = client.lines(**body_of(request("r", (5, 6, 7), seed, 1.0, 60)))
            streamed = Streamed()
            while not streamed.steps:
                take(await anext(lines), streamed)
            await lines.aclose()
        await client.until("running", 0)

    run(served.url, work)


def test_a_killed_engine_ends_its_streams_and_leaves_no_process(served: Served) -> None:
    """The last test of the file: the engine is gone after it."""
    children = psutil.Process(served.process.pid).children(recursive=True)
    assert len(children) >= 2

    async def work(client: Client) -> list[Any]:
        async def stream(number: int) -> None:
            turn = 0
            while True:
                await client.generate(**body_of(request(f"{number}-{turn}", (5, 6, 7), turn, 1.0, 60)))
                turn += 1
                if turn == 3 and number == 0:
                    served.process.send_signal(signal.SIGKILL)

        return list(await asyncio.gather(*map(stream, range(3)), return_exceptions=True))

    ended = run(served.url, work)
    assert all(isinstance(one, httpx.NetworkError | httpx.RemoteProtocolError) for one in ended), ended
    assert psutil.wait_procs(children, timeout=DEADLINE_SECONDS)[1] == []
