"""Weights from GPU to GPU, as far as a machine without one shows it: vLLM's code and ours on stand-ins for CUDA.

``tests/gpu`` shows the rest.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import pytest
import weight_processes as processes
from tiny_policies import varied_requests

from sea_agent.config import PolicyConfig
from sea_agent.errors import RunFailure
from sea_agent.weights import WeightOffer

DEADLINE_SECONDS = 240.0
Policies = Callable[..., PolicyConfig]

pytestmark = pytest.mark.vllm


class Process:
    """A process of its own, whose every answer has a deadline."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def start(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self._pool.submit(function, *arguments)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.start(function, *arguments).result(timeout=DEADLINE_SECONDS)


@pytest.fixture(scope="module")
def pair(tiny_policy: Policies) -> Iterator[tuple[Process, Process]]:
    """A process for the learner and one for the sampler."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context) as learner, ProcessPoolExecutor(1, context) as sampler:
        yield Process(learner), Process(sampler)


def started(pair: tuple[Process, Process], policy: PolicyConfig, way: str) -> tuple[Process, Process]:
    learner, sampler = pair
    learner.run(processes.learner_start, policy, way)
    sampler.run(processes.sampler_start, policy, way)
    return pair


def deliver(learner: Process, sampler: Process, version: int, broken: str | None = None) -> tuple[str, WeightOffer]:
    """The checksum of what the sampler holds afterwards, and what was offered."""
    offer = learner.run(processes.learner_offer, version)
    sending = learner.start(processes.learner_send, broken)
    held = sampler.run(processes.sampler_load, offer)
    sending.result(timeout=DEADLINE_SECONDS)
    return held, offer


def test_a_bit_lost_on_the_way_shows_in_the_checksum(pair: tuple[Process, Process], tiny_policy: Policies) -> None:
    learner, sampler = started(pair, tiny_policy("llama"), "nccl")
    held, offer = deliver(learner, sampler, 1, broken="model.layers.1.self_attn.v_proj.weight")
    assert held != offer.checksum
    held, offer = deliver(learner, sampler, 2)
    assert held == offer.checksum


def test_the_engine_is_joined_once_and_fetches_between_start_and_finish(
    pair: tuple[Process, Process], tiny_policy: Policies
) -> None:
    learner, sampler = started(pair, tiny_policy("llama"), "nccl")
    offer = learner.run(processes.learner_offer, 1)
    first, second = (sampler.run(processes.sampler_calls, one) for one in (offer, replace(offer, version=2)))
    fetching = ["start_weight_update", "update_weights", "finish_weight_update"]
    assert [name for name, _ in first] == ["init_weight_transfer_engine", *fetching]
    assert [name for name, _ in second] == fetching
    joined, fetched = first[0][1][0]["init_info"], first[2][1][0]["update_info"]
    assert joined["rank_offset"] == 1
    assert joined["world_size"] == 2
    assert fetched["names"] == list(offer.tensors)


@pytest.mark.parametrize(("way", "architecture"), [("nccl", "llama"), ("ipc", "gpt_neox")])
def test_the_sampler_holds_what_the_learner_offered(
    pair: tuple[Process, Process], tiny_policy: Policies, way: str, architecture: str
) -> None:
    learner, sampler = started(pair, tiny_policy(architecture), way)
    requests = varied_requests(3)
    for version in (1, 2):
        held, offer = deliver(learner, sampler, version)
        assert held == offer.checksum
        responses = sampler.run(processes.sampler_sample, requests)
        assert {response.policy_version for response in responses} == {version}
        prompts = {one.id: one.prompt.token_ids for one in requests}
        rows = [(prompts[response.id], response.token_ids) for response in responses]
        for response, expected in zip(responses, learner.run(processes.learner_logprobs, rows), strict=True):
            assert response.logprobs == pytest.approx(expected, abs=1e-4)
    assert all(tensor.is_meta for tensor in offer.tensors.values()), "no value travels with the offer"


def test_an_offer_that_cannot_be_fetched_or_does_not_fit_is_refused_by_name(
    pair: tuple[Process, Process], tiny_policy: Policies
) -> None:
    learner, sampler = started(pair, tiny_policy("gpt_neox"), "ipc")
    offer = learner.run(processes.learner_offer, 1)
    elsewhere = [{"GPU-1": one["GPU-0"]} for one in offer.fetch["ipc_handles"]]
    with pytest.raises(RunFailure, match=r"weight_transfer=ipc: sampler 0 did not get weight version 1.*GPU-0"):
        sampler.run(processes.sampler_load, replace(offer, fetch=offer.fetch | {"ipc_handles": elsewhere}))
    described = dict(offer.tensors)
    described["typo"] = described.pop("gpt_neox.final_layer_norm.weight")
    with pytest.raises(RunFailure, match=r"final_layer_norm\.weight is missing; typo is not a weight"):
        sampler.run(processes.sampler_load, replace(offer, tensors=described))


def test_other_ranks_gather_every_weight_with_rank_0_and_meet_no_sampler(
    pair: tuple[Process, Process], tiny_policy: Policies
) -> None:
    learner, _ = pair
    learner.run(processes.learner_start, tiny_policy("llama"), "nccl")
    offer, gathered = learner.run(processes.learner_other_rank)
    assert offer is None
    assert gathered == 2 * list(learner.run(processes.learner_offer, 1).tensors)
