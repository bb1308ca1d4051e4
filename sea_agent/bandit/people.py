"""Who answered: people share most of their taste, and not all of it.

The weights w_p of person p have the prior covariance cov(w_p, w_q) = C_pq · diag(s_b²/D_b), with

    C = a² 11ᵀ + Λ Λᵀ + t² I

a part that all share (a), axes along which tastes differ (rows Λ_p), and a part of one's own (t). So the logits of two
duels, answered by p and q, have the covariance of one person's logits times C_pq: a multi-task Gaussian process with
intrinsic coregionalisation (Bonilla, Chai and Williams 2007, "Multi-task Gaussian Process Prediction"). a, t and Λ
maximise the Laplace evidence of all answers times a broad prior. Where they agree, people are one; where they do not,
everybody is on their own.

Dimension legend: Q people, A axes, R = 1 + A + Q + 1 loadings, X observations, N of those whose loadings are asked for.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from sea_agent.bandit.evidence import evidence_of
from sea_agent.bandit.labels import Labels
from sea_agent.saved_state import like, require
from sea_agent.seeding import generator_for

Who = Sequence[str | None] | None
"""In whose eyes: a name for each prompt or duel, None for people on average. For a posterior that does not tell people
apart everybody is one."""

_EXPECTED = math.log(0.7)
"""Of log a and log t, with a deviation of 1: half of the variance is shared."""
_AXIS_DEVIATION = 0.7
_START = 0.1
"""Deviation of the noise on axes with which a fit begins: where all are 0 the evidence has no slope."""
_SMALLEST, _LARGEST = math.log(1 / 64), math.log(8.0)
"""Bounds of log a and log t. With t near 0 and no axes, people are pooled."""


class People:
    """Those whose answers a posterior has seen, and how far their tastes go together.

    Args:
        axes: A, along which tastes may differ.
        seed: of the noise with which a fit begins.
    """

    def __init__(self, axes: int = 3, seed: int = 0) -> None:
        self._axes, self._seed = axes, seed
        self._places: dict[str, int] = {}
        self._logs_2 = torch.full((2,), _EXPECTED, dtype=torch.float64)
        self._axes_Q_A = torch.zeros(0, axes, dtype=torch.float64)

    @property
    def names(self) -> list[str]:
        """Of the people, in the order in which they came."""
        return list(self._places)

    def meet(self, who: Sequence[str]) -> Tensor:
        """places_N of those who answered; somebody new begins on the axes where people are on average."""
        for name in who:
            if name not in self._places:
                self._axes_Q_A = torch.cat([self._axes_Q_A, self._average_1_A])
                self._places[name] = len(self._places)
        return torch.tensor([self._places[name] for name in who], dtype=torch.long)

    @property
    def _average_1_A(self) -> Tensor:
        return self._axes_Q_A.mean(0, keepdim=True) if self._places else torch.zeros(1, self._axes, dtype=torch.float64)

    def loadings_of(self, places_N: Tensor) -> Tensor:
        """loadings_N_R of people by place; C_pq is the product of two rows."""
        return _loadings(self._logs_2, self._axes_Q_A)[places_N]

    def loadings(self, who: Sequence[str | None]) -> Tensor:
        """loadings_N_R of people by name; of None, the average over all. Somebody unknown is where people are on
        average, but for a part of their own, which the last loading stands for."""
        known_Q_R = _loadings(self._logs_2, self._axes_Q_A)
        shared, own = self._logs_2.exp()
        unknown_R = known_Q_R.new_zeros(known_Q_R.shape[1])
        unknown_R[0], unknown_R[1 : 1 + self._axes], unknown_R[-1] = shared, self._average_1_A[0], own
        average_R = known_Q_R.mean(0) if self._places else unknown_R
        rows = [
            average_R if name is None else known_Q_R[self._places[name]] if name in self._places else unknown_R
            for name in who
        ]
        return torch.stack(rows) if rows else known_Q_R[:0]

    def fit(self, covariance_X_X: Tensor, labels: Labels, places_X: Tensor) -> None:
        """Fit a, t and Λ to all observations.

        Args:
            covariance_X_X: of their logits if one person had answered them all.
            labels: what was observed.
            places_X: whose observations they are.
        """
        shape = self._axes_Q_A.shape
        noise_Q_A = generator_for(self._seed, "axes", len(places_X)).normal(0.0, _START, shape)
        start_Q_A = self._axes_Q_A + torch.from_numpy(noise_Q_A)

        def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
            values_T = torch.tensor(values, requires_grad=True)
            logs_2, axes_Q_A = values_T[:2], values_T[2:].reshape(shape)
            loadings_X_R = _loadings(logs_2, axes_Q_A)[places_X]
            evidence = evidence_of(covariance_X_X * (loadings_X_R @ loadings_X_R.T), labels)
            prior = ((logs_2 - _EXPECTED).square().sum() + (axes_Q_A / _AXIS_DEVIATION).square().sum()) / 2
            value = prior - evidence
            value.backward()
            assert values_T.grad is not None
            return value.item(), values_T.grad.numpy()

        start = torch.cat([self._logs_2, start_Q_A.flatten()]).numpy()
        bounds = [(_SMALLEST, _LARGEST)] * 2 + [(None, None)] * start_Q_A.numel()
        found = torch.from_numpy(minimize(objective, start, jac=True, bounds=bounds).x)
        self._logs_2, self._axes_Q_A = found[:2].clone(), found[2:].reshape(shape).clone()

    def state(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {"names": self.names, "logs": self._logs_2.clone(), "axes": self._axes_Q_A.clone()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Replace the content by a saved one. Raises: UnfitState when it has another number of axes."""
        require(state, {"names": [str, ...], "logs": self._logs_2, "axes": Tensor}, "posterior.people")
        require(state["axes"], like(len(state["names"]), self._axes, dtype=torch.float64), "posterior.people.axes")
        self._places = {name: place for place, name in enumerate(state["names"])}
        self._logs_2, self._axes_Q_A = state["logs"].clone(), state["axes"].clone()


def _loadings(logs_2: Tensor, axes_Q_A: Tensor) -> Tensor:
    """loadings_Q_R of the people; the last loading is of somebody unknown and 0 for all of them."""
    shared, own = logs_2.exp()
    ones_Q_1 = torch.ones(len(axes_Q_A), 1, dtype=logs_2.dtype)
    return torch.cat([shared * ones_Q_1, axes_Q_A, own * torch.eye(len(axes_Q_A)), 0 * ones_Q_1], dim=1)
