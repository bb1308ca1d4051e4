"""Publishing weights from the learner's GPU by vLLM's native weight transfer: they never pass through the CPU.

What travels like any other update is an offer: names, shapes, and where the weights are. The samplers' vLLM fetches
them there, so the offered weights must stay as they are until every sampler has loaded them. With ``nccl`` the
learner takes part in the fetching, in ``send``; with ``ipc`` the sampler reads the shared memory of the GPU alone.

What is learnt of vLLM's interface is in this file and in ``actors.vllm_sampler``.
"""

import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch

from sea_agent.config import SamplerConfig
from sea_agent.errors import UserError
from sea_agent.weights import WeightOffer, WeightUpdate

Tensor = torch.Tensor
Parameters = Callable[[], Iterator[tuple[str, Tensor]]]
"""Starts a pass over all weights, in full, one at a time; with several ranks all of them go through it together."""

# One broadcast for each weight: no staging buffers, and a weight that was gathered for it can be given back at once.
_PACKED = {"packed": False}


class WeightTransfer(Protocol):
    """A way from GPU to GPU. With several ranks every method is called by all of them together."""

    def offer(self, update: WeightUpdate | None) -> WeightOffer | None:
        """What the samplers must know to fetch the weights of ``update``; None on ranks other than 0."""

    def send(self) -> None:
        """Take part until every sampler has the weights last offered."""

    def release(self) -> None:
        """The samplers have loaded what was offered."""


class NcclTransfer:
    """Broadcasts from rank 0 to every sampler, in a group of their own that they join at the first send.

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
        """See ``WeightTransfer.offer``."""
        if update is None:
            return None
        self._source.weights = update.tensors
        if "master_port" not in self._address:
            self._address["master_port"] = _free_port(self._address["master_address"])
        return _offer(update, join=self._address | _PACKED, fetch={})

    def send(self) -> None:
        """See ``WeightTransfer.send``. Without a sampler it waits, for the caller's deadline to end it."""
        if self._engine is None:
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

            # Only rank 0 meets the samplers; the others gather with it and need no address.
            address = {"master_port": 0} | self._address
            self._engine = self._library.WeightTransferTrainerFactory.trainer_init(
                NCCLTrainerInitInfo(rank=self._rank, **address, **_PACKED), client=_Offered(), source=self._source
            )
        self._engine.send_weights()

    def release(self) -> None:
        """See ``WeightTransfer.release``."""


class IpcTransfer:
    """Shares copies in the GPU's memory with the one sampler on the same GPU.

    Copies, because a tensor keeps a trace of every time that it was shared, and a parameter lives for the whole run.
    """

    def __init__(self, parameters: Parameters) -> None:
        _vllm()  # so that its want is told at the start
        self._parameters = parameters
        self._shared: list[Tensor] = []

    def offer(self, update: WeightUpdate | None) -> WeightOffer | None:
        """See ``WeightTransfer.offer``."""
        assert update is not None  # there is one rank
        self.release()
        self._shared = [tensor.clone(memory_format=torch.contiguous_format) for _, tensor in self._parameters()]
        # A sampler does not wait for this process's kernels.
        torch.cuda.synchronize()
        return _offer(update, join=dict(_PACKED), fetch={"ipc_handles": [_handle(tensor) for tensor in self._shared]})

    def send(self) -> None:
        """See ``WeightTransfer.send``; there is nothing to do."""

    def release(self) -> None:
        """See ``WeightTransfer.release``."""
        self._shared = []
        torch.cuda.ipc_collect()


def make_transfer(config: SamplerConfig, rank: int, host: str, parameters: Parameters) -> WeightTransfer | None:
    """The configured way from GPU to GPU; None when weights go through the object store.

    ``host``: address of this machine for the samplers.

    Raises:
        UserError: when vLLM is missing.
    """
    match config.weight_transfer:
        case "nccl":
            return NcclTransfer(parameters, rank=rank, samplers=config.actors, host=host)
        case "ipc":
            return IpcTransfer(parameters)
    return None


class _Offered:
    """vLLM's trainer would call the samplers through this; but they act on the offer, so there is nothing to call."""

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
    """The learner's weights as vLLM's trainer reads them."""

    class LearnerWeights(library.WeightSource):
        weights: Mapping[str, Tensor] = {}

        def metadata(self) -> list[Any]:
            return [library.ParamMeta(name, one.dtype, tuple(one.shape)) for name, one in self.weights.items()]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            return parameters()

    return LearnerWeights()


def _handle(tensor: Tensor) -> dict[str, Any]:
    """What another process needs to open the tensor's memory, under the name of the GPU it lies on."""
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


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])
