"""Bayesian logistic regression on feature differences, with a Gaussian (Laplace) posterior around the mode.

Rewards are linear, r = φ·w, and a duel is won with probability σ((φ₁ − φ₂)·w). Features come in blocks; the weights
of a block of D_b features have the prior N(0, s_b²/D_b), so that s_b is the standard deviation of what the block adds
to the reward of a standardised row. A block of one feature may be expected to be right: its weight then has the prior
N(m_b s_b, s_b²), so that a small scale withdraws the expectation with the block. The scales s_b maximise the evidence
(``evidence.py``), the mode is found by Newton's method, and the covariance is the inverse Hessian there. All float64.

With fewer labels than features the labels only speak about their own span; the fit then runs in coordinates
of that span (R of them) and the prior stays as it was across it, which is exact.

Dimension legend: S draws, P prompts, M candidates of a prompt, N labelled duels, B blocks, D features,
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

from sea_agent.bandit.evidence import fit_scales
from sea_agent.bandit.replay import Replay
from sea_agent.config import LaplaceConfig
from sea_agent.errors import RunFailure
from sea_agent.saved_state import like, require
from sea_agent.seeding import generator_for

# Labels that the scales are fitted to at most: evenly spread over the replay, so that their cost stays bounded.
_EVIDENCE_LABELS = 512
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
    """``posterior.family: laplace``; see ``Posterior`` for the methods.

    Args:
        dimension: D, of standardised features.
        config: settings; the defaults when not given.
        members: S, the draws.
        blocks: sizes of the blocks of features; one block when not given.
        deviations: the scales that are expected before any label; 1/√B for each block when not given.
        means: m_b, the expected weight of each block in units of its scale; 0 when not given.
        seed: of the draws that are given no generator.

    Raises:
        ValueError: when the blocks are not D features together, or a block of several features has a mean.
    """

    def __init__(
        self,
        dimension: int,
        config: LaplaceConfig | None = None,
        *,
        members: int = 20,
        blocks: Sequence[int] | None = None,
        deviations: Sequence[float] | None = None,
        means: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        config, blocks = config or LaplaceConfig(), blocks or (dimension,)
        if sum(blocks) != dimension:
            raise ValueError(f"blocks of {list(blocks)} features are {sum(blocks)} together and not {dimension}")
        self.version = 0
        self._members, self._seed, self._dimension = members, seed, dimension
        self._sizes_B = torch.tensor(blocks)
        self._fixed = config.prior_deviation is not None
        expected = deviations or [1.0 / math.sqrt(len(blocks))] * len(blocks)
        self._expected_B = torch.tensor(expected, dtype=torch.float64)
        self._scales_B = self._expected_B.clone()
        if config.prior_deviation is not None:
            self._scales_B.fill_(config.prior_deviation)
        self._means_B = torch.tensor(means or [0.0] * len(blocks), dtype=torch.float64)
        if (self._means_B != 0).logical_and(self._sizes_B != 1).any():
            raise ValueError(f"of blocks of {list(blocks)} features only those of one may have a mean, not {means}")
        self._replay = Replay(self._dimension)
        self._basis_D_R = torch.zeros(self._dimension, 0, dtype=torch.float64)
        self._mode_R = torch.zeros(0, dtype=torch.float64)
        self._factor_R_R = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def labels(self) -> int:
        return len(self._replay)

    @property
    def scales(self) -> list[float]:
        """Prior standard deviation, in logits, of what each block adds to the reward of a standardised row."""
        return self._scales_B.tolist()

    def draw(self, features_P_M_D: Tensor, generator: np.random.Generator | None = None) -> Tensor:
        """rewards_S_P_M: fresh draws for every prompt, joint over its candidates."""
        prompts, candidates, _ = features_P_M_D.shape
        mean_P_M, covariance_P_M_M = self._gaussian(features_P_M_D)
        generator = generator or generator_for(self._seed, "draw", self.version)
        noise = generator.standard_normal((prompts, candidates, self._members))
        rewards_P_M_S = mean_P_M[:, :, None] + _symmetric_root(covariance_P_M_M) @ torch.from_numpy(noise)
        return rewards_P_M_S.permute(2, 0, 1).to(torch.float32)

    def mean(self, features_P_M_D: Tensor) -> Tensor:
        """rewards_P_M under the mode."""
        return (self._scaled(features_P_M_D) @ (self._means_D + self._basis_D_R @ self._mode_R)).to(torch.float32)

    def chance(self, first_N_D: Tensor, second_N_D: Tensor) -> Tensor:
        """chance_N that the first response wins, by MacKay's approximation for a Gaussian logit (1992, "The Evidence
        Framework Applied to Classification Networks", equation 10): within .02, and exact where the mean is 0."""
        mean_N, covariance_N_1_1 = self._gaussian((first_N_D - second_N_D)[:, None])
        variance_N_1 = covariance_N_1_1[:, 0]
        return torch.sigmoid(mean_N / (1 + math.pi / 8 * variance_N_1).sqrt())[:, 0].to(torch.float32)

    def _gaussian(self, features_P_M_D: Tensor) -> tuple[Tensor, Tensor]:
        """mean_P_M and covariance_P_M_M of a prompt's candidates: A Aᵀ within the labels' span, that of the prior
        across it."""
        scaled_P_M_D = self._scaled(features_P_M_D)
        inner_P_M_R = scaled_P_M_D @ self._basis_D_R
        known_P_M_R = inner_P_M_R @ self._factor_R_R
        covariance_P_M_M = known_P_M_R @ known_P_M_R.mT
        if self._basis_D_R.shape[1] < self._dimension:
            covariance_P_M_M += scaled_P_M_D @ scaled_P_M_D.mT - inner_P_M_R @ inner_P_M_R.mT
        return inner_P_M_R @ self._mode_R + scaled_P_M_D @ self._means_D, covariance_P_M_M

    @property
    def _means_D(self) -> Tensor:
        return self._means_B.repeat_interleave(self._sizes_B)

    def _scaled(self, features_X_D: Tensor) -> Tensor:
        """Features in coordinates whose weights have the prior N(m_b, 1)."""
        weights_D = (self._scales_B / self._sizes_B.sqrt()).repeat_interleave(self._sizes_B)
        return features_X_D.to(torch.float64) * weights_D

    def add(
        self,
        first_N_D: Tensor,
        second_N_D: Tensor,
        first_wins_N: Tensor,
        ids: Sequence[str] | None = None,
        weights_N: Tensor | None = None,
    ) -> None:
        self._replay.add(first_N_D, second_N_D, first_wins_N, ids, weights_N)

    def update(self, generator: np.random.Generator | None = None, rounds: int = 1) -> dict[str, float]:
        """Fit to the whole replay; a function of the replay and the last scales, so the arguments change nothing."""
        self.version += 1
        if not self.labels:
            return {}
        difference_N_D = self._replay.first_N_D.to(torch.float64) - self._replay.second_N_D.to(torch.float64)
        wins_N, weights_N = self._replay.wins_N.to(torch.float64), self._replay.weights_N.to(torch.float64)
        if not self._fixed:
            self._fit_scales(difference_N_D, wins_N, weights_N)
        scaled_N_D = self._scaled(difference_N_D)
        self._basis_D_R = _span(scaled_N_D)
        difference_N_R = scaled_N_D @ self._basis_D_R
        start_R = torch.zeros(difference_N_R.shape[1], dtype=torch.float64)
        shift_N = scaled_N_D @ self._means_D
        fit = fit_mode(difference_N_R, wins_N, 1.0, start_R, weights_N, shift_N)
        identity_R_R = torch.eye(len(fit.mode_R), dtype=torch.float64)
        self._factor_R_R = torch.linalg.solve_triangular(fit.cholesky_R_R, identity_R_R, upper=False).T.contiguous()
        self._mode_R = fit.mode_R
        return {
            "loss": fit.loss,
            "log_evidence_per_label": fit.evidence / self.labels,
            "prior_deviation": float(self._scales_B.square().sum().sqrt()),
        }

    def _fit_scales(self, difference_N_D: Tensor, wins_N: Tensor, weights_N: Tensor) -> None:
        rows = torch.linspace(0, len(wins_N) - 1, min(len(wins_N), _EVIDENCE_LABELS)).round().long()
        parts = difference_N_D[rows].split(self._sizes_B.tolist(), dim=1)
        grams_B_N_N = torch.stack([part @ part.T / part.shape[1] for part in parts])
        expected_B_N = torch.stack([mean * part[:, 0] for mean, part in zip(self._means_B, parts, strict=True)])
        self._scales_B = fit_scales(
            grams_B_N_N,
            wins_N[rows],
            self._scales_B,
            weights_N[rows],
            expected_B=self._expected_B,
            shifts_B_N=expected_B_N,
        )

    def state(self) -> dict[str, Any]:
        return {
            "family": "laplace",
            "version": self.version,
            "scales": self._scales_B.clone(),
            "mode": self._mode_R.clone(),
            "basis": self._basis_D_R.clone(),
            "factor": self._factor_R_R.clone(),
            "replay": self._replay.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        fit = dict.fromkeys(("mode", "basis", "factor"), Tensor)
        form = {"family": "laplace", "version": int, "scales": self._scales_B, "replay": dict}
        require(state, form | fit, "posterior")
        rank = state["mode"].numel()
        for name, shape in {"mode": (rank,), "basis": (self._dimension, rank), "factor": (rank, rank)}.items():
            require(state[name], like(*shape, dtype=torch.float64), f"posterior.{name}")
        self._replay.load_state(state["replay"])
        self.version = state["version"]
        self._scales_B = state["scales"].clone()
        self._mode_R = state["mode"].clone()
        self._basis_D_R = state["basis"].clone()
        self._factor_R_R = state["factor"].clone()


def fit_mode(
    difference_N_R: Tensor,
    wins_N: Tensor,
    scale: float,
    start_R: Tensor,
    weights_N: Tensor | None = None,
    shift_N: Tensor | None = None,
) -> Fit:
    """Mode, posterior precision and Laplace evidence of logistic regression under the prior w ~ N(0, scale² I).

    Args:
        difference_N_R: features of the first response minus those of the second, float64.
        wins_N: probability that the first response wins, in [0, 1].
        weights_N: how often each label counts; once when not given.
        shift_N: what is added to the logit of each label; nothing when not given.

    Raises:
        RunFailure: when Newton's method does not converge.
    """
    precision = scale**-2
    weights_N = torch.ones_like(wins_N) if weights_N is None else weights_N
    shift_N = torch.zeros_like(wins_N) if shift_N is None else shift_N
    problem = (difference_N_R, shift_N, wins_N, weights_N, precision)
    mode_R = start_R
    for _ in range(_NEWTON_LIMIT):
        chance_N = torch.sigmoid(difference_N_R @ mode_R + shift_N)
        gradient_R = difference_N_R.T @ (weights_N * (chance_N - wins_N)) + precision * mode_R
        weighted_N_R = difference_N_R * (weights_N * chance_N * (1 - chance_N)).sqrt()[:, None]
        hessian_R_R = weighted_N_R.T @ weighted_N_R
        hessian_R_R.diagonal().add_(precision)
        cholesky_R_R = torch.linalg.cholesky(hessian_R_R)
        step_R = torch.cholesky_solve(gradient_R[:, None], cholesky_R_R)[:, 0]
        decrement = float(gradient_R @ step_R) / 2
        objective = _objective(*problem, mode_R)
        if decrement < _TOLERANCE:
            mode_R = mode_R - step_R
            break
        mode_R = _shortened(problem, mode_R, step_R, objective)
    else:
        raise RunFailure("posterior.family=laplace: Newton's method did not converge; set laplace.prior_deviation")
    log_determinant = 2 * float(cholesky_R_R.diagonal().log().sum()) + 2 * len(mode_R) * math.log(scale)
    loss = functional.binary_cross_entropy_with_logits(difference_N_R @ mode_R + shift_N, wins_N)
    return Fit(mode_R, cholesky_R_R, -objective - log_determinant / 2, float(loss))


_Problem = tuple[Tensor, Tensor, Tensor, Tensor, float]
"""difference_N_R, shift_N, wins_N, weights_N and the precision of the prior."""


def _objective(
    difference_N_R: Tensor, shift_N: Tensor, wins_N: Tensor, weights_N: Tensor, precision: float, mode_R: Tensor
) -> float:
    """Negative log posterior in nats, without the prior's normaliser."""
    logits_N = difference_N_R @ mode_R + shift_N
    likelihood = functional.binary_cross_entropy_with_logits(logits_N, wins_N, weights_N, reduction="sum")
    return float(likelihood + precision / 2 * mode_R.square().sum())


def _shortened(problem: _Problem, mode_R: Tensor, step_R: Tensor, objective: float) -> Tensor:
    """``mode_R`` after a Newton step, which is halved until the objective falls below ``objective``."""
    for _ in range(_HALVINGS_LIMIT):
        candidate_R = mode_R - step_R
        if _objective(*problem, candidate_R) < objective:
            return candidate_R
        step_R = step_R / 2
    return mode_R


def _span(difference_N_D: Tensor) -> Tensor:
    """basis_D_R: orthonormal columns that span the rows; the unit basis when there are D rows or more."""
    labels, dimension = difference_N_D.shape
    if labels >= dimension:
        return torch.eye(dimension, dtype=difference_N_D.dtype)
    # A checkpoint keeps values and no memory layout, on which the last bits of a product depend.
    return torch.linalg.qr(difference_N_D.T)[0].contiguous()


def _symmetric_root(covariance_P_M_M: Tensor) -> Tensor:
    """The one positive root V √λ Vᵀ of each covariance.

    It is continuous in the covariance. V √λ is a root as well, but rounding decides the signs of its columns and, where
    eigenvalues are equal, their directions: the same noise would then give another draw.
    """
    values_P_M, vectors_P_M_M = torch.linalg.eigh(covariance_P_M_M)
    # Equal candidates make the covariance singular, and rounding may then leave it an eigenvalue below zero.
    return (vectors_P_M_M * values_P_M.clamp_min(0.0).sqrt()[:, None, :]) @ vectors_P_M_M.mT
