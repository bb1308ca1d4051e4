"""How much of the reward each block of features explains: block scales by the Laplace evidence.

Logistic regression with the prior w ~ N(0, s_b² I) on the weights of block b is a Gaussian process whose covariance is
K = Σ_b s_b² G_b, with G_b the Gram matrix of the block's feature differences. A block whose weight is expected to be
m_b s_b shifts the logits by s_b m_b d_b, with d_b its feature differences. The scales maximise the Laplace
approximation of the evidence (Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", algorithm 5.1)
times a broad log-normal hyperprior.

Dimension legend: B blocks, K remains of older labels, N labelled duels, X = K + N observations in this order.
"""

import math

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from sea_agent.bandit.labels import Labels, energy, factor, find_mode, newton_step

SMALLEST, LARGEST = 1 / 64, 64.0
"""Bounds of a scale: the prior standard deviation of the reward that a block contributes, in logits."""
_HYPERPRIOR_DEVIATION = 2 * math.log(2)


def fit_scales(
    grams_B_X_X: Tensor,
    wins_N: Tensor,
    start_B: Tensor,
    weights_N: Tensor | None = None,
    *,
    expected_B: Tensor | None = None,
    shifts_B_X: Tensor | None = None,
    targets_K: Tensor | None = None,
) -> Tensor:
    """scales_B with the largest evidence times hyperprior, searched from ``start_B``; float64.

    The hyperprior of each scale is log-normal around ``expected_B`` with a deviation of two octaves: a handful of
    labels hardly tells the scales, and without it they drift to their bounds.

    Args:
        grams_B_X_X: inner products of feature differences (first minus second), by block.
        wins_N: probability that the first response wins, in [0, 1].
        weights_N: how often each label counts; once when not given.
        expected_B: the scales that are expected before any label; 1/√B when not given.
        shifts_B_X: what each block adds to the logits for each unit of its scale, by its prior mean; nothing when not
            given.
        targets_K: of the remains of older labels; there are none when not given.
    """
    if expected_B is None:
        expected_B = torch.full_like(start_B, 1.0 / math.sqrt(len(start_B)))

    def objective(logs: np.ndarray) -> tuple[float, np.ndarray]:
        logs_B = torch.tensor(logs, requires_grad=True)
        evidence = log_evidence(grams_B_X_X, wins_N, logs_B.exp(), weights_N, shifts_B_X, targets_K)
        value = -(evidence + _log_hyperprior(logs_B - expected_B.log()))
        value.backward()
        assert logs_B.grad is not None
        return value.item(), logs_B.grad.numpy()

    bounds = [(math.log(SMALLEST), math.log(LARGEST))] * len(start_B)
    return torch.from_numpy(minimize(objective, start_B.log().numpy(), jac=True, bounds=bounds).x).exp()


def log_evidence(
    grams_B_X_X: Tensor,
    wins_N: Tensor,
    scales_B: Tensor,
    weights_N: Tensor | None = None,
    shifts_B_X: Tensor | None = None,
    targets_K: Tensor | None = None,
) -> Tensor:
    """Laplace approximation of log p(labels | scales) in nats, with exact gradients to the scales.

    Raises:
        RunFailure: when Newton's method does not converge.
    """
    shift_X = torch.zeros_like(grams_B_X_X[0, 0]) if shifts_B_X is None else scales_B @ shifts_B_X
    labels = Labels(
        targets_K=torch.zeros(0, dtype=torch.float64) if targets_K is None else targets_K,
        wins_N=wins_N,
        weights_N=torch.ones_like(wins_N) if weights_N is None else weights_N,
        shift_X=shift_X,
    )
    return evidence_of(torch.einsum("b,bxy->xy", scales_B.square(), grams_B_X_X), labels)


def evidence_of(covariance_X_X: Tensor, labels: Labels) -> Tensor:
    """Laplace approximation of log p(labels) in nats when the logits have this covariance, with exact gradients to it.

    Raises:
        RunFailure: when Newton's method does not converge.
    """
    with torch.no_grad():
        dual_X = find_mode(covariance_X_X, labels)
        logits_X = covariance_X_X @ dual_X
    # At the mode a Newton step changes nothing, but its derivative is that of the mode (implicit differentiation).
    dual_X = newton_step(covariance_X_X, labels, logits_X)
    logits_X = covariance_X_X @ dual_X
    factor_X_X = factor(covariance_X_X, labels.curvature(logits_X).sqrt())
    return -energy(dual_X, logits_X, labels) - factor_X_X.diagonal().log().sum()


def _log_hyperprior(centred_B: Tensor) -> Tensor:
    return -(centred_B / _HYPERPRIOR_DEVIATION).square().sum() / 2
