"""The pool proves that the samplers hold what was published, and every prompt gets its own responses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from actors.pool import LearnerGroup, SamplerPool
from actors.runtime import InlineRuntime
from sea_agent.config import PolicyConfig, RunConfig
from sea_agent.config_files import parse_config
from sea_agent.errors import RunFailure
from sea_agent.types import Prompt

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
    pool = SamplerPool(InlineRuntime(), config)
    learner = LearnerGroup(InlineRuntime(), config, total_steps=1, rendezvous=None)
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
    groups = SamplerPool(InlineRuntime(), config).candidates(asked, 6, 1.0, "round", 1)
    assert [group.prompt for group in groups] == asked
    for group in groups:
        assert all(response.prompt_id == group.prompt.id for response in group.responses)
        assert len({response.text for response in group.responses}) == len(group.responses) <= 6
    assert any(len(group.responses) < 6 for group in groups) or len({g.responses for g in groups}) == 7


def test_responses_do_not_depend_on_which_other_prompts_are_asked(config: RunConfig) -> None:
    pool = SamplerPool(InlineRuntime(), config)
    together = pool.candidates(prompts(5), 4, 1.0, "round", 1)
    alone = pool.candidates(prompts(5)[3:4], 4, 1.0, "round", 1)
    assert [r.token_ids for r in together[3].responses] == [r.token_ids for r in alone[0].responses]
    later = pool.candidates(prompts(5)[3:4], 4, 1.0, "round", 2)
    assert [r.token_ids for r in later[0].responses] != [r.token_ids for r in alone[0].responses]
