"""Weights that travel from the learner to the samplers, with a checksum that proves their arrival."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import xxhash


@dataclass(frozen=True)
class WeightUpdate:
    """All weights of one policy version, on the CPU, under their Hugging Face names."""

    version: int
    tensors: dict[str, torch.Tensor]
    checksum: str


@dataclass(frozen=True)
class WeightOffer(WeightUpdate):
    """Weights on the learner's GPU that samplers may fetch; ``tensors`` has names, shapes and dtypes but no values."""

    join: dict[str, Any]
    """``init_info`` of vLLM's weight transfer, used once before a sampler's first fetch."""
    fetch: dict[str, Any]
    """``update_info`` of vLLM's weight transfer, used to fetch these weights."""


def saved_buffers(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that a saved model has beside its parameters; other buffers are made anew with every model."""
    saved = model.state_dict(keep_vars=True)
    return ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


def checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """A digest of names, shapes, dtypes and bytes: weights that differ in a bit have another.

    It tells accidents, not attacks, at the speed of memory: every version is read twice, where it leaves and where it
    arrives.
    """
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
