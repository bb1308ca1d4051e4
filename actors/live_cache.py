"""Caches of transformers whose rows join, leave and lose the padding that nobody needs any more.

A row that is shorter than others is padded on the left. Padding is written into caches here and never computed, so
recurrent states, which have no positions, are as those of a row alone.

Dimensions: R rows, H heads, L cached positions, D head size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

_KNOWN = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)


def is_joinable(cache: Any) -> bool:
    """Whether all that the cache holds is known here; a model's own kind of cache may hold more."""
    return type(cache) is DynamicCache and all(type(layer) in _KNOWN for layer in cache.layers)


def join(caches: Sequence[DynamicCache]) -> None:
    """Put the rows of all caches, in order, into the first, padded on the left to the longest."""
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        if _has_keys(layers[0]):
            stored = max(layer.keys.shape[-2] for layer in layers)
            for name in ("keys", "values"):
                tensors = [getattr(layer, name) for layer in layers]
                padded = [pad(tensor, (0, 0, stored - tensor.shape[-2], 0)) for tensor in tensors]
                setattr(layers[0], name, torch.cat(padded))
            if hasattr(layers[0], "cumulative_length"):
                layers[0].cumulative_length = max(layer.cumulative_length for layer in layers)
        for states in zip(*map(_states, layers), strict=True):
            for index, tensor in states[0].items():
                if tensor is not None:
                    states[0][index] = torch.cat([state[index] for state in states])


def select(cache: DynamicCache, rows_R: torch.Tensor, length: int) -> None:
    """Keep these rows, which may be named more than once, and their last ``length`` positions."""
    for layer in cache.layers:
        if _has_keys(layer):
            for name in ("keys", "values"):
                tensor_R_H_L_D = getattr(layer, name)
                start = max(tensor_R_H_L_D.shape[-2] - length, 0)
                setattr(layer, name, tensor_R_H_L_D[rows_R, :, start:])
            if hasattr(layer, "cumulative_length"):
                layer.cumulative_length = min(layer.cumulative_length, length)
        for states in _states(layer):
            states.update({index: tensor[rows_R] for index, tensor in states.items() if tensor is not None})


def _has_keys(layer: Any) -> bool:
    return isinstance(layer, DynamicLayer) and layer.keys is not None and layer.keys.numel() > 0


def _states(layer: Any) -> tuple[dict[int, torch.Tensor | None], ...]:
    return (layer.conv_states, layer.recurrent_states) if isinstance(layer, LinearAttentionLayer) else ()
