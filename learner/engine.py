"""What an engine does for the learner: own the trainable parameters and apply optimiser steps to them."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from sea_agent.saved_state import like, require

Tensor = torch.Tensor


@dataclass
class TrainingState:
    """Weights and AdamW moments of the trainable parameters, complete, on the CPU, in float32.

    It holds nothing that depends on the engine, the ZeRO stage or the number of ranks, so a run may continue with
    others. ``weights`` are the master weights where the model itself is in a narrower format.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    exp_avg: dict[str, Tensor] = field(default_factory=dict)
    exp_avg_sq: dict[str, Tensor] = field(default_factory=dict)
    optimizer_steps: int = 0


class Engine(Protocol):
    """One rank's part of the optimisation. With several ranks every method is called by all of them together."""

    module: Any
    """The model; called like a transformers model."""
    rank: int
    ranks: int

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss`` to what was gathered since the last step. Summed over ranks, not averaged."""

    def step(self, learning_rate: float) -> float:
        """Clip the gathered gradient, apply AdamW, forget the gradient. Returns the norm before clipping."""

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """The element-wise sum over ranks, for a small tensor on the CPU."""

    def gathered(self, parameters: Iterable[torch.nn.Parameter]) -> AbstractContextManager[None]:
        """A context in which ``parameters`` hold their full values for reading."""

    def discard(self) -> None:
        """Forget the gradients gathered since the last step."""

    def answers(self) -> AbstractContextManager[None]:
        """A context in which a rank that has ended or does not answer raises RunFailure."""

    def share(self, reference: Any) -> Any:
        """A frozen model made ready for forward passes on every rank; called like the one that was given."""

    def state(self) -> TrainingState | None:
        """A copy of the training state; None on ranks other than 0."""

    def load_state(self, state: TrainingState) -> None:
        """Continue from ``state``: the weights, and what the optimiser remembers.

        Raises:
            UnfitState: when it belongs to other parameters than the engine trains.
        """


def require_parameters(state: TrainingState, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raises UnfitState when a state is not one of parameters with these names and full shapes."""
    tensors = {name: like(*shape) for name, shape in shapes.items()}
    form = {"weights": tensors, "exp_avg": tensors, "exp_avg_sq": tensors, "optimizer_steps": int}
    require(vars(state), form, "learner.training")
