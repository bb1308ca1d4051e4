"""The interface of an engine, which owns the trainable parameters and applies optimiser steps to them."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from sea_agent.saved_state import like, require

Tensor = torch.Tensor


@dataclass
class TrainingState:
    """Full weights and AdamW moments of the trainable parameters, on the CPU, in float32.

    Nothing in it depends on the engine, the ZeRO stage or the number of ranks, so a run may resume with others.
    ``weights`` are the master weights if the model has a narrower dtype.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    exp_avg: dict[str, Tensor] = field(default_factory=dict)
    exp_avg_sq: dict[str, Tensor] = field(default_factory=dict)
    optimizer_steps: int = 0


class Engine(Protocol):
    """One rank's part of the optimisation. With several ranks all of them call every method together."""

    module: Any
    """The model; called like a transformers model."""
    rank: int
    ranks: int

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of ``loss``, which is summed over ranks, not averaged."""

    def step(self, learning_rate: float) -> float:
        """Clip the accumulated gradient, apply AdamW and reset the gradient. Returns the norm before clipping."""

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """The element-wise sum over ranks, for a small tensor on the CPU."""

    def gathered(self, parameters: Iterable[torch.nn.Parameter]) -> AbstractContextManager[None]:
        """A context in which ``parameters`` hold their full values for reading."""

    def discard(self) -> None:
        """Reset the gradients accumulated since the last step."""

    def answers(self) -> AbstractContextManager[None]:
        """A context in which a dead or unresponsive rank raises RunFailure."""

    def share(self, reference: Any) -> Any:
        """The frozen model, prepared for forward passes on every rank; called like the original."""

    def state(self) -> TrainingState | None:
        """A copy of the training state; None on ranks other than 0."""

    def load_state(self, state: TrainingState) -> None:
        """Restore the weights and the optimiser's state.

        Raises:
            UnfitState: the state belongs to other parameters than the engine trains.
        """


def require_parameters(state: TrainingState, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raises UnfitState unless the state has exactly the parameters with these names and full shapes."""
    tensors = {name: like(*shape) for name, shape in shapes.items()}
    form = {"weights": tensors, "exp_avg": tensors, "exp_avg_sq": tensors, "optimizer_steps": int}
    require(vars(state), form, "learner.training")
