"""Publishes weights from the learner's GPU through vLLM's native weight transfer, bypassing the CPU.

Only an offer travels like an ordinary update: names, shapes, and how to fetch the weights. The samplers' vLLM fetches
them, so the offered weights must not change until every sampler has loaded them. With ``nccl`` the learner takes part
in the transfer, in ``send``; with ``ipc`` the sampler reads the GPU memory on its own.

Only this file and ``actors.vllm_sampler`` depend on vLLM's interface.
"""

import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from sea_agent.config import SamplerConfig
from sea_agent.errors import UserError
from sea_agent.weights import WeightOffer, WeightUpdate

Tensor = torch.Tensor
Parameters = Callable[[], Iterator[tuple[str, Tensor]]]
"""Iterates over all weights, one full weight at a time; with several ranks all of them iterate together."""

# One broadcast per weight: no staging buffers, and a gathered weight can be released immediately.
_PACKED = {"packed": False}


class WeightTransfer:
    """A GPU-to-GPU transport. With several ranks all of them call every method together."""

    def offer(self, update: WeightUpdate | None) -> WeightOffer | None:
        """The offer that tells samplers how to fetch the weights of ``update``; None on ranks other than 0."""
        raise NotImplementedError

    def send(self) -> None:
        """Take part until every sampler has the weights last offered, if the transport needs that."""

    def release(self) -> None:
        """Release the last offer, which all samplers have loaded."""


class NcclTransfer(WeightTransfer):
    """Broadcasts from rank 0 to every sampler, in a process group that forms at the first send.

    Args:
        parameters: the weights, in the order of the offers.
        rank: this learner rank.
        samplers: number of samplers.
        host: address of rank 0's machine, where they meet.
    """

    def __init__(self, parameters: Parameters, *, rank: int, samplers: int, host: str) -> None:
        self._library = _vllm()
        self._rank = rank
        self._address: dict[str, Any] = {"master_address": host, "world_size": 1 + samplers}
        self._source = _source(self._library, parameters)
        self._engine: Any = None

    def offer(self, update: WeightUpdate | None) -> WeightOffer | None:
        if update is None:
            return None
        self._source.weights = update.tensors
        if "master_port" not in self._address:
            self._address["master_port"] = free_port(self._address["master_address"])
        return _offer(update, join=self._address | _PACKED, fetch={})

    def send(self) -> None:
        """See ``WeightTransfer.send``. If a sampler is missing, it blocks until the caller's deadline."""
        if self._engine is None:
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

            # Only rank 0 connects to the samplers; the others take part in gathering and need no address.
            address = {"master_port": 0} | self._address
            self._engine = self._library.WeightTransferTrainerFactory.trainer_init(
                NCCLTrainerInitInfo(rank=self._rank, **address, **_PACKED), client=_Offered(), source=self._source
            )
        self._engine.send_weights()


class IpcTransfer(WeightTransfer):
    """Shares copies in GPU memory with the one sampler on the same GPU.

    Copies, because a tensor keeps state from every time it is shared, and parameters live for the whole run.
    """

    def __init__(self, parameters: Parameters) -> None:
        _vllm()  # fail early if it is missing
        self._parameters = parameters
        self._shared: list[Tensor] = []

    def offer(self, update: WeightUpdate | None) -> WeightOffer | None:
        assert update is not None  # there is one rank
        self.release()
        self._shared = [tensor.clone(memory_format=torch.contiguous_format) for _, tensor in self._parameters()]
        # The sampler's process does not wait for this one's kernels.
        torch.cuda.synchronize()
        return _offer(update, join=dict(_PACKED), fetch={"ipc_handles": [_handle(tensor) for tensor in self._shared]})

    def release(self) -> None:
        self._shared = []
        torch.cuda.ipc_collect()


def make_transfer(config: SamplerConfig, rank: int, host: str, parameters: Parameters) -> WeightTransfer | None:
    """The configured GPU-to-GPU transport; None if weights go through the object store.

    ``host``: this machine's address, as the samplers see it.

    Raises:
        UserError: vLLM is missing.
    """
    if config.weight_transfer == "nccl":
        return NcclTransfer(parameters, rank=rank, samplers=config.actors, host=host)
    return IpcTransfer(parameters) if config.weight_transfer == "ipc" else None


class _Offered:
    """The client through which vLLM's trainer calls samplers; does nothing, as ours act on the offer."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: Any) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


def _offer(update: WeightUpdate, *, join: dict[str, Any], fetch: dict[str, Any]) -> WeightOffer:
    described = {name: torch.empty_like(tensor, device="meta") for name, tensor in update.tensors.items()}
    metadata = {
        "names": list(described),
        "dtype_names": [str(tensor.dtype).removeprefix("torch.") for tensor in described.values()],
        "shapes": [list(tensor.shape) for tensor in described.values()],
    }
    return WeightOffer(update.version, described, update.checksum, join, metadata | fetch)


def _source(library: Any, parameters: Parameters) -> Any:
    """The learner's weights as a source for vLLM's trainer."""

    class LearnerWeights(library.WeightSource):
        weights: Mapping[str, Tensor] = {}

        def metadata(self) -> list[Any]:
            return [library.ParamMeta(name, one.dtype, tuple(one.shape)) for name, one in self.weights.items()]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            return parameters()

    return LearnerWeights()


def _handle(tensor: Tensor) -> dict[str, Any]:
    """The arguments with which another process opens the tensor's memory, keyed by the UUID of its GPU."""
    from torch.multiprocessing.reductions import reduce_tensor

    _, arguments = reduce_tensor(tensor)
    return {str(torch.cuda.get_device_properties(tensor.device).uuid): arguments}


def _vllm() -> Any:
    try:
        from vllm.distributed import weight_transfer
    except ModuleNotFoundError as error:
        raise UserError(
            f"sampler.weight_transfer: vLLM is not installed beside the learner ({error}). Install it there too, with "
            "pip install 'sea-agent[agent,vllm]', or set sampler.weight_transfer=object_store."
        ) from None
    return weight_transfer


def free_port(host: str) -> int:
    """A TCP port that is free on ``host`` now."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as free:
        free.bind(address)
        return int(free.getsockname()[1])
