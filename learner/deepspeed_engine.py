"""The DeepSpeed engine: AdamW with ZeRO stages 0 to 3 over any number of processes, gloo on CPUs and nccl on GPUs.

The deepspeed library is imported with the first engine, not with this module. A process joins the process group once,
for all its engines, and stays in it.
"""

import importlib
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from learner.engine import TrainingState, require_parameters
from learner.torch_engine import adamw
from sea_agent.errors import RunFailure, UserError, first_line

if TYPE_CHECKING:
    from sea_agent.config import LearnerConfig

Tensor = torch.Tensor
_MOMENTS = ("exp_avg", "exp_avg_sq")
_BUCKET = 500_000_000
"""Gradients that are reduced together at most, DeepSpeed's own default."""


class DeepSpeedEngine:
    """One rank of a DeepSpeed engine. All ranks call every method together.

    Args:
        model: the model, on the CPU; the engine moves it.
        device: this rank's device: ``cpu``, ``cuda`` or ``cuda:N``.
        rendezvous: ``tcp://HOST:PORT`` on rank 0's machine; not needed for one rank.
        deadline_seconds: longest wait for another rank.

    Raises:
        UserError: there are several ranks and no rendezvous.
        RunFailure: the other ranks do not arrive before the deadline.
    """

    def __init__(
        self,
        model: Any,
        config: "LearnerConfig",
        *,
        device: str,
        rank: int,
        rendezvous: str | None,
        deadline_seconds: float,
    ) -> None:
        bfloat16 = model.dtype == torch.bfloat16
        if bfloat16 and config.zero_stage < 2:
            raise UserError(
                f"policy.dtype=bfloat16 needs learner.zero_stage 2 or 3, not {config.zero_stage}: below, DeepSpeed "
                "does not sum gradients over micro-batches in float32"
            )
        self.rank, self.ranks = rank, config.ranks
        self._device = torch.device(device)
        self._deadline_seconds = deadline_seconds
        _choose_accelerator(self._device)
        join_ranks(self._device, rank, config.ranks, rendezvous, deadline_seconds)
        self._stage = config.zero_stage
        trained = [value for value in model.parameters() if value.requires_grad]
        self._zero = {
            "train_micro_batch_size_per_gpu": config.micro_batch,
            "bf16": {"enabled": bfloat16},
            "data_types": {"grad_accum_dtype": "fp32"},
            "zero_optimization": {
                "stage": config.zero_stage,
                # DeepSpeed reserves memory for as many, however small the model is.
                "reduce_bucket_size": min(_BUCKET, sum(value.numel() for value in trained)),
            },
            "steps_per_print": None,
        }
        self._adamw = adamw(trained, config)
        # The learner decides when gradients are complete: rounds vary in their number of micro-batches.
        clipping = config.max_grad_norm if config.zero_stage > 0 else 0.0
        settings = {"managed_gradient_accumulation": False, "gradient_clipping": clipping}
        self.module = self._initialize(model, self._zero | settings, self._adamw)
        self._optimizer = self.module.optimizer
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._norm = 0.0
        if config.zero_stage == 0:
            self._clip_here(config.max_grad_norm)
        self._make_moments()

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages gradients over ranks; the learner's loss is a sum over them.
        self.module.backward(loss * self.ranks)

    def step(self, learning_rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self.module.step()
        return self._norm if self._stage == 0 else float(self.module.get_global_grad_norm())

    def discard(self) -> None:
        self._optimizer.zero_grad()
        if self._stage in (1, 2):
            # ZeRO keeps these gradients apart from the parameters and otherwise clears them only in its step.
            self._optimizer.all_grad_tensors.clear()
            self._optimizer.averaged_gradients.clear()

    @contextmanager
    def answers(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if self.ranks == 1 or not re.search("gloo|nccl", str(error), re.IGNORECASE):
                raise
            raise RunFailure(
                f"learner rank {self.rank}: another of the {self.ranks} ranks has ended, or did not answer within "
                f"{self._deadline_seconds:g} s ({first_line(error)}). Look for the first error of the other "
                "ranks; raise deadline_seconds if they are only slow."
            ) from error

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        total = values.to(self._device, copy=True)
        dist.all_reduce(total)
        return total.cpu()

    def gathered(self, parameters: Iterable[torch.nn.Parameter]) -> AbstractContextManager[None]:
        return _deepspeed().zero.GatheredParameters(list(parameters)) if self._stage == 3 else nullcontext()

    def share(self, reference: Any) -> Any:
        if self._stage < 3:
            return reference.to(self._device)
        return self._initialize(reference, self._zero, None)

    def state(self) -> TrainingState | None:
        result = TrainingState(optimizer_steps=self._steps())
        for name, parameter in self._parameters.items():
            parts = {"weights": self._read(parameter, None)}
            parts |= {key: self._read(parameter, key) for key in _MOMENTS}
            if self.rank == 0:
                for key, value in parts.items():
                    getattr(result, key)[name] = value.detach().to("cpu", copy=True)
        return result if self.rank == 0 else None

    def load_state(self, state: TrainingState) -> None:
        # ZeRO 3 leaves a parameter empty and keeps its shape beside it.
        shapes = {name: getattr(value, "ds_shape", value.shape) for name, value in self._parameters.items()}
        require_parameters(state, shapes)
        for moments in self._adamw.state.values():
            moments["step"].fill_(state.optimizer_steps)
        for name, parameter in self._parameters.items():
            self._write(parameter, None, state.weights[name])
            for key in _MOMENTS:
                self._write(parameter, key, getattr(state, key)[name])
        self.discard()

    def _initialize(self, model: Any, settings: dict[str, Any], optimizer: Any) -> Any:
        engine, *_ = _deepspeed().initialize(model=model, optimizer=optimizer, config=settings)
        engine.eval()
        _bound_waits(self._deadline_seconds)
        return engine

    def _clip_here(self, max_norm: float) -> None:
        """Clip gradients just before AdamW's step: without ZeRO, DeepSpeed does not report the norm it clips by."""

        def clip(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            self._norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), max_norm))

        self._adamw.register_step_pre_hook(clip)

    def _steps(self) -> int:
        return int(next(iter(self._adamw.state.values()))["step"])

    def _make_moments(self) -> None:
        """Create AdamW's moments, all zero, so that a state can be read or loaded before the first step."""
        owners = [value for group in self._adamw.param_groups for value in group["params"]]
        for owner in self._optimizer.fp32_partitioned_groups_flat if self._stage == 3 else owners:
            moments = {key: torch.zeros_like(owner) for key in _MOMENTS}
            self._adamw.state[owner] = {"step": torch.tensor(0.0), **moments}
        if self._stage in (1, 2):
            self._optimizer._lazy_init_hp_params_optimizer_state()

    def _read(self, parameter: Tensor, key: str | None) -> Tensor:
        """The full master weight (``key`` None) or moment of a parameter."""
        if self._stage == 0:
            return parameter if key is None else self._adamw.state[parameter][key]
        tools = _deepspeed().utils
        if key is None:
            return tools.safe_get_full_fp32_param(parameter)
        return tools.safe_get_full_optimizer_state(parameter, key)

    @torch.no_grad()
    def _write(self, parameter: Any, key: str | None, value: Tensor) -> None:
        value = value.to(self._device)
        if self._stage == 0:
            (parameter if key is None else self._adamw.state[parameter][key]).copy_(value)
            return
        tools = _deepspeed().utils
        if self._stage == 3:
            part = self._partition(parameter, value)
            if key is not None:
                tools.safe_set_local_optimizer_state(parameter, part, key)
                return
            tools.safe_set_local_fp32_param(parameter, part)
            with _deepspeed().zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.copy_(value)
        elif key is None:
            tools.safe_set_full_fp32_param(parameter, value)
            parameter.copy_(value)
        else:
            tools.safe_set_full_optimizer_state(parameter, value, key)

    def _partition(self, parameter: Any, value: Tensor) -> Tensor:
        """This rank's ZeRO-3 slice of a full value; the last slice is padded with zeros."""
        size = parameter.ds_tensor.numel()
        flat = torch.nn.functional.pad(value.flatten(), (0, size * self.ranks - value.numel()))
        return flat.narrow(0, size * self.rank, size)


def join_ranks(device: torch.device, rank: int, ranks: int, rendezvous: str | None, deadline_seconds: float) -> None:
    """Join the process group as ``rank`` of ``ranks``; does nothing if this process already has.

    Raises:
        UserError: there are several ranks and no rendezvous.
        RunFailure: the others do not arrive before the deadline, or this process already is another rank.
    """
    # DeepSpeed expects a launcher's variables, even if vLLM has already made this process the only rank.
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(device.index or 0)}
    if dist.is_initialized():
        if (dist.get_rank(), dist.get_world_size()) != (rank, ranks):
            raise RunFailure(
                f"this process is rank {dist.get_rank()} of {dist.get_world_size()} and cannot be rank {rank} of "
                f"{ranks}; use a new process"
            )
        return
    options: dict[str, Any] = {"rank": rank, "world_size": ranks, "timeout": timedelta(seconds=deadline_seconds)}
    if ranks == 1:
        options["store"] = dist.HashStore()
    elif rendezvous is None:
        raise UserError(f"learner.ranks={ranks} needs a rendezvous address such as tcp://127.0.0.1:29500")
    else:
        options["init_method"] = rendezvous
    try:
        # No device_id: with it, torch splits later groups from this one, and the first weight sync can hang.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **options)
    except dist.DistError as error:
        raise RunFailure(
            f"learner rank {rank}: the {ranks} ranks did not meet at {rendezvous} within {deadline_seconds:g} s "
            f"({first_line(error)}). Check that all of them run and can reach that address."
        ) from None


def _deepspeed() -> Any:
    import deepspeed

    return deepspeed


def _choose_accelerator(device: torch.device) -> None:
    """Bind DeepSpeed to the device. Unless told otherwise, it picks one when first imported."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    from deepspeed.accelerator import get_accelerator

    if get_accelerator().device_name() != device.type:
        raise RunFailure(
            f"DeepSpeed was started for {get_accelerator().device_name()} in this process and cannot be used on "
            f"{device.type}; use a new process"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    # Each new group would compile a shared-memory reduction with g++, which only inference uses.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]


def _bound_waits(deadline_seconds: float) -> None:
    """Set the deadline on all groups: DeepSpeed creates them with torch's default of half an hour."""
    groups = dist.distributed_c10d
    for group in groups._world.pg_map:
        groups._set_pg_timeout(timedelta(seconds=deadline_seconds), group)
