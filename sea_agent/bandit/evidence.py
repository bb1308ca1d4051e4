"""How much of the reward each block of features explains: block scales by the Laplace evidence.

Logistic regression with the prior w ~ N(0, s_b² I) on the weights of block b is a Gaussian process whose covariance is
K = Σ_b s_b² G_b, with G_b the Gram matrix of the block's feature differences. A block whose weight is expected to be
m_b s_b shifts the logits by s_b m_b d_b, with d_b its feature differences. The scales maximise the Laplace
approximation of the evidence (Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", algorithms 3.1
and 5.1) times a broad log-normal hyperprior. Everything happens between labels, so the number of features does not
matter.

Dimension legend: B blocks, N labelled duels.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional

from sea_agent.errors import RunFailure

SMALLEST, LARGEST = 1 / 64, 64.0
"""Bounds of a scale: the prior standard deviation of the reward that a block contributes, in logits."""
_HYPERPRIOR_DEVIATION = 2 * math.log(2)
_NEWTON_LIMIT = 100
_HALVINGS_LIMIT = 40
# Change of the log posterior, in nats, below which the mode is found.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class _Labels:
    """Labels with how often each counts, as a likelihood of logits."""

    wins_N: Tensor
    weights_N: Tensor
    shift_N: Tensor
    """What the prior means add to the logits."""

    def loss(self, logits_N: Tensor) -> Tensor:
        """Negative log-likelihood in nats."""
        shifted_N = logits_N + self.shift_N
        return functional.binary_cross_entropy_with_logits(shifted_N, self.wins_N, self.weights_N, reduction="sum")

    def residual(self, logits_N: Tensor) -> Tensor:
        """Derivative of the log-likelihood to the logits."""
        return self.weights_N * self.wins_N - self.weights_N * torch.sigmoid(logits_N + self.shift_N)

    def curvature(self, logits_N: Tensor) -> Tensor:
        """Variance of each label. One that is certain has none left; the floor keeps its root differentiable."""
        chance_N = torch.sigmoid(logits_N + self.shift_N)
        return (self.weights_N * chance_N * (1 - chance_N)).clamp_min(1e-12)


def fit_scales(
    grams_B_N_N: Tensor,
    wins_N: Tensor,
    start_B: Tensor,
    weights_N: Tensor | None = None,
    *,
    expected_B: Tensor | None = None,
    shifts_B_N: Tensor | None = None,
) -> Tensor:
    """scales_B with the largest evidence times hyperprior, searched from ``start_B``; float64.

    The hyperprior of each scale is log-normal around ``expected_B`` with a deviation of two octaves: a handful of
    labels hardly tells the scales, and without it they drift to their bounds.

    Args:
        grams_B_N_N: inner products of feature differences (first minus second), by block.
        wins_N: probability that the first response wins, in [0, 1].
        weights_N: how often each label counts; once when not given.
        expected_B: the scales that are expected before any label; 1/√B when not given.
        shifts_B_N: what each block adds to the logits for each unit of its scale, by its prior mean; nothing when not
            given.
    """
    if expected_B is None:
        expected_B = torch.full_like(start_B, 1.0 / math.sqrt(len(start_B)))

    def objective(logs: np.ndarray) -> tuple[float, np.ndarray]:
        logs_B = torch.tensor(logs, requires_grad=True)
        evidence = log_evidence(grams_B_N_N, wins_N, logs_B.exp(), weights_N, shifts_B_N)
        value = -(evidence + _log_hyperprior(logs_B - expected_B.log()))
        value.backward()
        assert logs_B.grad is not None
        return value.item(), logs_B.grad.numpy()

    bounds = [(math.log(SMALLEST), math.log(LARGEST))] * len(start_B)
    return torch.from_numpy(minimize(objective, start_B.log().numpy(), jac=True, bounds=bounds).x).exp()


def log_evidence(
    grams_B_N_N: Tensor,
    wins_N: Tensor,
    scales_B: Tensor,
    weights_N: Tensor | None = None,
    shifts_B_N: Tensor | None = None,
) -> Tensor:
    """Laplace approximation of log p(labels | scales) in nats, with exact gradients to the scales.

    Raises:
        RunFailure: when Newton's method does not converge.
    """
    shift_N = torch.zeros_like(wins_N) if shifts_B_N is None else scales_B @ shifts_B_N
    labels = _Labels(wins_N, torch.ones_like(wins_N) if weights_N is None else weights_N, shift_N)
    covariance_N_N = torch.einsum("b,bnm->nm", scales_B.square(), grams_B_N_N)
    with torch.no_grad():
        dual_N = _mode(covariance_N_N, labels)
        logits_N = covariance_N_N @ dual_N
    # At the mode a Newton step changes nothing, but its derivative is that of the mode (implicit differentiation).
    dual_N = _newton_step(covariance_N_N, labels, logits_N)
    logits_N = covariance_N_N @ dual_N
    factor_N_N = _factor(covariance_N_N, labels.curvature(logits_N).sqrt())
    return -_energy(dual_N, logits_N, labels) - factor_N_N.diagonal().log().sum()


def _mode(covariance_N_N: Tensor, labels: _Labels) -> Tensor:
    """dual_N with logits K·dual at the posterior mode, by Newton's method with step halving."""
    dual_N = torch.zeros_like(labels.wins_N)
    energy = _energy(dual_N, covariance_N_N @ dual_N, labels)
    for _ in range(_NEWTON_LIMIT):
        step_N = _newton_step(covariance_N_N, labels, covariance_N_N @ dual_N) - dual_N
        for _ in range(_HALVINGS_LIMIT):
            candidate_N = dual_N + step_N
            lower = _energy(candidate_N, covariance_N_N @ candidate_N, labels)
            if lower <= energy:
                break
            step_N = step_N / 2
        else:
            return dual_N
        gain, dual_N, energy = energy - lower, candidate_N, lower
        if gain < _TOLERANCE:
            return dual_N
    raise RunFailure("posterior.family=laplace: Newton's method did not converge; set laplace.prior_deviation")


def _newton_step(covariance_N_N: Tensor, labels: _Labels, logits_N: Tensor) -> Tensor:
    """The dual of the next Newton iterate."""
    curvature_N = labels.curvature(logits_N)
    root_N = curvature_N.sqrt()
    target_N = curvature_N * logits_N + labels.residual(logits_N)
    factor_N_N = _factor(covariance_N_N, root_N)
    solved_N = torch.cholesky_solve((root_N * (covariance_N_N @ target_N))[:, None], factor_N_N)[:, 0]
    return target_N - root_N * solved_N


def _factor(covariance_N_N: Tensor, root_N: Tensor) -> Tensor:
    """Cholesky factor of I + √W K √W."""
    identity_N_N = torch.eye(len(root_N), dtype=covariance_N_N.dtype)
    return torch.linalg.cholesky(identity_N_N + root_N[:, None] * covariance_N_N * root_N)


def _energy(dual_N: Tensor, logits_N: Tensor, labels: _Labels) -> Tensor:
    """Negative log posterior, without the prior's normaliser."""
    return dual_N @ logits_N / 2 + labels.loss(logits_N)


def _log_hyperprior(centred_B: Tensor) -> Tensor:
    return -(centred_B / _HYPERPRIOR_DEVIATION).square().sum() / 2
