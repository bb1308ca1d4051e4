"""Bayesian logistic regression on feature differences, with a Gaussian (Laplace) posterior around the mode.

Rewards are linear, r = φ·w, and a duel is won with probability σ((φ₁ − φ₂)·w). Features come in blocks; the weights
of a block of D_b features have the prior N(0, s_b²/D_b), so that s_b is the standard deviation of what the block adds
to the reward of a standardised row. A block of one feature may be expected to be right: its weight then has the prior
N(m_b s_b, s_b²), so that a small scale withdraws the expectation with the block. The scales s_b maximise the evidence
(``evidence.py``), the mode is found by Newton's method, and the covariance is the inverse Hessian there. All float64.

Where people are told apart (``people.py``), the weights are a person's, and covariances of logits are those of one
person's times how far the tastes of the two go together.

The fit happens between the labels (``labels.py``), and of these the most recent ones are kept one by one; what older
ones said is kept in a bounded number of rows (``memory.py``). So an update costs what it costs at some hundred labels,
however many there are.

Dimension legend: S draws, P prompts, M candidates of a prompt, N labelled duels kept one by one, K remains of older
ones, X = K + N observations, Y the oldest of them, B blocks, D features, R loadings of people.
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
from sea_agent.bandit.labels import Labels, energy, factor, find_mode, newton_step
from sea_agent.bandit.memory import Memory
from sea_agent.bandit.people import People, Who
from sea_agent.bandit.replay import Replay
from sea_agent.config import LaplaceConfig
from sea_agent.errors import UnfitState
from sea_agent.saved_state import like, require
from sea_agent.seeding import generator_for

RECENT = 512
"""Labels that are kept one by one at most."""
_LEFT_BEHIND = 256
"""Labels that are left behind at a time."""
_REMAINS = 512
"""Rows of what labels left behind have said, at most."""


@dataclass(frozen=True)
class Fit:
    """A Gaussian posterior around its mode, by X observations; float64."""

    rows_X_D: Tensor
    """In coordinates whose weights have the prior N(m_b, 1)."""
    covariance_X_X: Tensor
    """Of the logits under the prior, K."""
    dual_X: Tensor
    """Coordinates of the mode, less the prior mean, along the rows."""
    root_X: Tensor
    """Root of the precision of each observation at the mode, √W."""
    factor_X_X: Tensor
    """Cholesky factor of I + √W K √W."""

    @staticmethod
    def to_nothing(dimension: int) -> "Fit":
        none_0_0 = torch.zeros(0, 0, dtype=torch.float64)
        none_0_D = torch.zeros(0, dimension, dtype=torch.float64)
        return Fit(none_0_D, none_0_0, none_0_0.diagonal(), none_0_0.diagonal(), none_0_0)


class Laplace:
    """``posterior.family: laplace``; see ``Posterior`` for the methods.

    Args:
        dimension: D, of standardised features.
        config: settings; the defaults when not given.
        members: S, the draws.
        blocks: sizes of the blocks of features; one block when not given.
        deviations: the scales that are expected before any label; 1/√B for each block when not given.
        means: m_b, the expected weight of each block in units of its scale; 0 when not given.
        people: those whose answers are told apart; everybody is one when not given.
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
        people: People | None = None,
        seed: int = 0,
    ) -> None:
        config, blocks = config or LaplaceConfig(), blocks or (dimension,)
        if sum(blocks) != dimension:
            raise ValueError(f"blocks of {list(blocks)} features are {sum(blocks)} together and not {dimension}")
        self.version = 0
        self._members, self._seed, self._dimension = members, seed, dimension
        self._people = people
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
        self._scaled_at = 0
        """Labels that the scales were last fitted to."""
        self._replay = Replay(dimension)
        self._memory = Memory(dimension, _REMAINS)
        self._fit = Fit.to_nothing(dimension)

    @property
    def labels(self) -> int:
        return len(self._replay)

    @property
    def scales(self) -> list[float]:
        """Prior standard deviation, in logits, of what each block adds to the reward of a standardised row."""
        return self._scales_B.tolist()

    def draw(self, features_P_M_D: Tensor, generator: np.random.Generator | None = None, who: Who = None) -> Tensor:
        """rewards_S_P_M: fresh draws for every prompt, joint over its candidates."""
        prompts, candidates, _ = features_P_M_D.shape
        mean_P_M, covariance_P_M_M = self._gaussian(features_P_M_D, who)
        generator = generator or generator_for(self._seed, "draw", self.version)
        noise = generator.standard_normal((prompts, candidates, self._members))
        rewards_P_M_S = mean_P_M[:, :, None] + _symmetric_root(covariance_P_M_M) @ torch.from_numpy(noise)
        return rewards_P_M_S.permute(2, 0, 1).to(torch.float32)

    def mean(self, features_P_M_D: Tensor, who: Who = None) -> Tensor:
        """rewards_P_M under the mode."""
        if self._people is not None:
            return self._gaussian(features_P_M_D, who)[0].to(torch.float32)
        mode_D = self._means_D + self._fit.dual_X @ self._fit.rows_X_D
        return (self._scaled(features_P_M_D) @ mode_D).to(torch.float32)

    def chance(self, first_N_D: Tensor, second_N_D: Tensor, who: Who = None) -> Tensor:
        """chance_N that the first response wins, by MacKay's approximation for a Gaussian logit (1992, "The Evidence
        Framework Applied to Classification Networks"): within .02, and exact where the mean is 0."""
        mean_N, covariance_N_1_1 = self._gaussian((first_N_D - second_N_D)[:, None], who)
        variance_N_1 = covariance_N_1_1[:, 0]
        return torch.sigmoid(mean_N / (1 + math.pi / 8 * variance_N_1).sqrt())[:, 0].to(torch.float32)

    def _gaussian(self, features_P_M_D: Tensor, who: Who = None) -> tuple[Tensor, Tensor]:
        """mean_P_M and covariance_P_M_M of a prompt's candidates, in the eyes of one person for each prompt."""
        prompts, candidates, _ = features_P_M_D.shape
        scaled_P_M_D, fit = self._scaled(features_P_M_D), self._fit
        cross_X_PM = fit.rows_X_D @ scaled_P_M_D.flatten(0, 1).T
        covariance_P_M_M = scaled_P_M_D @ scaled_P_M_D.mT
        if self._people is not None:
            loadings_P_R = self._people.loadings([None] * prompts if who is None else who)
            observed_X_R = self._people.loadings_of(self._places(len(fit.rows_X_D)))
            cross_X_PM = cross_X_PM * (observed_X_R @ loadings_P_R.T).repeat_interleave(candidates, dim=1)
            covariance_P_M_M = covariance_P_M_M * loadings_P_R.square().sum(1)[:, None, None]
        mean_PM = fit.dual_X @ cross_X_PM + scaled_P_M_D.flatten(0, 1) @ self._means_D
        known_X_PM = torch.linalg.solve_triangular(fit.factor_X_X, fit.root_X[:, None] * cross_X_PM, upper=False)
        known_P_M_X = known_X_PM.T.unflatten(0, (prompts, candidates))
        return mean_PM.unflatten(0, (prompts, candidates)), covariance_P_M_M - known_P_M_X @ known_P_M_X.mT

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
        who: Sequence[str] | None = None,
    ) -> None:
        places_N = None
        if self._people is not None:
            if who is None:
                raise ValueError("a posterior that tells people apart has to know who answered")
            places_N = self._people.meet(who)
        self._replay.add(first_N_D, second_N_D, first_wins_N, ids, weights_N, places_N)

    def update(self, generator: np.random.Generator | None = None, rounds: int = 1) -> dict[str, float]:
        """Fit to all labels; a function of them and the last fit, so the arguments change nothing."""
        self.version += 1
        if not self.labels:
            return {}
        while self._replay.kept > RECENT:
            self._fit_to(RECENT)
            self._leave_behind()
        return self._fit_to(self._replay.kept)

    def _fit_to(self, count: int) -> dict[str, float]:
        """Fit to the remains of older labels and the first ``count`` of those that are kept; metrics."""
        seen = self.labels - self._replay.kept + count
        if 10 * seen >= 11 * self._scaled_at:  # a tenth more labels than last time
            self._fit_prior(count)
            self._scaled_at = seen
        rows_X_D, covariance_X_X = self._extended(count)
        labels = self._observed(rows_X_D, count)
        start_X = torch.cat([self._fit.dual_X, labels.shift_X.new_zeros(len(rows_X_D) - len(self._fit.dual_X))])
        near_X = covariance_X_X @ find_mode(covariance_X_X, labels, start_X)
        # The error of Newton's method is quadratic: one more step ends at the mode to float accuracy.
        dual_X = newton_step(covariance_X_X, labels, near_X)
        logits_X = covariance_X_X @ dual_X
        root_X = labels.curvature(logits_X).sqrt()
        # A checkpoint keeps values and no memory layout, on which the last bits of a product depend.
        factor_X_X = factor(covariance_X_X, root_X).contiguous()
        self._fit = Fit(rows_X_D, covariance_X_X, dual_X, root_X, factor_X_X)
        evidence = -float(energy(dual_X, logits_X, labels)) - float(factor_X_X.diagonal().log().sum())
        recent_N = (logits_X + labels.shift_X)[-count:]
        return {
            "loss": float(functional.binary_cross_entropy_with_logits(recent_N, labels.wins_N)),
            "log_evidence_per_label": (self._memory.constant + evidence) / seen,
            "prior_deviation": float(self._scales_B.square().sum().sqrt()),
        }

    def _extended(self, count: int) -> tuple[Tensor, Tensor]:
        """rows_X_D and covariance_X_X of the last fit, with those of the labels that it does not know."""
        known = len(self._fit.rows_X_D)
        rows_X_D = torch.cat([self._fit.rows_X_D, self._scaled(self._observations(count, known))])
        cross_X_U = rows_X_D @ rows_X_D[known:].T
        if self._people is not None:
            loadings_X_R = self._people.loadings_of(self._places(len(rows_X_D)))
            cross_X_U = cross_X_U * (loadings_X_R @ loadings_X_R[known:].T)
        covariance_X_X = torch.cat([torch.cat([self._fit.covariance_X_X, cross_X_U[:known].T]), cross_X_U], dim=1)
        return rows_X_D, covariance_X_X

    def _observations(self, count: int, start: int = 0) -> Tensor:
        """Rows of the remains of older labels and of the first ``count`` labels that are kept, from ``start`` on."""
        remains_K_D = self._memory.rows_K_D
        labels_N_D = self._replay.differences(max(start - len(remains_K_D), 0), count)
        return torch.cat([remains_K_D[start:], labels_N_D])

    @property
    def _known_people(self) -> int:
        return 0 if self._people is None else len(self._people.names)

    def _places(self, count: int) -> Tensor:
        """places_X of the people who gave the first ``count`` observations."""
        return torch.cat([self._memory.places_K, self._replay.places_N])[:count]

    def _leave_behind(self) -> None:
        """Join the oldest labels to the remains of older ones, at the mode of the fit."""
        rows_Y_D, fit = self._observations(_LEFT_BEHIND), self._fit
        count = len(rows_Y_D)
        labels = self._observed(fit.rows_X_D[:count], _LEFT_BEHIND)
        logits_Y = fit.covariance_X_X[:count] @ fit.dual_X
        self._memory.absorb(rows_Y_D, fit.covariance_X_X[:count, :count], labels, logits_Y, self._places(count))
        self._replay.forget(_LEFT_BEHIND)
        self._fit = Fit.to_nothing(self._dimension)

    def _observed(self, scaled_X_D: Tensor, count: int) -> Labels:
        return Labels(self._memory.targets_K, *self._answers(count), scaled_X_D @ self._means_D)

    def _answers(self, count: int) -> tuple[Tensor, Tensor]:
        """wins_N and weights_N of the first ``count`` labels that are kept."""
        return self._replay.wins_N[:count].double(), self._replay.weights_N[:count].double()

    def _fit_prior(self, count: int) -> None:
        """Fit the scales of the blocks, then how far the tastes of people go together."""
        rows_X_D = self._observations(count)
        if not self._fixed:
            self._fit_scales(rows_X_D, count)
            self._fit = Fit.to_nothing(self._dimension)
        if self._people is not None:
            scaled_X_D = self._scaled(rows_X_D)
            labels = self._observed(scaled_X_D, count)
            self._people.fit(scaled_X_D @ scaled_X_D.T, labels, self._places(len(rows_X_D)))
            self._fit = Fit.to_nothing(self._dimension)

    def _fit_scales(self, rows_X_D: Tensor, count: int) -> None:
        parts = rows_X_D.split(self._sizes_B.tolist(), dim=1)
        wins_N, weights_N = self._answers(count)
        grams_B_X_X = torch.stack([part @ part.T / part.shape[1] for part in parts])
        if self._people is not None:
            loadings_X_R = self._people.loadings_of(self._places(len(rows_X_D)))
            grams_B_X_X = grams_B_X_X * (loadings_X_R @ loadings_X_R.T)
        self._scales_B = fit_scales(
            grams_B_X_X,
            wins_N,
            self._scales_B,
            weights_N,
            expected_B=self._expected_B,
            shifts_B_X=torch.stack([mean * part[:, 0] for mean, part in zip(self._means_B, parts, strict=True)]),
            targets_K=self._memory.targets_K,
        )

    def state(self) -> dict[str, Any]:
        return {
            "family": "laplace",
            "version": self.version,
            "scales": self._scales_B.clone(),
            "scaled_at": self._scaled_at,
            "covariance": self._fit.covariance_X_X.clone(),
            "dual": self._fit.dual_X.clone(),
            "root": self._fit.root_X.clone(),
            "factor": self._fit.factor_X_X.clone(),
            "memory": self._memory.state(),
            "replay": self._replay.state(),
            "people": None if self._people is None else self._people.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        fit = ("covariance", "dual", "root", "factor")
        form = {"family": "laplace", "version": int, "scales": self._scales_B, "scaled_at": int}
        require(
            state,
            form | dict.fromkeys(fit, Tensor) | {"memory": dict, "replay": dict, "people": dict | None},
            "posterior",
        )
        if (state["people"] is None) != (self._people is None):
            raise UnfitState("posterior.people: was saved under the other setting")
        self._replay.load_state(state["replay"])
        self._memory.load_state(state["memory"])
        if self._people is not None:
            self._people.load_state(state["people"])
        rows_X_D = self._observations(self._replay.kept)
        places_X = self._places(len(rows_X_D))
        if len(places_X) and not 0 <= int(places_X.min()) <= int(places_X.max()) < max(1, self._known_people):
            raise UnfitState("posterior.people: there are answers of people who are not among them")
        count = state["dual"].numel()
        for name, shape in zip(fit, ((count, count), (count,), (count,), (count, count)), strict=True):
            require(state[name], like(*shape, dtype=torch.float64), f"posterior.{name}")
        if count > len(rows_X_D):
            raise UnfitState(f"posterior.dual: is of {count} observations, and there are {len(rows_X_D)}")
        self.version, self._scaled_at = state["version"], state["scaled_at"]
        self._scales_B = state["scales"].clone()
        # Labels that came after the fit follow those that it knows.
        self._fit = Fit(self._scaled(rows_X_D[:count]), *(state[name].clone() for name in fit))


def _symmetric_root(covariance_P_M_M: Tensor) -> Tensor:
    """The one positive root V √λ Vᵀ of each covariance.

    It is continuous in the covariance. V √λ is a root as well, but rounding decides the signs of its columns and, where
    eigenvalues are equal, their directions: the same noise would then give another draw.
    """
    values_P_M, vectors_P_M_M = torch.linalg.eigh(covariance_P_M_M)
    # Equal candidates make the covariance singular, and rounding may then leave it an eigenvalue below zero.
    return (vectors_P_M_M * values_P_M.clamp_min(0.0).sqrt()[:, None, :]) @ vectors_P_M_M.mT
