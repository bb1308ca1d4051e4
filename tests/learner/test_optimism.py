"""The exploration terms of XPO and SELM: their value, their sign, their gradient, and nothing where they are absent."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_learners import largest_difference, preferences_of, reported_by, state_of, weights_of

from learner.learner import PreferenceLearner
from learner.losses import PreferenceLoss, optimism
from learner.objective import evaluate, micro_batch
from learner.sequences import token_logprobs
from sea_agent.config import LearnerConfig
from sea_agent.errors import RunFailure
from sea_agent.pretrained import load_policy
from sea_agent.types import REFERENCE_VERSION, Preference
from sea_agent.weights import checksum

LearnerOf = Callable[..., PreferenceLearner]
BETA, ALPHA = 0.5, 0.3
OPTIMISMS = ("xpo", "selm")
LOSSES = ("dpo", "ipo", "slic")


def exploring(preferences: list[Preference]) -> list[Preference]:
    """Each with a third response to its prompt, another for every pair."""
    others = preferences_of(len(preferences), seed=77)
    return [replace(row, explored=other.chosen) for row, other in zip(preferences, others, strict=True)]


ROWS = exploring(preferences_of(6))


def gradient(learner: PreferenceLearner, preferences: list[Preference]) -> dict[str, torch.Tensor]:
    """AdamW's first moment after one round: a multiple of the gradient, in which rounding stays rounding."""
    learner.step(preferences)
    moment: dict[str, torch.Tensor] = state_of(learner)["training"]["exp_avg"]
    return moment


# --- value and sign --------------------------------------------------------------------------------------------------


def test_the_terms_are_those_of_the_papers() -> None:
    policy, reference = torch.tensor([-4.0, -7.0]), torch.tensor([-5.0, -5.5])
    assert optimism("xpo", policy, None, beta=BETA, weight=ALPHA).tolist() == pytest.approx([-1.2, -2.1])
    assert optimism("selm", policy, reference, beta=BETA, weight=ALPHA).tolist() == pytest.approx([0.15, -0.225])


def test_a_term_that_cannot_be_computed_is_refused() -> None:
    with pytest.raises(ValueError, match="reference_P"):
        optimism("selm", torch.zeros(1), None, beta=BETA, weight=ALPHA)
    with pytest.raises(ValueError, match="valid names: xpo, selm"):
        optimism("vpo", torch.zeros(1), None, beta=BETA, weight=ALPHA)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", OPTIMISMS)
def test_the_objective_is_the_base_loss_plus_the_term(policy_path: str, loss: str, name: str) -> None:
    """Of a policy that has left its reference, with every log-probability computed apart.

    In float64: the term is the difference of two losses, and that of IPO is large.
    """
    policy, reference = (load_policy(policy_path, "float32", "cpu").double() for _ in range(2))
    with torch.no_grad():
        policy.lm_head.weight.add_(0.02 * torch.randn(policy.lm_head.weight.shape, generator=torch.manual_seed(1)))
    settings = {"loss": loss, "beta": BETA, "optimism_weight": ALPHA}

    def objective(optimism: str) -> float:
        config = LearnerConfig.model_validate(settings | {"optimism": optimism})
        micro = micro_batch(ROWS, 0, device="cpu", explores=optimism != "none")
        micro = replace(micro, reference_N=token_logprobs(reference, micro.batch).sum(1))
        return float(evaluate(policy, micro, config, PreferenceLoss(config), total_weight=len(ROWS))[0])

    def logprob(model: Any, row: Preference) -> float:
        assert row.explored is not None
        ids = torch.tensor([[*row.prompt.token_ids, *row.explored.token_ids]])
        scores_T_V = model(ids).logits[0].log_softmax(-1)
        first = len(row.prompt.token_ids)
        return sum(float(scores_T_V[index - 1, ids[0, index]]) for index in range(first, ids.shape[1]))

    with torch.no_grad():
        ours, theirs = (torch.tensor([logprob(model, row) for row in ROWS]) for model in (policy, reference))
        term = ALPHA * ours if name == "xpo" else ALPHA * BETA * (ours - theirs)
        added = objective(name) - objective("none")
    assert added == pytest.approx(float(term.mean()), rel=1e-4)
    assert abs(added) > 1e-3


# --- gradient --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", OPTIMISMS)
def test_the_gradient_is_that_of_finite_differences(policy_path: str, loss: str, name: str) -> None:
    model = load_policy(policy_path, "float32", "cpu").double()
    config = LearnerConfig.model_validate({"loss": loss, "beta": BETA, "optimism": name, "optimism_weight": ALPHA})
    micro = micro_batch(ROWS, 0, device="cpu", explores=True)
    with torch.no_grad():
        # A reference that is not the policy, so that no loss is at its kink.
        micro = replace(micro, reference_N=token_logprobs(model, micro.batch).sum(1) + torch.linspace(-1, 1, 18))
    parameters = list(model.parameters())
    exact = torch.autograd.grad(evaluate(model, micro, config, PreferenceLoss(config), len(ROWS))[0], parameters)
    # Partly along the gradient: the log-probabilities are float32, and a small slope would drown in their rounding.
    size = torch.sqrt(sum((grad.square().sum() for grad in exact), torch.tensor(0.0)))
    generator = torch.manual_seed(3)
    direction = [grad / size + 0.001 * torch.randn(grad.shape, generator=generator) for grad in exact]

    def moved(step: float) -> float:
        with torch.no_grad():
            for value, along in zip(parameters, direction, strict=True):
                value.add_(step * along)
            loss = float(evaluate(model, micro, config, PreferenceLoss(config), len(ROWS))[0])
            for value, along in zip(parameters, direction, strict=True):
                value.sub_(step * along)
        return loss

    slope = (moved(1e-3) - moved(-1e-3)) / 2e-3

    def along_direction(gradient: Any) -> float:
        return sum(float((grad * along).sum()) for grad, along in zip(gradient, direction, strict=True))

    assert slope == pytest.approx(along_direction(exact), rel=5e-3)
    plain = config.model_copy(update={"optimism_weight": 0.0})
    without = torch.autograd.grad(evaluate(model, micro, plain, PreferenceLoss(plain), len(ROWS))[0], parameters)
    assert slope != pytest.approx(along_direction(without), rel=2e-2)


@pytest.mark.parametrize("name", OPTIMISMS)
def test_a_step_takes_probability_from_what_was_explored(learner_of: LearnerOf, name: str) -> None:
    rows = [replace(row, rejected=row.chosen) for row in ROWS]  # nothing to prefer, so that the term acts alone
    explored = [(row.prompt.token_ids, row.explored.token_ids) for row in rows if row.explored is not None]
    learner = learner_of(optimism=name, optimism_weight=1.0, learning_rate=1e-3)
    before = sum(map(sum, learner.policy_logprobs(explored)))
    learner.step(rows)
    assert sum(map(sum, learner.policy_logprobs(explored))) < before - 5.0
    still = learner_of(optimism=name, optimism_weight=0.0, learning_rate=1e-3)
    still.step(rows)
    assert sum(map(sum, still.policy_logprobs(explored))) == pytest.approx(before, abs=0.5)


@pytest.mark.parametrize("name", OPTIMISMS)
def test_a_weight_of_zero_is_the_base_loss(learner_of: LearnerOf, name: str) -> None:
    base = gradient(learner_of(), ROWS)
    assert largest_difference(gradient(learner_of(optimism=name, optimism_weight=0.0), ROWS), base) < 1e-7
    assert largest_difference(gradient(learner_of(optimism=name, optimism_weight=1.0), ROWS), base) > 1e-4


def test_without_optimism_explored_responses_change_nothing(learner_of: LearnerOf) -> None:
    with_them, without = learner_of(), learner_of()
    with_them.step(ROWS)
    without.step([replace(row, explored=None) for row in ROWS])
    assert checksum(weights_of(with_them)) == checksum(weights_of(without))


@pytest.mark.parametrize("settings", [{"engine": "deepspeed", "zero_stage": 3}, {"micro_batch": 2}, {"lora": {}}])
@pytest.mark.parametrize("name", OPTIMISMS)
def test_pairs_without_an_explored_response_have_no_term(
    learner_of: LearnerOf, name: str, settings: dict[str, Any]
) -> None:
    """In every engine, and whatever the cut into micro-batches: half of the pairs explore, twice as strongly."""
    some = [replace(row, explored=None) if index % 2 else row for index, row in enumerate(ROWS)]
    shared = {"optimism": name, "lora": settings.get("lora")}
    expected = gradient(learner_of(**shared, optimism_weight=ALPHA), some)
    assert largest_difference(gradient(learner_of(**shared | settings, optimism_weight=ALPHA), some), expected) < 1e-6
    assert largest_difference(gradient(learner_of(**shared | settings, optimism_weight=ALPHA), ROWS), expected) > 1e-6


# --- off-policy responses --------------------------------------------------------------------------------------------


def test_responses_of_the_reference_are_never_stale_and_never_compared(learner_of: LearnerOf) -> None:
    """Their log-probabilities are those of another policy, however large the gap."""
    learner = learner_of(max_staleness=0)
    learner.step([])
    learner.step([])
    rows = reported_by(learner, preferences_of(5))
    wrong = [replace(row.chosen, logprobs=tuple(value - 9.0 for value in row.chosen.logprobs)) for row in rows]
    frozen = [replace(one, policy_version=REFERENCE_VERSION) for one in wrong]
    mixed = [replace(row, chosen=one) for row, one in zip(rows, frozen, strict=True)]
    assert learner.step(mixed)["logprob_gap"] < 1e-5
    fresh = [
        replace(row, chosen=replace(one, policy_version=learner.version))
        for row, one in zip(reported_by(learner, preferences_of(5)), wrong, strict=True)
    ]
    with pytest.raises(RunFailure, match="disagree"):
        learner.step(fresh)


def test_a_stale_explored_response_is_refused(learner_of: LearnerOf) -> None:
    learner = learner_of(optimism="selm")
    learner.step([])
    [row] = reported_by(learner, preferences_of(1))
    assert ROWS[0].explored is not None
    with pytest.raises(RunFailure, match="response-0-0 was sampled by policy version 0"):
        learner.step([replace(row, explored=replace(ROWS[0].explored, policy_version=0))])


# --- a policy that is never trained ----------------------------------------------------------------------------------


def test_no_steps_a_round_leave_the_policy_alone_and_count_versions(learner_of: LearnerOf) -> None:
    learner = learner_of(steps_per_round=0, schedule="cosine")
    before = checksum(weights_of(learner))
    assert learner.step(ROWS) == {"pairs": 6.0}
    assert learner.version == 1
    assert checksum(weights_of(learner)) == before
    assert state_of(learner)["optimizer_steps"] == 0
    learner = learner_of(steps_per_round=1)
    learner.step(ROWS)
    assert checksum(weights_of(learner)) != before
