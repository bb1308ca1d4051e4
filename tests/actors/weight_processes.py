"""Processes without a GPU between which vLLM's native weight transfer runs: its code and ours, on stand-ins for CUDA.

``learner_*`` and ``sampler_*`` run in a process each. For NCCL's broadcast stands a TCP store, for memory that two
processes share on a GPU stands a file that both map. What they cannot show is what CUDA and NCCL do.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from actors.samplers import make_sampler
from actors.sampling import SampleRequest
from learner import weight_transfer
from learner.weight_transfer import IpcTransfer, NcclTransfer
from sea_agent.config import PolicyConfig, SamplerConfig
from sea_agent.pretrained import load_policy
from sea_agent.types import Response
from sea_agent.weights import WeightOffer, WeightUpdate, checksum

_here: dict[str, Any] = {}


class StoreCommunicator:
    """NCCL's broadcast, by way of a TCP store."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any) -> None:
        if self._group.rank == src:
            self._group.broadcast_obj(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes(), src)
        else:
            data = bytearray(self._group.broadcast_obj(None, src))
            tensor.copy_(torch.frombuffer(data, dtype=tensor.dtype).view(tensor.shape))

    def destroy(self) -> None:
        """Nothing is held."""


def _meet(address: Any, rank: int) -> StoreCommunicator:
    from vllm.distributed.utils import StatelessProcessGroup

    return StoreCommunicator(
        StatelessProcessGroup.create(
            address.master_address, address.master_port, rank, address.world_size, store_timeout=60
        )
    )


def _mapped(path: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return torch.from_file(path, shared=True, size=count, dtype=dtype).view(shape)


def _stand_in_for_cuda() -> None:
    from vllm.distributed.weight_transfer import ipc_engine, nccl_engine

    torch.cuda.current_stream = lambda *_: None  # type: ignore[assignment,return-value]
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]
    torch.cuda.ipc_collect = lambda: None
    torch.cuda.get_device_properties = lambda *_: SimpleNamespace(uuid="GPU-0")  # type: ignore[assignment,return-value]
    torch.accelerator.synchronize = lambda *_: None  # type: ignore[assignment]
    nccl_engine.worker_init_process_group = lambda info, _: _meet(info, info.rank_offset)
    nccl_engine.open_trainer_endpoint = lambda info: _meet(info, 0)
    # Of the seven arguments vLLM itself puts the last one, the receiver's device.
    ipc_engine.rebuild_cuda_tensor = lambda path, shape, dtype, *_: _mapped(path, shape, dtype)


def _shared_file(tensor: torch.Tensor) -> dict[str, Any]:
    path = str(Path(_here["folder"]) / f"{len(list(Path(_here['folder']).iterdir()))}")
    Path(path).touch()
    with open(path, "wb") as file:
        file.truncate(tensor.numel() * tensor.element_size())
    _mapped(path, tensor.shape, tensor.dtype).copy_(tensor)
    return {"GPU-0": (path, tuple(tensor.shape), tensor.dtype, None, None, None, 0)}


def learner_start(policy: PolicyConfig, way: str) -> None:
    """A learner with noise on every weight of the policy."""
    _stand_in_for_cuda()
    _here["folder"] = tempfile.mkdtemp()
    weight_transfer._handle = _shared_file
    model = load_policy(policy.path, policy.dtype, "cpu")
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))

    def parameters() -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in model.named_parameters():
            yield name, parameter.detach()

    transfer = (
        NcclTransfer(parameters, rank=0, samplers=1, host="127.0.0.1") if way == "nccl" else IpcTransfer(parameters)
    )
    _here.update(model=model, parameters=parameters, transfer=transfer)


def learner_offer(version: int) -> WeightOffer:
    """Weights of this version, which differ from those of every other."""
    with torch.no_grad():
        for parameter in _here["model"].parameters():
            parameter.mul_(1 + 0.01 * version)
    tensors = dict(_here["parameters"]())
    offer = _here["transfer"].offer(WeightUpdate(version, tensors, checksum(tensors)))
    assert isinstance(offer, WeightOffer)
    return offer


def learner_send(broken: str | None = None) -> None:
    """Take part in the transfer; ``broken``: the name of a weight of which one bit is sent wrongly."""
    if broken is None:
        _here["transfer"].send()
        return
    weight = _here["model"].get_parameter(broken)
    with torch.no_grad():
        kept = weight.flatten()[0].clone()
        weight.view(-1)[0] = torch.nextafter(kept, torch.tensor(torch.inf))
        _here["transfer"].send()
        weight.view(-1)[0] = kept


def learner_other_rank() -> tuple[WeightOffer | None, list[str]]:
    """What rank 1 of a learner offers, and which weights it gathers in two sends, without anybody to meet."""
    gathered: list[str] = []

    def parameters() -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in _here["parameters"]():
            gathered.append(name)
            yield name, value

    transfer = NcclTransfer(parameters, rank=1, samplers=1, host="127.0.0.1")
    offer = transfer.offer(None)
    transfer.send()
    transfer.send()
    return offer, gathered


def learner_logprobs(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
    """Log-probability of each response token under the learner's own weights."""
    from tiny_policies import forward_logprobs

    return [forward_logprobs(_here["model"], *row) for row in rows]


def sampler_start(policy: PolicyConfig, way: str) -> None:
    """A sampler of the policy, unless the one that is there is one."""
    _stand_in_for_cuda()
    if _here.get("started") == (policy, way):
        return
    config = SamplerConfig.model_validate({"backend": "vllm", "kv_cache_gb": 0.125, "weight_transfer": way})
    _here["sampler"] = make_sampler(policy, config, device="cpu", threads=1, index=0)
    _here["started"] = policy, way


def sampler_load(offer: WeightOffer) -> str:
    return str(_here["sampler"].load_weights(offer))


def sampler_sample(requests: Sequence[SampleRequest]) -> list[Response]:
    found: list[Response] = _here["sampler"].sample(requests)
    return found


def sampler_calls(offer: WeightOffer) -> list[tuple[str, Any]]:
    """The order in which the engine is called for the offer, from an engine that only listens."""
    sampler, calls = _here["sampler"], []

    class Listener:
        def __getattr__(self, name: str) -> Any:
            if name in ("apply_model", "reset_prefix_cache"):
                return getattr(_here["engine"], name)
            return lambda *arguments: calls.append((name, arguments))

    _here["engine"] = sampler._engine
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, sampler, "_engine", sampler._engine)
        sampler._engine = Listener()
        sampler.load_weights(offer)
    return calls
