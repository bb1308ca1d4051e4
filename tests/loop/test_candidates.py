"""Where candidates come from: the policy first, then the reference, no text twice, and the most uncertain prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_parts import sampler_pool

from actors.runtime import InlineRuntime
from actors.samplers import SamplerPool
from sea_agent.bandit.prompt_choice import most_uncertain
from sea_agent.config import RunConfig
from sea_agent.config.files import parse_config
from sea_agent.loop.candidates import CandidateSource
from sea_agent.pretrained import load_policy
from sea_agent.types import REFERENCE_VERSION, Prompt, Response
from sea_agent.weights import WeightUpdate, checksum

PROMPTS = 40


class Prompts:
    """Forty prompts, again and again."""

    def __init__(self) -> None:
        self.taken = 0

    def __len__(self) -> int:
        return PROMPTS

    def next(self, count: int) -> list[Prompt]:
        indices = [(self.taken + step) % PROMPTS for step in range(count)]
        self.taken += count
        return [Prompt(f"p{index}", f"w{index % 20}", (3 + index % 20, 4 + index // 20)) for index in indices]


@pytest.fixture
def config(policy_dir: Callable[[str], Path]) -> Callable[..., RunConfig]:
    def make(
        candidates: int = 6, frozen: int = 0, pool: int = 1, optimism: str = "none", imagined: int | None = None
    ) -> RunConfig:
        tree = {
            "batch_size": 4,
            "policy": {"path": str(policy_dir("llama"))},
            "prompts": {"path": "unused.jsonl"},
            "sampler": {
                "candidates": candidates,
                "reference_candidates": frozen,
                "max_new_tokens": 5,
                "temperature": 1.0,
                "chunk": 8,
            },
            "selection": {"rule": "passive", "prompt_pool": pool},
            "imagination": {"candidates": imagined},
            "oracle": {"kind": "world"},
            "learner": {"optimism": optimism},
            "budget": {"oracle_queries": 1},
        }
        return parse_config(tree, where="test")

    return make


class Source(CandidateSource):
    """A source with its two pools, which counts what each was asked for."""

    def __init__(self, config: RunConfig) -> None:
        self.pools = [sampler_pool(InlineRuntime(), config, reference=flag) for flag in (False, True)]
        self.asked = [0, 0]
        for place, pool in enumerate(self.pools):
            self._watch(place, pool)
        super().__init__(
            config.sampler,
            Prompts(),  # type: ignore[arg-type]
            *self.pools,
            batch_size=config.batch_size,
            selection=config.selection,
            imagined_candidates=config.imagination.candidates,
            optimism=config.learner.optimism,
        )

    def _watch(self, place: int, pool: SamplerPool) -> None:
        start = pool._start

        def counted(chunks: Any) -> Any:
            self.asked[place] += sum(map(len, chunks))
            return start(chunks)

        pool._start = counted  # type: ignore[method-assign]

    def train(self, config: RunConfig) -> None:
        """Give the policy's samplers weights far from the reference's."""
        model = load_policy(config.policy.path, "float32", "cpu")
        noise = torch.Generator().manual_seed(1)
        tensors = {
            name: value.detach() + 0.1 * torch.randn(value.shape, generator=noise)
            for name, value in model.named_parameters()
        }
        for remote in self.pools[0]._samplers:
            remote.call("load_weights", WeightUpdate(1, tensors, checksum(tensors))).result()


def texts(responses: tuple[Response, ...], version: int) -> list[str]:
    return [response.text for response in responses if response.policy_version == version]


def test_the_policys_candidates_come_before_the_references_and_no_text_comes_twice(
    config: Callable[..., RunConfig],
) -> None:
    source = Source(config(candidates=10, frozen=4))
    source.train(config())
    groups = source.draw(1, asks=True).candidates
    assert len(groups) == 4
    for group in groups:
        versions = [response.policy_version for response in group.responses]
        assert versions == sorted(versions, reverse=True)
        assert set(versions) == {1, REFERENCE_VERSION}
        assert len({response.text for response in group.responses}) == len(group.responses) <= 10
        assert len({response.id for response in group.responses}) == len(group.responses)
    assert source.asked == [4 * 6, 4 * 4]


def test_offline_candidates_never_change_as_the_policy_trains(config: Callable[..., RunConfig]) -> None:
    offline = config(candidates=5, frozen=5)
    before, after = Source(offline), Source(offline)
    after.train(offline)
    for number in (1, 2):
        assert before.draw(number, asks=True) == after.draw(number, asks=True)
    assert after.asked == [0, 2 * 4 * 5], "the policy is not sampled"
    online = config(candidates=5)
    before, after = Source(online), Source(online)
    after.train(online)
    assert before.draw(1, asks=True) != after.draw(1, asks=True), "the control: online they do change"


def test_rounds_give_fresh_responses_of_the_reference(config: Callable[..., RunConfig]) -> None:
    source = Source(config(candidates=5, frozen=5))
    groups = [group for number in range(1, 12) for group in source.draw(number, asks=True).candidates]
    ids = [response.id for group in groups for response in group.responses]
    assert len(set(ids)) == len(ids)
    first, again = groups[0], groups[40]
    assert first.prompt == again.prompt
    assert [one.token_ids for one in first.responses] != [one.token_ids for one in again.responses]


def test_the_most_uncertain_prompts_of_the_pool_are_kept_and_all_samples_counted(
    config: Callable[..., RunConfig],
) -> None:
    pooled = config(candidates=6, frozen=2, pool=5)
    source = Source(pooled)
    draw = source.draw(3, asks=True)
    everything = sampler_pool(InlineRuntime(), pooled).samples(Prompts().next(20), 4, 1.0, "round", 3)
    logprobs = torch.tensor([[sum(one.logprobs) for one in row] for row in everything], dtype=torch.float64)
    kept = [f"p{index}" for index in most_uncertain(logprobs, 4)]
    assert [group.prompt.id for group in draw.candidates] == kept != ["p0", "p1", "p2", "p3"]
    assert source.asked == [20 * 4, 4 * 2], "the reference answers the kept prompts only"
    assert draw.sampled == sum(source.asked)


def test_where_information_decides_the_whole_pool_gets_candidates(config: Callable[..., RunConfig]) -> None:
    settings = config(candidates=3, frozen=1, pool=5)
    choice = settings.selection.model_copy(update={"prompt_choice": "information"})
    source = Source(settings.model_copy(update={"selection": choice}))
    draw = source.draw(1, asks=True)
    assert len(draw.candidates) == 20
    assert (source.asked, draw.sampled) == ([40, 20], 60)
    assert len(source.draw(2, asks=False).candidates) == 4


def test_a_round_that_asks_nobody_chooses_no_prompts(config: Callable[..., RunConfig]) -> None:
    source = Source(config(candidates=4, pool=3))
    draw = source.draw(1, asks=False)
    assert [group.prompt.id for group in draw.candidates] == ["p0", "p1", "p2", "p3"]
    assert draw.sampled == source.asked[0] == 4 * 4


def test_a_round_that_asks_nobody_can_have_fewer_candidates(config: Callable[..., RunConfig]) -> None:
    source = Source(config(candidates=8, frozen=1, imagined=3))
    assert source.draw(1, asks=True).per_prompt == 8
    assert source.asked == [4 * 7, 4 * 1]
    imagined = source.draw(2, asks=False)
    assert imagined.per_prompt == 3
    assert source.asked == [4 * (7 + 2), 4 * (1 + 1)]


def test_a_pool_larger_than_the_prompts_takes_them_all(config: Callable[..., RunConfig]) -> None:
    source = Source(config(candidates=2, pool=1000))
    assert len(source.draw(1, asks=True).candidates) == 4
    assert source.asked[0] == PROMPTS * 2


def test_xpo_explores_a_response_of_the_reference_even_where_the_policy_wrote_it_too(
    config: Callable[..., RunConfig],
) -> None:
    draw = Source(config(candidates=2, frozen=1, optimism="xpo")).draw(1, asks=True)
    assert draw.explored.keys() == {group.prompt.id for group in draw.candidates}
    assert {response.policy_version for response in draw.explored.values()} == {REFERENCE_VERSION}
    for group in draw.candidates:
        theirs = texts(group.responses, REFERENCE_VERSION)
        assert draw.explored[group.prompt.id].text in (theirs or texts(group.responses, 0))


def test_selm_explores_the_greedy_response_of_the_policy_before_the_round(config: Callable[..., RunConfig]) -> None:
    source = Source(config(candidates=3, optimism="selm"))
    source.train(config())
    draw = source.draw(1, asks=True)
    assert {response.policy_version for response in draw.explored.values()} == {1}
    assert draw.sampled == source.asked[0] == 4 * 3 + 4
    prompts = [group.prompt for group in draw.candidates]
    greedy = source.pools[0].samples(prompts, 1, 0.0, "another key")
    assert [draw.explored[prompt.id].token_ids for prompt in prompts] == [row[0].token_ids for row in greedy]
    drawn = source.pools[0].samples(prompts, 1, 1.0, "another key")
    assert [row[0].token_ids for row in drawn] != [row[0].token_ids for row in greedy], "the control: sampling differs"


def test_without_optimism_nothing_is_explored(config: Callable[..., RunConfig]) -> None:
    assert Source(config(candidates=3, frozen=1)).draw(1, asks=True).explored == {}
