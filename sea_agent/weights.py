"""Weights on their way from the learner to the samplers, with a checksum that proves their arrival."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class WeightUpdate:
    """All weights of one policy version, on the CPU, under their Hugging Face names."""

    version: int
    tensors: dict[str, torch.Tensor]
    checksum: str


def checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """A digest of names, shapes, dtypes and bytes; equal exactly when the weights are bit-identical."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
