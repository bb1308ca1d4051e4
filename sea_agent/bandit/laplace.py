"""Bayesian logistic regression on feature differences, with a Gaussian (Laplace) posterior around the mode.

Rewards are linear, r = φ·w with w ~ N(0, s² I), and a duel is won with probability σ((φ₁ − φ₂)·w). The mode is
found by Newton's method, the covariance is the inverse Hessian there, and s maximises the Laplace evidence
(MacKay 1992, "The evidence framework applied to classification networks") under a broad hyperprior. All float64.

With fewer labels than features the labels only speak about their own span; the fit then runs in coordinates
of that span (R of them) and the prior stays as it was across it, which is exact.

Dimension legend: S draws, P prompts, M candidates of a prompt, N labelled duels, D features,
R = min(N, D) coordinates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sea_agent.bandit.replay import Replay
from sea_agent.config import LaplaceConfig
from sea_agent.errors import RunFailure, UserError

# Candidates for the prior deviation of a reward: half-octaves from 1/8 to 128.
DEVIATIONS = tuple(2.0 ** (step / 2) for step in range(-6, 15))
_START = DEVIATIONS.index(1.0)
_NEWTON_LIMIT = 100
_HALVINGS_LIMIT = 40
# Half the squared Newton decrement, in nats: the distance to the optimum from which one more step ends at it to
# float accuracy, because the error of a Newton step is quadratic.
_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Fit:
    """A Gaussian posterior over R coordinates: mode, Cholesky factor of the precision, log evidence in nats."""

    mode_R: Tensor
    cholesky_R_R: Tensor
    evidence: float
    loss: float


class Laplace:
    """``posterior.family: laplace``; see ``Posterior`` for the methods."""

    def __init__(self, config: LaplaceConfig, members: int, dimension: int) -> None:
        self.version = 0
        self._members = members
        self._dimension = dimension
        self._fixed = config.prior_deviation
        self._grid_index = _START
        self._replay = Replay(dimension)
        self._mode_D = torch.zeros(dimension, dtype=torch.float64)
        self._basis_D_R = torch.zeros(dimension, 0, dtype=torch.float64)
        self._factor_R_R = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def labels(self) -> int:
        return len(self._replay)

    @property
    def prior_deviation(self) -> float:
        """Prior standard deviation of the reward of a standardised row: s √D."""
        return self._fixed if self._fixed is not None else DEVIATIONS[self._grid_index]

    def draw(self, features_P_M_D: Tensor, generator: np.random.Generator) -> Tensor:
        """rewards_S_P_M: fresh weights for every draw and prompt."""
        prompts = len(features_P_M_D)
        noise = generator.standard_normal((prompts * self._members, self._dimension))
        weights_P_S_D = self._weights(torch.from_numpy(noise)).unflatten(0, (prompts, self._members))
        rewards_P_S_M = torch.bmm(weights_P_S_D, features_P_M_D.to(torch.float64).transpose(1, 2))
        return rewards_P_S_M.transpose(0, 1).to(torch.float32)

    def _weights(self, noise_S_D: Tensor) -> Tensor:
        """Standard normal noise turned into draws of the weights.

        Within the labels' span the covariance is A Aᵀ, across it s² I: w = mode + s ε + Q (A − s I) Qᵀ ε.
        """
        deviation = self._scale(self.prior_deviation)
        inner_S_R = noise_S_D @ self._basis_D_R
        change_S_R = inner_S_R @ self._factor_R_R.T - deviation * inner_S_R
        return self._mode_D + deviation * noise_S_D + change_S_R @ self._basis_D_R.T

    def add(self, first_N_D: Tensor, second_N_D: Tensor, first_wins_N: Tensor, ids: Sequence[str]) -> None:
        self._replay.add(first_N_D, second_N_D, first_wins_N, ids)

    def update(self, generator: np.random.Generator) -> dict[str, float]:
        """Fit to the whole replay; a function of the replay and the previous fit, so ``generator`` is not drawn on."""
        self.version += 1
        if not self.labels:
            return {}
        difference_N_D = self._replay.first_N_D.to(torch.float64) - self._replay.second_N_D.to(torch.float64)
        wins_N = self._replay.wins_N.to(torch.float64)
        basis_D_R = _span(difference_N_D)
        difference_N_R = difference_N_D @ basis_D_R
        start_R = self._mode_D @ basis_D_R
        if self._fixed is not None:
            fit = fit_mode(difference_N_R, wins_N, self._scale(self._fixed), start_R)
        else:
            fit = self._climb(difference_N_R, wins_N, start_R)
        self._basis_D_R = basis_D_R
        identity_R_R = torch.eye(len(fit.mode_R), dtype=torch.float64)
        self._factor_R_R = torch.linalg.solve_triangular(fit.cholesky_R_R, identity_R_R, upper=False).T
        self._mode_D = basis_D_R @ fit.mode_R
        return {
            "loss": fit.loss,
            "log_evidence_per_label": fit.evidence / self.labels,
            "prior_deviation": self.prior_deviation,
        }

    def _climb(self, difference_N_R: Tensor, wins_N: Tensor, start_R: Tensor) -> Fit:
        """Walk uphill in evidence × hyperprior over the grid, from where the last update ended."""

        def at(index: int, start: Tensor) -> Fit:
            return fit_mode(difference_N_R, wins_N, self._scale(DEVIATIONS[index]), start)

        best = at(self._grid_index, start_R)
        for direction in (1, -1):
            while 0 <= self._grid_index + direction < len(DEVIATIONS):
                neighbour = at(self._grid_index + direction, best.mode_R)
                if neighbour.evidence + _hyperprior(self._grid_index + direction) <= (
                    best.evidence + _hyperprior(self._grid_index)
                ):
                    break
                best = neighbour
                self._grid_index += direction
        return best

    def _scale(self, deviation: float) -> float:
        """s, the prior deviation of one weight."""
        return deviation / math.sqrt(self._dimension)

    def state(self) -> dict[str, Any]:
        return {
            "family": "laplace",
            "version": self.version,
            "grid_index": self._grid_index,
            "mode": self._mode_D.clone(),
            "basis": self._basis_D_R.clone(),
            "factor": self._factor_R_R.clone(),
            "replay": self._replay.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        if state["family"] != "laplace":
            raise UserError("the checkpoint's posterior is not laplace: resume with the family the run started with")
        self._replay.load_state(state["replay"])
        self.version = state["version"]
        self._grid_index = state["grid_index"]
        self._mode_D = state["mode"].clone()
        self._basis_D_R = state["basis"].clone()
        self._factor_R_R = state["factor"].clone()


def fit_mode(difference_N_R: Tensor, wins_N: Tensor, scale: float, start_R: Tensor) -> Fit:
    """Mode, posterior precision and Laplace evidence of logistic regression under the prior w ~ N(0, scale² I).

    Args:
        difference_N_R: features of the first response minus those of the second, float64.
        wins_N: probability that the first response wins, in [0, 1].

    Raises:
        RunFailure: when Newton's method does not converge.
    """
    precision = scale**-2
    mode_R = start_R
    for _ in range(_NEWTON_LIMIT):
        chance_N = torch.sigmoid(difference_N_R @ mode_R)
        gradient_R = difference_N_R.T @ (chance_N - wins_N) + precision * mode_R
        weighted_N_R = difference_N_R * (chance_N * (1 - chance_N)).sqrt()[:, None]
        hessian_R_R = weighted_N_R.T @ weighted_N_R
        hessian_R_R.diagonal().add_(precision)
        cholesky_R_R = torch.linalg.cholesky(hessian_R_R)
        step_R = torch.cholesky_solve(gradient_R[:, None], cholesky_R_R)[:, 0]
        decrement = float(gradient_R @ step_R) / 2
        objective = _objective(difference_N_R, wins_N, precision, mode_R)
        if decrement < _TOLERANCE:
            mode_R = mode_R - step_R
            break
        mode_R = _shortened(difference_N_R, wins_N, precision, mode_R, step_R, objective)
    else:
        raise RunFailure("posterior.family=laplace: Newton's method did not converge; set laplace.prior_deviation")
    log_determinant = 2 * float(cholesky_R_R.diagonal().log().sum()) + 2 * len(mode_R) * math.log(scale)
    loss = functional.binary_cross_entropy_with_logits(difference_N_R @ mode_R, wins_N)
    return Fit(mode_R, cholesky_R_R, -objective - log_determinant / 2, float(loss))


def _objective(difference_N_R: Tensor, wins_N: Tensor, precision: float, weights_R: Tensor) -> float:
    """Negative log posterior in nats, without the prior's normaliser."""
    logits_N = difference_N_R @ weights_R
    likelihood = functional.binary_cross_entropy_with_logits(logits_N, wins_N, reduction="sum")
    return float(likelihood + precision / 2 * weights_R.square().sum())


def _shortened(
    difference_N_R: Tensor, wins_N: Tensor, precision: float, mode_R: Tensor, step_R: Tensor, objective: float
) -> Tensor:
    """``mode_R`` after a Newton step, which is halved until the objective falls below ``objective``."""
    for _ in range(_HALVINGS_LIMIT):
        candidate_R = mode_R - step_R
        if _objective(difference_N_R, wins_N, precision, candidate_R) < objective:
            return candidate_R
        step_R = step_R / 2
    return mode_R


def _hyperprior(index: int) -> float:
    """Log density, up to a constant, of a log-normal around 1 with a deviation of two octaves.

    A handful of labels hardly tells the scale; without this the evidence drifts to the end of the grid.
    """
    return -((math.log2(DEVIATIONS[index]) / 2) ** 2) / 2


def _span(difference_N_D: Tensor) -> Tensor:
    """basis_D_R: orthonormal columns that span the rows; the unit basis when there are D rows or more."""
    labels, dimension = difference_N_D.shape
    if labels >= dimension:
        return torch.eye(dimension, dtype=difference_N_D.dtype)
    return torch.linalg.qr(difference_N_D.T)[0]
