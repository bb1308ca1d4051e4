"""What the labels that are no longer kept one by one say of the weights, in a bounded number of rows.

The log-likelihood of old labels, a quadratic function of the weights around the mode at which they are left behind, is
that of rows A with targets t: −½ |A w − t|². Any rotation of the rows says the same. The one along the eigenvectors of
A Aᵀ, in coordinates in which the prior of the weights is standard normal, puts first what the labels tell most about.
What comes last is dropped: the posterior is then wider there, and nowhere narrower, than the labels made it. Where
people are told apart, each has rows of their own, because a row is about the weights of one person.

Dimension legend: K rows kept, D features, Y rows kept so far and labels that are left behind, O those of one person,
Z what is dropped.
"""

from typing import Any

import torch
from torch import Tensor

from sea_agent.bandit.labels import Labels
from sea_agent.saved_state import like, require

_SMALLEST = 1e-6
"""Least curvature of a label that is left behind. A certain one has next to none, and the target divides by it."""


class Memory:
    """Rows and targets of what was left behind; none at first.

    Args:
        dimension: D.
        most: of rows that are kept.
    """

    def __init__(self, dimension: int, most: int) -> None:
        self._most = most
        self.rows_K_D = torch.zeros(0, dimension, dtype=torch.float64)
        self.targets_K = torch.zeros(0, dtype=torch.float64)
        self.places_K = torch.zeros(0, dtype=torch.long)
        """Of the people whose weights the rows are about."""
        self.constant = 0.0
        """Nats by which the log-likelihood of what was left behind exceeds that of the rows."""

    def absorb(
        self, rows_Y_D: Tensor, covariance_Y_Y: Tensor, labels: Labels, logits_Y: Tensor, places_Y: Tensor
    ) -> None:
        """Take in labels that follow the rows kept so far.

        Args:
            rows_Y_D: the rows kept so far, then the feature differences of the labels.
            covariance_Y_Y: of their logits under the prior.
            labels: what was observed of them.
            logits_Y: at the mode, without the shift of the prior means.
            places_Y: of the people who gave them.
        """
        root_Y = labels.curvature(logits_Y).clamp_min(_SMALLEST).sqrt()
        missed_Y = labels.residual(logits_Y) / root_Y
        targets_Y = root_Y * (logits_Y + labels.shift_X) + missed_Y
        self.constant += float(missed_Y.square().sum()) / 2 - float(labels.loss(logits_Y))
        people = places_Y.unique()
        kept_K_Y = torch.cat(
            [
                self._rotation(root_Y, covariance_Y_Y, missed_Y, places_Y == person, max(1, self._most // len(people)))
                for person in people
            ]
        )
        self.rows_K_D = (kept_K_Y * root_Y) @ rows_Y_D
        self.targets_K = kept_K_Y @ targets_Y
        self.places_K = places_Y[kept_K_Y.abs().argmax(1)]

    def _rotation(self, root_Y: Tensor, covariance_Y_Y: Tensor, missed_Y: Tensor, own_Y: Tensor, most: int) -> Tensor:
        """kept_K_Y: the directions of one person's rows that are kept, 0 for the rows of others."""
        root_O, covariance_O_O = root_Y[own_Y], covariance_Y_Y[own_Y][:, own_Y]
        values_O, vectors_O_O = torch.linalg.eigh(root_O[:, None] * covariance_O_O * root_O)
        count = min(most, int((values_O > 1e-12 * values_O[-1]).sum()))
        dropped_O_Z, kept_O_K = vectors_O_O.tensor_split([len(root_O) - count], dim=1)
        self.constant -= float((dropped_O_Z.T @ missed_Y[own_Y]).square().sum()) / 2
        kept_K_Y = root_Y.new_zeros(count, len(root_Y))
        kept_K_Y[:, own_Y] = kept_O_K.T
        return kept_K_Y

    def state(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "rows": self.rows_K_D.clone(),
            "targets": self.targets_K.clone(),
            "people": self.places_K.clone(),
            "constant": self.constant,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Replace the content by a saved one. Raises: UnfitState when it has another number of features."""
        form = {"rows": Tensor, "targets": Tensor, "people": Tensor, "constant": float}
        require(state, form, "posterior.memory")
        rows = len(state["targets"])
        require(state["rows"], like(rows, self.rows_K_D.shape[1], dtype=torch.float64), "posterior.memory.rows")
        require(state["targets"], like(rows, dtype=torch.float64), "posterior.memory.targets")
        require(state["people"], like(rows, dtype=torch.long), "posterior.memory.people")
        self.rows_K_D, self.targets_K = state["rows"].clone(), state["targets"].clone()
        self.places_K = state["people"].clone()
        self.constant = state["constant"]
