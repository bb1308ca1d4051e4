"""The single-process engine: AdamW in plain PyTorch."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from learner.engine import TrainingState, require_parameters

if TYPE_CHECKING:
    from sea_agent.config import LearnerConfig

Tensor = torch.Tensor


def adamw(parameters: Iterable[Tensor], config: "LearnerConfig") -> torch.optim.AdamW:
    """The optimiser of every engine."""
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=config.adam_betas, weight_decay=config.weight_decay
    )


class TorchEngine:
    """Accumulates gradients and applies AdamW in float32, with master copies of narrower weights."""

    rank = 0
    ranks = 1

    def __init__(self, model: Any, config: "LearnerConfig") -> None:
        self.module = model
        self._max_grad_norm = config.max_grad_norm
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._masters = {
            name: value if value.dtype == torch.float32 else value.detach().float().requires_grad_()
            for name, value in self._parameters.items()
        }
        self._optimizer = adamw(self._masters.values(), config)

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        for name, master in self._masters.items():
            parameter = self._parameters[name]
            if master is not parameter and parameter.grad is not None:
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                parameter.grad = None

    def step(self, learning_rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        norm = torch.nn.utils.clip_grad_norm_(self._masters.values(), self._max_grad_norm)
        self._optimizer.step()
        self.discard()
        self._copy_masters()
        return float(norm)

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        return values

    def gathered(self, parameters: Iterable[torch.nn.Parameter]) -> AbstractContextManager[None]:
        return nullcontext()

    def discard(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def answers(self) -> AbstractContextManager[None]:
        return nullcontext()

    def share(self, reference: Any) -> Any:
        return reference

    def state(self) -> TrainingState:
        result = TrainingState(weights={name: _copy(master) for name, master in self._masters.items()})
        for name, master in self._masters.items():
            moments = self._optimizer.state.get(master)
            result.exp_avg[name] = _copy(moments["exp_avg"] if moments else torch.zeros_like(master))
            result.exp_avg_sq[name] = _copy(moments["exp_avg_sq"] if moments else torch.zeros_like(master))
            result.optimizer_steps = int(moments["step"]) if moments else 0
        return result

    def load_state(self, state: TrainingState) -> None:
        require_parameters(state, {name: master.shape for name, master in self._masters.items()})
        with torch.no_grad():
            for name, master in self._masters.items():
                master.copy_(state.weights[name])
                self._optimizer.state[master] = {
                    "step": torch.tensor(float(state.optimizer_steps)),
                    "exp_avg": state.exp_avg[name].to(master.device, copy=True),
                    "exp_avg_sq": state.exp_avg_sq[name].to(master.device, copy=True),
                }
        self.discard()
        self._copy_masters()

    @torch.no_grad()
    def _copy_masters(self) -> None:
        for name, master in self._masters.items():
            if master is not self._parameters[name]:
                self._parameters[name].copy_(master)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
