"""Bayesian logistic regression for many independent bandits at once, one label of each at a time.

The model is that of ``sea_agent.bandit.laplace``: rewards φ·w with w ~ N(0, s² I), Bradley–Terry labels, a Gaussian
around the mode. That fit looks at every label again; doing so after each one costs O(N² F²) for N labels. Here the
posterior is the prior of the next label, whose mode is found exactly and whose curvature is added to the precision,
in O(F²). What this gives up, that old curvatures are not taken again at the newer mode, is made good by a fit to all
labels whenever their number has grown by a tenth. So it is exact at the first ten labels and at every such fit, and in
between it is off by what a tenth of the labels move. All float64.

Dimension legend: S draws, P bandits, B contexts of a bandit, M candidates, N labels of a bandit, F features.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sea_agent.errors import RunFailure

_GROWTH = 1.1
# Newton's method for one margin reaches float accuracy in 8 steps at prior variances of up to 100.
_MARGIN_STEPS = 10
_FIT_LIMIT = 50
_HALVINGS = 30
# Half the squared Newton decrement, in nats, from which one more step ends at the mode to float accuracy.
_TOLERANCE = 1e-6


class RecursiveLaplace:
    """N(mode, A Aᵀ) over the weights of each bandit. ``deviation`` is s, the prior's for one weight."""

    def __init__(self, bandits: int, dimension: int, deviation: float) -> None:
        self.mode_P_F = torch.zeros(bandits, dimension, dtype=torch.float64)
        self.root_P_F_F = deviation * torch.eye(dimension, dtype=torch.float64).repeat(bandits, 1, 1)
        self._precision = deviation**-2
        self._difference_N_P_F = torch.empty(0, bandits, dimension, dtype=torch.float64)
        self._wins_N_P = torch.empty(0, bandits, dtype=torch.float64)
        self._next_fit = 1
        self.labels = 0

    def draw(self, features_P_B_M_F: Tensor, draws: int, generator: np.random.Generator) -> Tensor:
        """rewards_S_P_B_M (float32): fresh weights for every draw, bandit and context."""
        bandits, contexts, _, dimension = features_P_B_M_F.shape
        noise_P_BS_F = torch.from_numpy(generator.standard_normal((bandits, contexts * draws, dimension)))
        weights_P_BS_F = self.mode_P_F[:, None] + noise_P_BS_F @ self.root_P_F_F.transpose(1, 2)
        weights_P_B_F_S = weights_P_BS_F.unflatten(1, (contexts, draws)).transpose(2, 3)
        return (features_P_B_M_F @ weights_P_B_F_S).permute(3, 0, 1, 2).to(torch.float32)

    def mean(self, features_P_B_M_F: Tensor) -> Tensor:
        """rewards_P_B_M under the mode, which is the mean."""
        return (features_P_B_M_F @ self.mode_P_F[:, None, :, None])[..., 0]

    def add(self, difference_P_F: Tensor, wins_P: Tensor) -> None:
        """Learn one label of each bandit: its first response won (1), lost (0), or anything between.

        ``difference_P_F`` holds the features of the first response minus those of the second.

        Raises:
            RunFailure: when the fit to all labels does not converge.
        """
        self._store(difference_P_F, wins_P)
        whitened_P_F = torch.einsum("pfg,pf->pg", self.root_P_F_F, difference_P_F)
        variance_P = whitened_P_F.square().sum(1)
        margin_P = _margin((self.mode_P_F * difference_P_F).sum(1), variance_P, wins_P)
        chance_P = torch.sigmoid(margin_P)
        gain_P_F = torch.einsum("pfg,pg->pf", self.root_P_F_F, whitened_P_F)
        self.mode_P_F += gain_P_F * (wins_P - chance_P)[:, None]
        # Potter's square root form of the rank-one change of the covariance: A ← A (I − shrink a aᵀ), a = Aᵀφ.
        curvature_P = chance_P * (1 - chance_P)
        known_P = curvature_P / (1 + curvature_P * variance_P)
        shrink_P = known_P / (1 + (1 - known_P * variance_P).sqrt())
        self.root_P_F_F.baddbmm_(gain_P_F[:, :, None], (-shrink_P[:, None] * whitened_P_F)[:, None, :])
        if self.labels >= self._next_fit:
            self._fit()
            self._next_fit = int(self.labels * _GROWTH) + 1

    def _store(self, difference_P_F: Tensor, wins_P: Tensor) -> None:
        if self.labels == len(self._wins_N_P):
            room = max(16, self.labels)
            self._difference_N_P_F = torch.cat([self._difference_N_P_F, difference_P_F.expand(room, -1, -1)])
            self._wins_N_P = torch.cat([self._wins_N_P, wins_P.expand(room, -1)])
        self._difference_N_P_F[self.labels] = difference_P_F
        self._wins_N_P[self.labels] = wins_P
        self.labels += 1

    def _fit(self) -> None:
        """Newton's method on all labels of all bandits, from the recursion's mode."""
        difference_P_N_F = self._difference_N_P_F[: self.labels].transpose(0, 1)
        wins_P_N = self._wins_N_P[: self.labels].T
        for _ in range(_FIT_LIMIT):
            chance_P_N = torch.sigmoid(torch.einsum("pnf,pf->pn", difference_P_N_F, self.mode_P_F))
            gradient_P_F = torch.einsum("pnf,pn->pf", difference_P_N_F, chance_P_N - wins_P_N)
            gradient_P_F += self._precision * self.mode_P_F
            weighted_P_N_F = difference_P_N_F * (chance_P_N * (1 - chance_P_N)).sqrt()[..., None]
            hessian_P_F_F = weighted_P_N_F.transpose(1, 2) @ weighted_P_N_F
            hessian_P_F_F.diagonal(dim1=1, dim2=2).add_(self._precision)
            cholesky_P_F_F = torch.linalg.cholesky(hessian_P_F_F)
            step_P_F = torch.cholesky_solve(gradient_P_F[..., None], cholesky_P_F_F)[..., 0]
            self._descend(difference_P_N_F, wins_P_N, step_P_F)
            if ((gradient_P_F * step_P_F).sum(1) / 2).max() < _TOLERANCE:
                break
        else:
            raise RunFailure("the fit to all labels did not converge: use a smaller prior deviation")
        identity_F_F = torch.eye(self.mode_P_F.shape[1], dtype=torch.float64)
        self.root_P_F_F = torch.linalg.solve_triangular(cholesky_P_F_F, identity_F_F, upper=False).mT.contiguous()

    def _descend(self, difference_P_N_F: Tensor, wins_P_N: Tensor, step_P_F: Tensor) -> None:
        """Take each bandit's step, halved until its objective does not rise."""
        before_P = self._objective(difference_P_N_F, wins_P_N, self.mode_P_F)
        for _ in range(_HALVINGS):
            after_P = self._objective(difference_P_N_F, wins_P_N, self.mode_P_F - step_P_F)
            rises_P = after_P > before_P + _TOLERANCE
            if not rises_P.any():
                break
            step_P_F = torch.where(rises_P[:, None], step_P_F / 2, step_P_F)
        self.mode_P_F = self.mode_P_F - step_P_F

    def _objective(self, difference_P_N_F: Tensor, wins_P_N: Tensor, mode_P_F: Tensor) -> Tensor:
        """Negative log posterior of each bandit in nats, without the prior's normaliser."""
        logits_P_N = torch.einsum("pnf,pf->pn", difference_P_N_F, mode_P_F)
        surprise_P = (functional.softplus(logits_P_N) - wins_P_N * logits_P_N).sum(1)
        return surprise_P + self._precision / 2 * mode_P_F.square().sum(1)


def _margin(centre_P: Tensor, variance_P: Tensor, wins_P: Tensor) -> Tensor:
    """The mode of a duel's margin: u = centre + variance (win − σ(u)).

    Newton's method from 0, where σ bends the other way, approaches the solution from one side and cannot overshoot.
    """
    margin_P = torch.zeros_like(centre_P)
    for _ in range(_MARGIN_STEPS):
        chance_P = torch.sigmoid(margin_P)
        excess_P = margin_P - centre_P - variance_P * (wins_P - chance_P)
        margin_P = margin_P - excess_P / (1 + variance_P * chance_P * (1 - chance_P))
    return margin_P
