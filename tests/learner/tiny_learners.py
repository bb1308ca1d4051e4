"""Learners of a tiny policy, preferences over its vocabulary, and ways to compare weights.

The policy is the shared tiny Llama: token 0 ends a response, tokens 3 to 31 are the words w0 to w28.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from learner.learner import PreferenceLearner
from sea_agent.config import LearnerConfig, PolicyConfig
from sea_agent.types import LabelSource, Preference, Prompt, Response

END = 0
FIRST_WORD, LAST_WORD = 3, 31
DEADLINE_SECONDS = 60.0


def make_learner(path: str, dtype: str = "float32", rank: int = 0, **settings: Any) -> PreferenceLearner:
    """A learner of the tiny policy; ``rendezvous`` and the fields of LearnerConfig are keywords."""
    rendezvous = settings.pop("rendezvous", None)
    config = LearnerConfig.model_validate({"learning_rate": 1e-3, "max_logprob_gap": 1e-4} | settings)
    policy = PolicyConfig.model_validate({"path": path, "dtype": dtype})
    return PreferenceLearner(
        policy, config, total_steps=10, rank=rank, rendezvous=rendezvous, deadline_seconds=DEADLINE_SECONDS
    )


def preferences_of(count: int, *, seed: int = 0, version: int = -1) -> list[Preference]:
    """Pairs of random responses of unequal lengths to prompts of unequal lengths, without log-probabilities.

    Version -1 is never the learner's, so nothing is compared with the sampler.
    """
    generator = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(
            int(token) for token in generator.integers(FIRST_WORD, LAST_WORD + 1, generator.integers(low, high))
        )

    rows = []
    for index in range(count):
        prompt = Prompt(id=f"prompt-{index}", text="", token_ids=tokens(2, 6))
        sides = [
            Response(f"response-{index}-{side}", prompt.id, "", (*tokens(1, 7), END), (), version) for side in range(2)
        ]
        rows.append(Preference(f"duel-{index}", prompt, sides[0], sides[1], LabelSource.ORACLE))
    return rows


def reported_by(learner: PreferenceLearner, preferences: list[Preference], error: float = 0.0) -> list[Preference]:
    """The preferences as an honest sampler of this version reports them, each log-probability off by ``error``."""
    scores = iter(learner.policy_logprobs(rows_of_preferences(preferences)))

    def report(response: Response) -> Response:
        logprobs = tuple(score + error for score in next(scores))
        return replace(response, logprobs=logprobs, policy_version=learner.version)

    return [replace(row, chosen=report(row.chosen), rejected=report(row.rejected)) for row in preferences]


def rows_of_preferences(preferences: list[Preference]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Prompt and response tokens, chosen and rejected in turn."""
    return [(row.prompt.token_ids, side.token_ids) for row in preferences for side in (row.chosen, row.rejected)]


def weights_of(learner: PreferenceLearner) -> dict[str, torch.Tensor]:
    """The published tensors."""
    update = learner.weights()
    assert update is not None
    return update.tensors


def state_of(learner: PreferenceLearner) -> dict[str, Any]:
    """The learner's state."""
    state = learner.state()
    assert state is not None
    return state


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference between two sets of tensors of the same names."""
    assert set(left) == set(right)
    return max(float((left[name].float() - right[name].float()).abs().max()) for name in left)
