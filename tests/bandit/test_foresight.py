"""What a posterior would have said of labels that it has not seen, and how far it is trusted for that."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sea_agent.bandit.foresight import information, left_out, trust
from sea_agent.bandit.laplace import Laplace, fit_mode

Problem = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def problem(labels: int, strength: float, seed: int = 0) -> Problem:
    """difference_N_R of unit prior, wins_N drawn with that strength of the reward, and weights_N of one or two."""
    generator = np.random.default_rng(seed)
    difference_N_R = torch.from_numpy(generator.normal(size=(labels, 6)))
    direction_R = torch.from_numpy(generator.normal(size=6))
    chance_N = (strength * difference_N_R @ direction_R).sigmoid()
    wins_N = (torch.from_numpy(generator.random(labels)) < chance_N).double()
    return difference_N_R, wins_N, torch.from_numpy(generator.integers(1, 3, labels)).double()


def said(difference_N_R: torch.Tensor, wins_N: torch.Tensor, weights_N: torch.Tensor, row_R: torch.Tensor) -> float:
    """The probability of one duel under the posterior of these labels, by 200,000 draws."""
    fit = fit_mode(difference_N_R, wins_N, 1.0, torch.zeros(6, dtype=torch.float64), weights_N)
    spread_R = torch.linalg.solve_triangular(fit.cholesky_R_R, row_R[:, None], upper=False)[:, 0]
    noise_S = torch.from_numpy(np.random.default_rng(1).normal(size=200_000))
    return float((row_R @ fit.mode_R + spread_R.norm() * noise_S).sigmoid().mean())


def test_a_left_out_label_is_predicted_as_by_a_posterior_that_never_saw_it() -> None:
    difference_N_R, wins_N, weights_N = problem(40, 1.0)
    fit = fit_mode(difference_N_R, wins_N, 1.0, torch.zeros(6, dtype=torch.float64), weights_N)
    spread_R_N = torch.linalg.solve_triangular(fit.cholesky_R_R, difference_N_R.T, upper=False)
    logits_N = difference_N_R @ fit.mode_R
    found_N = left_out(logits_N, spread_R_N.square().sum(0), wins_N, weights_N)
    others = [[other for other in range(40) if other != label] for label in range(40)]
    exact_N = torch.tensor(
        [
            said(difference_N_R[rest], wins_N[rest], weights_N[rest], difference_N_R[label])
            for label, rest in enumerate(others)
        ]
    )
    assert float((found_N - exact_N).abs().max()) < 0.03
    assert float((logits_N.sigmoid() - exact_N).abs().max()) > 0.1, "the control: with the label it is another thing"


def test_information_is_none_for_a_coin_and_ln_2_for_certainty() -> None:
    probability = torch.tensor([0.5, 0.0, 1.0, 0.9], dtype=torch.float64)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert information(probability).tolist() == pytest.approx(
        [0.0, math.log(2), math.log(2), math.log(2) - entropy], abs=1e-12
    )


def trust_of(probability: list[float], wins: list[float]) -> float:
    return trust(torch.tensor(probability).double(), torch.tensor(wins).double(), torch.ones(len(wins)).double())


def test_trust_grows_with_what_labels_bear_out_and_is_nothing_for_a_coin_or_worse() -> None:
    calibrated = [0.8] * 10, [1.0] * 8 + [0.0] * 2
    few, many = trust_of(*calibrated), trust_of(calibrated[0] * 20, calibrated[1] * 20)
    assert 0.5 < few < 0.7, "a nat is kept back"
    assert many > 0.97
    assert trust_of([0.5] * 50, [1.0] * 50) == 0.0
    assert trust_of(calibrated[0] * 20, [1 - wins for wins in calibrated[1]] * 20) == 0.0
    overconfident = trust_of([0.95] * 100, [1.0] * 80 + [0.0] * 20)
    assert 0.0 < overconfident < 0.5
    assert trust_of([0.05] * 100, [0.0] * 80 + [1.0] * 20) == pytest.approx(overconfident)


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=20))
def test_trust_is_a_share_whatever_is_claimed(claims: list[tuple[float, float]]) -> None:
    assert 0.0 <= trust_of([claim for claim, _ in claims], [wins for _, wins in claims]) <= 1.0


@pytest.mark.parametrize(("strength", "low", "high"), [(0.0, 0.0, 0.15), (2.0, 0.8, 1.0)])
def test_a_posterior_on_shuffled_labels_is_not_trusted_and_one_on_true_labels_is(
    strength: float, low: float, high: float
) -> None:
    found = []
    for seed in range(6):
        difference_N_R, wins_N, _ = problem(150, strength, seed)
        posterior = Laplace(6)
        posterior.add(difference_N_R.float(), torch.zeros(150, 6), wins_N.float())
        assert posterior.trust == 0.0, "nothing is known before a label"
        posterior.update()
        found.append(posterior.trust)
    assert low <= sum(found) / 6 <= high
