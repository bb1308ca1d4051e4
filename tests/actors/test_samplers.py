"""The pool proves that the samplers hold what was published, and every prompt gets its own responses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from run_parts import learner_group, sampler_pool

from actors.learners import LearnerGroup
from actors.runtime import InlineRuntime
from sea_agent.config import PolicyConfig, RunConfig
from sea_agent.config.files import parse_config
from sea_agent.errors import RunFailure
from sea_agent.types import REFERENCE_VERSION, LabelSource, Preference, Prompt, Response

Policies = Callable[..., PolicyConfig]


@pytest.fixture
def config(tiny_policy: Policies) -> RunConfig:
    return parse_config(
        {
            "policy": {"path": tiny_policy("llama").path},
            "prompts": {"path": "unused.jsonl"},
            "sampler": {"max_new_tokens": 6, "temperature": 1.0, "chunk": 5},
            "oracle": {"kind": "world"},
            "budget": {"oracle_queries": 1},
        },
        where="test",
    )


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"p{index}", f"w{index + 3}", (index + 3,) * (1 + index % 3)) for index in range(count)]


def test_published_weights_arrive_and_a_sampler_that_lost_a_bit_is_named(config: RunConfig) -> None:
    pool = sampler_pool(InlineRuntime(), config)
    learner = learner_group(InlineRuntime(), config, total_steps=1)
    pool.load_weights(*learner.weights())

    sampler: Any = pool._samplers[0]._target  # type: ignore[attr-defined]
    load = sampler.load_weights

    def forgetful(update: Any) -> str:
        name = next(iter(update.tensors))
        damaged = update.tensors | {name: torch.nextafter(update.tensors[name], torch.tensor(torch.inf))}
        return load(type(update)(update.version, damaged, update.checksum))  # type: ignore[no-any-return]

    sampler.load_weights = forgetful
    with pytest.raises(RunFailure, match="sampler-0 holds weights"):
        pool.load_weights(*learner.weights())


def test_every_response_belongs_to_its_prompt_and_no_text_comes_twice(config: RunConfig) -> None:
    asked = prompts(7)
    groups = sampler_pool(InlineRuntime(), config).candidates(asked, 6, 1.0, "round", 1)
    assert [group.prompt for group in groups] == asked
    for group in groups:
        assert all(response.prompt_id == group.prompt.id for response in group.responses)
        assert len({response.text for response in group.responses}) == len(group.responses) <= 6
    assert any(len(group.responses) < 6 for group in groups) or len({g.responses for g in groups}) == 7


def test_responses_do_not_depend_on_which_other_prompts_are_asked(config: RunConfig) -> None:
    pool = sampler_pool(InlineRuntime(), config)
    together = pool.candidates(prompts(5), 4, 1.0, "round", 1)
    alone = pool.candidates(prompts(5)[3:4], 4, 1.0, "round", 1)
    assert [r.token_ids for r in together[3].responses] == [r.token_ids for r in alone[0].responses]
    later = pool.candidates(prompts(5)[3:4], 4, 1.0, "round", 2)
    assert [r.token_ids for r in later[0].responses] != [r.token_ids for r in alone[0].responses]


def trained(config: RunConfig) -> LearnerGroup:
    """A learner whose policy has left the reference."""
    learner = learner_group(InlineRuntime(), config, total_steps=3)
    pairs = sampler_pool(InlineRuntime(), config).candidates(prompts(4), 8, 1.0, "training")
    learner.step(
        [
            Preference(group.prompt.id, group.prompt, *group.responses[:2], source=LabelSource.ORACLE)
            for group in pairs
            if len(group.responses) > 1
        ]
    )
    return learner


def tokens(samples: list[list[Response]]) -> list[list[tuple[int, ...]]]:
    return [[response.token_ids for response in row] for row in samples]


def test_the_reference_samples_what_version_0_sampled_however_far_the_policy_has_gone(config: RunConfig) -> None:
    pool, reference = (sampler_pool(InlineRuntime(), config, reference=flag) for flag in (False, True))
    first = pool.samples(prompts(5), 6, 1.0, "round", 7)
    pool.load_weights(*trained(config).weights())
    later, frozen = (one.samples(prompts(5), 6, 1.0, "round", 7) for one in (pool, reference))
    assert tokens(frozen) == tokens(first)
    assert tokens(later) != tokens(first), "the control: the policy has moved"
    assert {response.policy_version for row in frozen for response in row} == {REFERENCE_VERSION}
    assert {response.policy_version for row in later for response in row} == {1}


def test_the_reference_takes_no_weights_and_has_names_of_its_own(config: RunConfig) -> None:
    named: list[str] = []

    class Watched(InlineRuntime):
        def spawn(self, name: str, *arguments: Any, **options: Any) -> Any:
            named.append(name)
            return super().spawn(name, *arguments, **options)

    reference = sampler_pool(Watched(), config, reference=True)
    sampler_pool(Watched(), config)
    assert named == ["reference-sampler-0", "sampler-0"]
    with pytest.raises(ValueError, match="frozen"):
        reference.load_weights(*trained(config).weights())


def test_samples_keep_duplicates_in_order_and_candidates_drop_them(config: RunConfig) -> None:
    pool = sampler_pool(InlineRuntime(), config)
    samples = pool.samples(prompts(6), 12, 0.3, "round", 1)
    groups = pool.candidates(prompts(6), 12, 0.3, "round", 1)
    assert [len(row) for row in samples] == [12] * 6
    for row, group in zip(samples, groups, strict=True):
        assert [response.text for response in group.responses] == list(dict.fromkeys(one.text for one in row))
        assert all(response in row for response in group.responses)
    assert any(len(group.responses) < 12 for group in groups)
    assert pool.samples(prompts(2), 0, 1.0, "round", 1) == [[], []]
