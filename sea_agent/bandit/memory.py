"""What the labels that are no longer kept one by one say of the weights, in a bounded number of rows.

The log-likelihood of old labels, a quadratic function of the weights around the mode at which they are left behind, is
that of rows A with targets t: −½ |A w − t|². Any rotation of the rows says the same. The one along the eigenvectors of
A Aᵀ, in coordinates in which the prior of the weights is standard normal, puts first what the labels tell most about.
What comes last is dropped: the posterior is then wider there, and nowhere narrower, than the labels made it.

Dimension legend: K rows kept, D features, Y rows kept so far and labels that are left behind, Z what is dropped.
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
        self.constant = 0.0
        """Nats by which the log-likelihood of what was left behind exceeds that of the rows."""

    def absorb(self, rows_Y_D: Tensor, covariance_Y_Y: Tensor, labels: Labels, logits_Y: Tensor) -> None:
        """Take in labels that follow the rows kept so far.

        Args:
            rows_Y_D: the rows kept so far, then the feature differences of the labels.
            covariance_Y_Y: of their logits under the prior.
            labels: what was observed of them.
            logits_Y: at the mode, without the shift of the prior means.
        """
        residual_Y = labels.residual(logits_Y)
        root_Y = labels.curvature(logits_Y).clamp_min(_SMALLEST).sqrt()
        missed_Y = residual_Y / root_Y
        targets_Y = root_Y * (logits_Y + labels.shift_X) + missed_Y
        values_Y, vectors_Y_Y = torch.linalg.eigh(root_Y[:, None] * covariance_Y_Y * root_Y)
        count = min(self._most, int((values_Y > 1e-12 * values_Y[-1]).sum()))
        dropped_Y_Z, kept_Y_K = vectors_Y_Y.tensor_split([len(root_Y) - count], dim=1)
        self.rows_K_D = (kept_Y_K * root_Y[:, None]).T @ rows_Y_D
        self.targets_K = kept_Y_K.T @ targets_Y
        lost = float((dropped_Y_Z.T @ missed_Y).square().sum()) / 2
        self.constant += float(missed_Y.square().sum()) / 2 - float(labels.loss(logits_Y)) - lost

    def state(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {"rows": self.rows_K_D.clone(), "targets": self.targets_K.clone(), "constant": self.constant}

    def load_state(self, state: dict[str, Any]) -> None:
        """Replace the content by a saved one. Raises: UnfitState when it has another number of features."""
        require(state, {"rows": Tensor, "targets": Tensor, "constant": float}, "posterior.memory")
        rows = len(state["targets"])
        require(state["rows"], like(rows, self.rows_K_D.shape[1], dtype=torch.float64), "posterior.memory.rows")
        require(state["targets"], like(rows, dtype=torch.float64), "posterior.memory.targets")
        self.rows_K_D, self.targets_K = state["rows"].clone(), state["targets"].clone()
        self.constant = state["constant"]
