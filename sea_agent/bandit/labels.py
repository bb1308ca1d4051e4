"""What is known of rewards: labelled duels, what older ones came to, and the Gaussian around the best guess from them.

Everything happens between observations, so the number of features does not matter: with K the covariance of their
logits before any is seen, the mode is K·dual, and the precision of the observations at the mode, W, gives the rest
(Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", algorithms 3.1 and 3.2).

Dimension legend: K remains of older labels, N labelled duels, X = K + N observations in this order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sea_agent.errors import RunFailure

_NEWTON_LIMIT = 100
_HALVINGS_LIMIT = 40
# Change of the log posterior, in nats, below which the mode is found.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Labels:
    """Observations with how often each counts, as a likelihood of logits; float64."""

    targets_K: Tensor
    """Logits that were observed with Gaussian noise of variance 1."""
    wins_N: Tensor
    """Probability that the first response wins, in [0, 1]."""
    weights_N: Tensor
    shift_X: Tensor
    """What the prior means add to the logits."""

    def loss(self, logits_X: Tensor) -> Tensor:
        """Negative log-likelihood in nats."""
        remains_K, logits_N = self._parts(logits_X)
        labels = functional.binary_cross_entropy_with_logits(logits_N, self.wins_N, self.weights_N, reduction="sum")
        return (remains_K - self.targets_K).square().sum() / 2 + labels

    def residual(self, logits_X: Tensor) -> Tensor:
        """Derivative of the log-likelihood to the logits."""
        remains_K, logits_N = self._parts(logits_X)
        return torch.cat([self.targets_K - remains_K, self.weights_N * (self.wins_N - torch.sigmoid(logits_N))])

    def curvature(self, logits_X: Tensor) -> Tensor:
        """Precision of each observation. A label that is certain has none left; the floor keeps its root
        differentiable."""
        _, logits_N = self._parts(logits_X)
        chance_N = torch.sigmoid(logits_N)
        variance_N = (self.weights_N * chance_N * (1 - chance_N)).clamp_min(1e-12)
        return torch.cat([torch.ones_like(self.targets_K), variance_N])

    def _parts(self, logits_X: Tensor) -> tuple[Tensor, Tensor]:
        shifted_X = logits_X + self.shift_X
        remains = len(self.targets_K)
        return shifted_X[:remains], shifted_X[remains:]


def find_mode(covariance_X_X: Tensor, labels: Labels, start_X: Tensor | None = None) -> Tensor:
    """dual_X with logits K·dual at the posterior mode, by Newton's method with step halving from ``start_X`` or zero.

    Raises:
        RunFailure: when it does not converge.
    """
    dual_X = torch.zeros_like(labels.shift_X) if start_X is None else start_X
    loss = energy(dual_X, covariance_X_X @ dual_X, labels)
    for _ in range(_NEWTON_LIMIT):
        step_X = newton_step(covariance_X_X, labels, covariance_X_X @ dual_X) - dual_X
        for _ in range(_HALVINGS_LIMIT):
            candidate_X = dual_X + step_X
            lower = energy(candidate_X, covariance_X_X @ candidate_X, labels)
            if lower <= loss:
                break
            step_X = step_X / 2
        else:
            return dual_X
        gain, dual_X, loss = loss - lower, candidate_X, lower
        if gain < _TOLERANCE:
            return dual_X
    raise RunFailure("posterior.family=laplace: Newton's method did not converge; set laplace.prior_deviation")


def newton_step(covariance_X_X: Tensor, labels: Labels, logits_X: Tensor) -> Tensor:
    """The dual of the next Newton iterate."""
    curvature_X = labels.curvature(logits_X)
    root_X = curvature_X.sqrt()
    target_X = curvature_X * logits_X + labels.residual(logits_X)
    factor_X_X = factor(covariance_X_X, root_X)
    solved_X = torch.cholesky_solve((root_X * (covariance_X_X @ target_X))[:, None], factor_X_X)[:, 0]
    return target_X - root_X * solved_X


def factor(covariance_X_X: Tensor, root_X: Tensor) -> Tensor:
    """Cholesky factor of I + √W K √W, with ``root_X`` the diagonal of √W."""
    identity_X_X = torch.eye(len(root_X), dtype=covariance_X_X.dtype)
    return torch.linalg.cholesky(identity_X_X + root_X[:, None] * covariance_X_X * root_X)


def energy(dual_X: Tensor, logits_X: Tensor, labels: Labels) -> Tensor:
    """Negative log posterior in nats, without the prior's normaliser."""
    return dual_X @ logits_X / 2 + labels.loss(logits_X)
