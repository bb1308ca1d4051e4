"""Low-rank adapters: merged copies leave the learner, the base stays as it was."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_learners import largest_difference, preferences_of, rows_of_preferences, state_of, weights_of

from learner.learner import PreferenceLearner
from sea_agent.config import LearnerConfig, LoraConfig, PolicyConfig
from sea_agent.errors import UserError
from sea_agent.pretrained import load_policy
from sea_agent.weights import checksum

LearnerOf = Callable[..., PreferenceLearner]
ROWS = preferences_of(8)


@pytest.fixture
def trained(learner_of: LearnerOf) -> PreferenceLearner:
    learner = learner_of(lora={"rank": 4, "alpha": 8.0}, max_staleness=1, learning_rate=1e-2)
    learner.step(ROWS)
    return learner


def test_fresh_adapters_publish_the_base_itself(learner_of: LearnerOf, policy_path: str) -> None:
    base = dict(load_policy(policy_path, "float32", "cpu").named_parameters())
    assert checksum(weights_of(learner_of(lora={}))) == checksum(base)


def test_published_weights_equal_the_merge_by_peft(trained: PreferenceLearner, policy_path: str) -> None:
    merged = copy.deepcopy(trained._model).merge_and_unload()
    published = weights_of(trained)
    assert checksum(published) == checksum(dict(merged.named_parameters()))
    base = dict(load_policy(policy_path, "float32", "cpu").named_parameters())
    assert largest_difference(published, {name: value.detach() for name, value in base.items()}) > 1e-3


@torch.no_grad()
def test_merged_weights_score_like_base_and_adapters(trained: PreferenceLearner, tmp_path: Path) -> None:
    trained.save_policy(tmp_path / "merged")
    model = load_policy(str(tmp_path / "merged"), "float32", "cpu")
    (prompt, response), *_ = rows_of_preferences(ROWS)
    logprobs = torch.log_softmax(model(input_ids=torch.tensor([[*prompt, *response]])).logits[0], dim=-1)
    scores = [float(logprobs[len(prompt) + index - 1, token]) for index, token in enumerate(response)]
    assert trained.policy_logprobs([(prompt, response)])[0] == pytest.approx(scores, abs=1e-4)


def test_training_and_publishing_leave_the_base_untouched(trained: PreferenceLearner, policy_path: str) -> None:
    trained.weights()
    base = dict(load_policy(policy_path, "float32", "cpu").named_parameters())
    held = {
        name.replace(".base_layer", ""): value
        for name, value in trained._model.get_base_model().named_parameters()
        if "lora_" not in name
    }
    assert checksum(held) == checksum(base)


def test_only_adapters_are_in_the_state(trained: PreferenceLearner) -> None:
    names = list(state_of(trained)["training"]["weights"])
    assert names
    assert all("lora_" in name for name in names)


def test_the_first_adapters_depend_on_the_seed_alone(policy_path: str) -> None:
    def first(seed: int) -> str:
        torch.rand(3)
        settings = LearnerConfig(lora=LoraConfig(rank=4))
        learner = PreferenceLearner(PolicyConfig(path=policy_path), settings, total_steps=1, seed=seed)
        return checksum(state_of(learner)["training"]["weights"])

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_targets_that_the_policy_lacks_are_refused(learner_of: LearnerOf) -> None:
    with pytest.raises(UserError, match=r"learner\.lora\.targets=.*nowhere"):
        learner_of(lora={"targets": ("nowhere",)})
