"""A label that knows how sure it is: the expected loss, and where training on it ends."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_learners import make_learner, preferences_of

from learner.losses import LOSSES, Pairs, PreferenceLoss
from learner.objective import evaluate, micro_batch
from sea_agent.config import LearnerConfig
from sea_agent.pretrained import load_policy

BETA = 0.5


def loss_of(policy: str, loss: str, confidence: float, swapped: bool = False) -> float:
    """The loss of six pairs, all labelled with one confidence."""
    rows = [replace(row, confidence=confidence) for row in preferences_of(6)]
    if swapped:
        rows = [replace(row, chosen=row.rejected, rejected=row.chosen) for row in rows]
    config = LearnerConfig.model_validate({"loss": loss, "beta": BETA})
    micro = micro_batch(rows, 0, "cpu")
    sequences = len(micro.batch.lengths_N)
    micro = replace(micro, reference_N=torch.full((sequences,), -8.5))
    return float(evaluate(load_policy(policy, "float32", "cpu"), micro, config, PreferenceLoss(config), 6.0)[0])


@pytest.mark.parametrize("loss", ["dpo", "ipo", "slic"])
def test_the_loss_is_the_expected_one_over_both_orders(loss: str, policy_path: str) -> None:
    sure, wrong = loss_of(policy_path, loss, 1.0), loss_of(policy_path, loss, 1.0, swapped=True)
    assert loss_of(policy_path, loss, 0.8) == pytest.approx(0.8 * sure + 0.2 * wrong, rel=1e-5)
    assert loss_of(policy_path, loss, 0.5) == pytest.approx(loss_of(policy_path, loss, 0.5, swapped=True), rel=1e-5)
    assert sure != pytest.approx(wrong, rel=1e-3)


@pytest.mark.parametrize(("loss", "margin"), [("dpo", math.log(0.8 / 0.2)), ("ipo", 0.6 / 2)])
def test_training_ends_at_the_margin_that_the_confidence_asks_for(loss: str, margin: float) -> None:
    """DPO at βh = log-odds, IPO at βh = (2p − 1)/2; a label that is taken for certain drives DPO on without end."""

    def minimum(confidence: float) -> float:
        gap = torch.zeros(1, requires_grad=True)
        optimiser = torch.optim.LBFGS([gap], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            pairs = Pairs(gap, torch.zeros(1), torch.zeros(1), torch.zeros(1))
            value = confidence * LOSSES[loss](pairs, beta=BETA)
            value = value + (1 - confidence) * LOSSES[loss](pairs.swap(), beta=BETA)
            value.sum().backward()
            return value.sum()

        for _ in range(20):
            optimiser.step(closure)
        return BETA * gap.item()

    assert minimum(0.8) == pytest.approx(margin, abs=1e-3)
    assert minimum(1.0) > margin + 0.15


def test_half_a_confidence_teaches_nothing(policy_path: str) -> None:
    """At p = ½ the gradient of DPO vanishes where policy and reference agree."""
    learner = make_learner(policy_path, beta=BETA)
    metrics = learner.step([replace(row, confidence=0.5) for row in preferences_of(6)])
    assert metrics["grad_norm"] == pytest.approx(0.0, abs=1e-6)
    assert make_learner(policy_path, beta=BETA).step(preferences_of(6))["grad_norm"] > 1e-3
