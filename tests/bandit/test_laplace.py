"""The Laplace family against independent numerics from SciPy."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, optimize

from sea_agent.bandit.evidence import LARGEST, SMALLEST
from sea_agent.bandit.laplace import Laplace
from sea_agent.config import LaplaceConfig


def negative_log_posterior(weights_D: np.ndarray, z_N_D: np.ndarray, wins_N: np.ndarray, scale: float) -> float:
    logits_N = z_N_D @ weights_D
    likelihood = np.logaddexp(0.0, -logits_N) * wins_N + np.logaddexp(0.0, logits_N) * (1 - wins_N)
    return float(likelihood.sum() + weights_D @ weights_D / (2 * scale**2))


def problem(labels: int, dimension: int, soft: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(labels + dimension)
    z_N_D = generator.normal(size=(labels, dimension))
    chance_N = 1 / (1 + np.exp(-z_N_D @ generator.normal(size=dimension)))
    return z_N_D, chance_N if soft else (generator.random(labels) < chance_N).astype(float)


def fitted(z_N_D: np.ndarray, wins_N: np.ndarray, deviation: float, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and covariance of the weights, from draws of the rewards of the unit vectors."""
    dimension = z_N_D.shape[1]
    posterior = Laplace(dimension, LaplaceConfig(prior_deviation=deviation), members=draws)
    first_N_D = torch.from_numpy(z_N_D).float()
    ids = [str(row) for row in range(len(z_N_D))]
    posterior.add(first_N_D, torch.zeros_like(first_N_D), torch.from_numpy(wins_N).float(), ids)
    posterior.update(np.random.default_rng(0))
    weights_S_D = posterior.draw(torch.eye(dimension)[None], np.random.default_rng(1))[:, 0].double().numpy()
    return weights_S_D.mean(0), np.cov(weights_S_D.T)


def gaussian(
    z_N_D: np.ndarray, wins_N: np.ndarray, scale: float, **settings: Any
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Mode and covariance of the weights under the prior N(0, scale² I), and the metrics of the fit."""
    dimension = z_N_D.shape[1]
    posterior = Laplace(dimension, LaplaceConfig(prior_deviation=scale * math.sqrt(dimension)), **settings)
    first_N_D = torch.from_numpy(z_N_D).float()
    posterior.add(first_N_D, torch.zeros_like(first_N_D), torch.from_numpy(wins_N).float())
    metrics = posterior.update()
    mean_1_D, covariance_1_D_D = posterior._gaussian(torch.eye(dimension)[None])
    return mean_1_D[0].numpy(), covariance_1_D_D[0].numpy(), metrics


def numerical_hessian(z_N_D: np.ndarray, wins_N: np.ndarray, scale: float, at_D: np.ndarray) -> np.ndarray:
    """Central differences of the negative log posterior."""
    step, unit = 1e-3, np.eye(len(at_D))

    def value(offset: np.ndarray) -> float:
        return negative_log_posterior(at_D + step * offset, z_N_D, wins_N, scale)

    return np.array(
        [[(value(a + b) - value(a - b) - value(b - a) + value(-a - b)) / (4 * step**2) for a in unit] for b in unit]
    )


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize("labels", [3, 40])
def test_mode_and_covariance_agree_with_scipy(labels: int, scale: float, soft: bool) -> None:
    z_N_D, wins_N = problem(labels, 5, soft)
    mode_D, covariance_D_D, _ = gaussian(z_N_D, wins_N, scale)
    arguments: Any = (z_N_D, wins_N, scale)
    best = optimize.minimize(negative_log_posterior, np.zeros(5), arguments, method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(mode_D, best.x, atol=1e-5)
    precision_D_D = np.linalg.inv(covariance_D_D)
    np.testing.assert_allclose(precision_D_D, numerical_hessian(z_N_D, wins_N, scale, best.x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("labels", [3, 30])
def test_draws_have_the_posterior_mean_and_covariance_with_few_and_with_many_labels(labels: int) -> None:
    dimension, scale, draws = 6, 0.8, 200_000
    z_N_D, wins_N = problem(labels, dimension)
    mean_D, covariance_D_D = fitted(z_N_D, wins_N, scale * math.sqrt(dimension), draws)
    arguments: Any = (z_N_D, wins_N, scale)
    mode_D = optimize.minimize(negative_log_posterior, np.zeros(dimension), arguments).x
    expected_D_D = np.linalg.inv(numerical_hessian(z_N_D, wins_N, scale, mode_D))
    # Five standard errors of a mean and of a covariance.
    np.testing.assert_allclose(mean_D, mode_D, atol=5 * scale / math.sqrt(draws))
    np.testing.assert_allclose(covariance_D_D, expected_D_D, atol=5 * scale**2 * math.sqrt(2 / draws))
    # The check has teeth: the prior's covariance is far outside.
    assert np.abs(covariance_D_D - scale**2 * np.eye(dimension)).max() > 20 * scale**2 * math.sqrt(2 / draws)


@pytest.mark.parametrize("scale", [0.2, 0.5, 1.0])
def test_evidence_agrees_with_numerical_integration(scale: float) -> None:
    z_N_D, wins_N = problem(12, 1)
    *_, metrics = gaussian(z_N_D, wins_N, scale)

    def density(weight: float) -> float:
        joint = math.exp(-negative_log_posterior(np.array([weight]), z_N_D, wins_N, scale))
        return joint / math.sqrt(2 * math.pi * scale**2)

    exact = math.log(integrate.quad(density, -10 * scale, 10 * scale)[0])
    assert 12 * metrics["log_evidence_per_label"] == pytest.approx(exact, abs=0.05)


def test_newton_finds_the_mode_where_full_steps_overshoot() -> None:
    """A label that a wide prior thinks impossible: the first step goes far beyond the mode."""
    z_N_D, wins_N = np.array([[40.0], [-1.0]]), np.array([1.0, 1.0])
    mode_1, _, _ = gaussian(z_N_D, wins_N, 50.0)
    best = optimize.minimize_scalar(lambda w: negative_log_posterior(np.array([w]), z_N_D, wins_N, 50.0))
    assert mode_1[0] == pytest.approx(best.x, abs=1e-4)


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_the_prior_deviation_is_found_from_labels(linear_bandit: Callable[..., Any], scale: float) -> None:
    bandit = linear_bandit(10, scale, seed=3)
    truth = math.sqrt(10) * np.sqrt(np.mean(bandit.weights_D**2))
    posterior = Laplace(10)
    first_N_D, second_N_D, chance_N = bandit.duels(1500)
    posterior.add(first_N_D, second_N_D, bandit.labels(chance_N), [str(row) for row in range(1500)])
    posterior.update(np.random.default_rng(0))
    assert truth / 2 <= posterior.scales[0] <= truth * 2


def test_scales_found_round_by_round_end_where_one_fit_of_all_labels_ends(linear_bandit: Callable[..., Any]) -> None:
    bandit = linear_bandit(10, 6.0, seed=4)
    first_N_D, second_N_D, chance_N = bandit.duels(400)
    wins_N = bandit.labels(chance_N)
    gradual, at_once = Laplace(10), Laplace(10)
    for start in range(0, 400, 50):
        rows = slice(start, start + 50)
        gradual.add(first_N_D[rows], second_N_D[rows], wins_N[rows], [str(row) for row in range(400)][rows])
        gradual.update(np.random.default_rng(0))
    at_once.add(first_N_D, second_N_D, wins_N, [str(row) for row in range(400)])
    at_once.update(np.random.default_rng(0))
    assert gradual.scales == pytest.approx(at_once.scales, rel=1e-2)
    features_P_M_D = first_N_D.reshape(40, 10, 10)
    torch.testing.assert_close(gradual.mean(features_P_M_D), at_once.mean(features_P_M_D), rtol=0, atol=0.02)


def test_labels_without_information_do_not_push_the_scale_to_its_bounds() -> None:
    posterior = Laplace(40)
    features_N_D = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 40))).float()
    posterior.add(features_N_D, -features_N_D, torch.full((8,), 0.5), [str(row) for row in range(8)])
    posterior.update(np.random.default_rng(0))
    assert 4 * SMALLEST < posterior.scales[0] < LARGEST / 4


def test_a_block_that_tells_nothing_is_scaled_down_and_the_one_that_tells_is_not(
    linear_bandit: Callable[..., Any],
) -> None:
    bandit = linear_bandit(8, 3.0, seed=5)
    noise = np.random.default_rng(6)
    posterior, blind = Laplace(208, blocks=(8, 200)), Laplace(208)
    first_N_D, second_N_D, chance_N = bandit.duels(150)
    sides = [
        torch.cat([side, torch.from_numpy(noise.normal(size=(150, 200))).float()], 1)
        for side in (first_N_D, second_N_D)
    ]
    wins_N = bandit.labels(chance_N)
    for one in (posterior, blind):
        one.add(*sides, wins_N, [str(row) for row in range(150)])
        one.update(np.random.default_rng(0))
    telling, silent = posterior.scales
    assert telling > 1.0 > 2 * silent

    first_P_D, second_P_D, chance_P = bandit.duels(2000)
    held = [
        torch.cat([side, torch.from_numpy(noise.normal(size=(2000, 200))).float()], 1)
        for side in (first_P_D, second_P_D)
    ]

    def accuracy(one: Laplace) -> float:
        means_P_2 = one.mean(torch.stack(held, 1))
        return float(((means_P_2[:, 0] > means_P_2[:, 1]) == (chance_P > 0.5)).float().mean())

    # One scale for everything drowns the telling features in the silent ones.
    assert accuracy(posterior) > 0.85 > accuracy(blind) + 0.05


def test_the_mean_is_that_of_the_draws(linear_bandit: Callable[..., Any]) -> None:
    bandit = linear_bandit(6, 2.0, seed=7)
    posterior = Laplace(6, members=20_000, blocks=(2, 4))
    first_N_D, second_N_D, chance_N = bandit.duels(5)
    posterior.add(first_N_D, second_N_D, bandit.labels(chance_N), [str(row) for row in range(5)])
    posterior.update(np.random.default_rng(0))
    features_P_M_D = first_N_D[None]
    rewards_S_P_M = posterior.draw(features_P_M_D, np.random.default_rng(1))
    error_P_M = rewards_S_P_M.std(0) / math.sqrt(20_000)
    assert ((rewards_S_P_M.mean(0) - posterior.mean(features_P_M_D)).abs() < 5 * error_P_M).all()
    assert ((rewards_S_P_M.mean(0) + posterior.mean(features_P_M_D)).abs() > 5 * error_P_M).any()


def test_intervals_hold_the_truth_as_often_as_they_claim(linear_bandit: Callable[..., Any]) -> None:
    inside, overconfident, total = 0, 0, 0
    for seed in range(40):
        bandit = linear_bandit(6, 2.0, seed)
        posterior = Laplace(6, LaplaceConfig(prior_deviation=2.0), members=200)
        first_N_D, second_N_D, chance_N = bandit.duels(40)
        posterior.add(first_N_D, second_N_D, bandit.labels(chance_N), [str(row) for row in range(40)])
        posterior.update(np.random.default_rng(seed))
        first_P_D, second_P_D, chance_P = bandit.duels(20)
        rewards_S_P_M = posterior.draw(torch.stack([first_P_D, second_P_D], 1), np.random.default_rng(seed))
        gap_S_P = rewards_S_P_M[..., 0] - rewards_S_P_M[..., 1]
        low_P, high_P = gap_S_P.quantile(torch.tensor([0.1, 0.9]), dim=0)
        truth_P, centre_P = chance_P.logit(), gap_S_P.mean(0)
        inside += int(((low_P < truth_P) & (truth_P < high_P)).sum())
        overconfident += int(((truth_P - centre_P).abs() < (high_P - low_P) / 6).sum())
        total += len(truth_P)
    assert 0.72 < inside / total < 0.88
    # Intervals of a third of the width fail the same check.
    assert overconfident / total < 0.5


# --- a block that is expected to be right ----------------------------------------------------------------------------


def expecting(mean: float = 1.0, members: int = 20_000) -> Laplace:
    """Three features of a block, and one that is expected to be right."""
    return Laplace(4, members=members, blocks=(3, 1), deviations=(0.5, 1.5), means=(0.0, mean))


def test_before_any_label_rewards_are_what_the_prior_expects() -> None:
    rows_M_D = torch.tensor([[0.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, -1.0], [1.0, 1.0, 1.0, 0.0]])
    posterior = expecting()
    assert posterior.mean(rows_M_D[None])[0].tolist() == pytest.approx([3.0, -1.5, 0.0])
    rewards_S_M = posterior.draw(rows_M_D[None], np.random.default_rng(0))[:, 0]
    assert rewards_S_M.mean(0).tolist() == pytest.approx([3.0, -1.5, 0.0], abs=0.06)
    assert rewards_S_M.std(0).tolist() == pytest.approx([3.0, 1.5, 0.5], rel=0.03)


def taught(posterior: Laplace, labels: int, sign: float, seed: int = 0) -> Laplace:
    """Labels of random duels: sign 1 as the expected feature says, -1 the reverse, 0 as a coin says."""
    generator = np.random.default_rng(seed)
    rows_N_D = torch.from_numpy(generator.normal(size=(labels, 4))).float()
    logits_N = 2.0 * sign * rows_N_D[:, 3]
    wins_N = (torch.from_numpy(generator.random(labels)).float() < logits_N.sigmoid()).float()
    posterior.add(rows_N_D, torch.zeros_like(rows_N_D), wins_N)
    posterior.update()
    return posterior


def weight(posterior: Laplace) -> float:
    return float(posterior.mean(torch.eye(4)[None])[0, 3])


def test_labels_bear_the_expectation_out_or_withdraw_it() -> None:
    right = weight(taught(expecting(), 64, 1.0))
    coin = [weight(taught(expecting(), 64, 0.0, seed)) for seed in range(5)]
    wrong = weight(taught(expecting(), 64, -1.0))
    assert right > 1.0
    assert sum(coin) / 5 < 0.35
    assert wrong < -1.0
    few = 4
    assert weight(taught(expecting(), few, 1.0)) > weight(taught(expecting(mean=0.0), few, 1.0)), (
        "it needs fewer labels"
    )


def test_the_mode_with_a_mean_is_that_of_scipy() -> None:
    posterior = Laplace(4, LaplaceConfig(prior_deviation=1.5), blocks=(3, 1), means=(0.0, 1.0))
    taught(posterior, 30, 1.0)
    z_N_D = posterior._replay.first_N_D.double().numpy()
    wins_N = posterior._replay.wins_N.double().numpy()
    scale_D = np.array([1.5 / math.sqrt(3)] * 3 + [1.5])

    def energy(v_D: np.ndarray) -> float:
        logits_N = z_N_D @ (scale_D * v_D)
        likelihood = np.logaddexp(0.0, logits_N) - wins_N * logits_N
        return float(likelihood.sum() + ((v_D - np.array([0, 0, 0, 1.0])) ** 2).sum() / 2)

    best = optimize.minimize(energy, np.zeros(4), method="BFGS", options={"gtol": 1e-8})
    found = posterior.mean(torch.eye(4)[None])[0].numpy()
    np.testing.assert_allclose(found, scale_D * best.x, atol=1e-4)


def test_only_a_block_of_one_feature_may_have_a_mean() -> None:
    with pytest.raises(ValueError, match="only those of one may have a mean"):
        Laplace(4, blocks=(3, 1), means=(1.0, 0.0))
