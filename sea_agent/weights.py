"""Weights on their way from the learner to the samplers, with a checksum that proves their arrival."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class WeightUpdate:
    """All weights of one policy version, on the CPU, under their Hugging Face names."""

    version: int
    tensors: dict[str, torch.Tensor]
    checksum: str


@dataclass(frozen=True)
class WeightOffer(WeightUpdate):
    """Weights that wait on the learner's GPU: ``tensors`` tell names, shapes and dtypes and have no values."""

    join: dict[str, Any]
    """What a sampler's vLLM must know before its first fetch: ``init_info`` of its weight transfer."""
    fetch: dict[str, Any]
    """What it must know to fetch these weights: ``update_info``."""


def checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """A digest of names, shapes, dtypes and bytes; equal exactly when the weights are bit-identical."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
