"""Block scales by evidence, against independent numerics from SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from sea_agent.bandit.evidence import LARGEST, SMALLEST, fit_scales, log_evidence


def problem(labels: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """grams_B_N_N of three blocks, the first of which decides the labels, and wins_N."""
    generator = np.random.default_rng(labels)
    blocks = [generator.normal(size=(labels, size)) for size in (3, 5, 40)]
    chance_N = 1 / (1 + np.exp(-2 * blocks[0].sum(1)))
    grams = np.stack([block @ block.T / block.shape[1] for block in blocks])
    return torch.from_numpy(grams), torch.from_numpy((generator.random(labels) < chance_N).astype(float))


def laplace_by_scipy(covariance_N_N: np.ndarray, wins_N: np.ndarray, shift_N: np.ndarray | float = 0.0) -> float:
    """log p(labels): minimise over whitened logits, then the Gaussian integral around the minimum."""
    root_N_N = np.linalg.cholesky(covariance_N_N + 1e-10 * np.eye(len(wins_N)))

    def energy(white_N: np.ndarray) -> float:
        logits_N = root_N_N @ white_N + shift_N
        return float(white_N @ white_N / 2 + (np.logaddexp(0, logits_N) - wins_N * logits_N).sum())

    best = optimize.minimize(energy, np.zeros(len(wins_N)), method="BFGS", options={"gtol": 1e-8})
    chance_N = 1 / (1 + np.exp(-root_N_N @ best.x - shift_N))
    hessian_N_N = np.eye(len(wins_N)) + root_N_N.T @ np.diag(chance_N * (1 - chance_N)) @ root_N_N
    return -energy(best.x) - np.linalg.slogdet(hessian_N_N)[1] / 2


@pytest.mark.parametrize("scales", [(0.5, 0.5, 0.5), (3.0, 0.1, 1.0), (10.0, 10.0, 10.0)])
def test_the_evidence_is_the_gaussian_integral_around_the_mode(scales: tuple[float, ...]) -> None:
    grams_B_N_N, wins_N = problem()
    covariance_N_N = sum(scale**2 * gram for scale, gram in zip(scales, grams_B_N_N.numpy(), strict=True))
    found = log_evidence(grams_B_N_N, wins_N, torch.tensor(scales, dtype=torch.float64))
    assert float(found) == pytest.approx(laplace_by_scipy(covariance_N_N, wins_N.numpy()), abs=1e-4)


def test_the_gradient_follows_the_mode() -> None:
    grams_B_N_N, wins_N = problem()
    scales_B = torch.tensor([1.5, 0.4, 0.8], dtype=torch.float64, requires_grad=True)
    log_evidence(grams_B_N_N, wins_N, scales_B).backward()
    assert scales_B.grad is not None

    def value(index: int, step: float) -> float:
        moved_B = scales_B.detach().clone()
        moved_B[index] += step
        return float(log_evidence(grams_B_N_N, wins_N, moved_B))

    numerical = [(value(index, 1e-4) - value(index, -1e-4)) / 2e-4 for index in range(3)]
    np.testing.assert_allclose(scales_B.grad.numpy(), numerical, rtol=1e-4, atol=1e-6)


def test_the_scales_maximise_evidence_times_hyperprior() -> None:
    grams_B_N_N, wins_N = problem(60)

    def posterior(scales_B: torch.Tensor) -> float:
        prior = stats.norm(-math.log(3) / 2, 2 * math.log(2)).logpdf(scales_B.log().numpy()).sum()
        return float(log_evidence(grams_B_N_N, wins_N, scales_B)) + float(prior)

    found_B = fit_scales(grams_B_N_N, wins_N, torch.ones(3, dtype=torch.float64))
    for index in range(3):
        for factor in (0.9, 1.1):
            moved_B = found_B.clone()
            moved_B[index] *= factor
            assert posterior(moved_B) < posterior(found_B)
    assert found_B[0] > 3 * found_B[2]


def test_without_information_the_hyperprior_decides() -> None:
    grams_B_N_N, _ = problem(4)
    found_B = fit_scales(
        grams_B_N_N / 1e6, torch.full((4,), 0.5, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    )
    np.testing.assert_allclose(found_B.numpy(), 1 / math.sqrt(3), rtol=1e-3)


def test_labels_that_separate_keep_the_scales_inside_their_bounds() -> None:
    block_N_D = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    wins_N = (block_N_D[:, 0] > 0).double()
    found_B = fit_scales((block_N_D @ block_N_D.T)[None] * 1e4, wins_N, torch.ones(1, dtype=torch.float64))
    assert SMALLEST <= float(found_B) <= LARGEST
    assert found_B.isfinite().all()


def test_the_evidence_with_a_prior_mean_is_the_gaussian_integral_around_the_mode_and_its_gradient_follows() -> None:
    grams_B_N_N, wins_N = problem()
    shifts_B_N = torch.zeros(3, len(wins_N), dtype=torch.float64)
    shifts_B_N[0] = torch.from_numpy(np.random.default_rng(5).normal(size=len(wins_N)))
    scales_B = torch.tensor([0.8, 0.4, 0.6], dtype=torch.float64, requires_grad=True)
    found = log_evidence(grams_B_N_N, wins_N, scales_B, None, shifts_B_N)
    covariance_N_N = sum(scale**2 * gram for scale, gram in zip((0.8, 0.4, 0.6), grams_B_N_N.numpy(), strict=True))
    shift_N = 0.8 * shifts_B_N[0].numpy()
    assert float(found) == pytest.approx(laplace_by_scipy(covariance_N_N, wins_N.numpy(), shift_N), abs=1e-4)
    assert float(found) != pytest.approx(laplace_by_scipy(covariance_N_N, wins_N.numpy()), abs=1e-2), "the control"
    found.backward()

    def value(step: float) -> float:
        moved_B = scales_B.detach().clone()
        moved_B[0] += step
        return float(log_evidence(grams_B_N_N, wins_N, moved_B, None, shifts_B_N))

    assert scales_B.grad is not None
    assert float(scales_B.grad[0]) == pytest.approx((value(1e-4) - value(-1e-4)) / 2e-4, rel=1e-4)
