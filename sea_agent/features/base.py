"""Base classes of feature maps: batching, caching and standardisation.

A map computes features in batches sorted by length, caches them for one round, and standardises them by the mean and
standard deviation of the first rows it computes. Sequences are padded on the right to a multiple of ``_BUCKET`` tokens,
and a batch holds a single padded length, so the features of a row depend on the rest of its batch only by rounding.
Because of that rounding the cache does not outlast a round: a resumed run starts without it, and would compute other
batches than an uninterrupted run.

Dimension legend: N rows, B rows of a batch, T tokens, D features, H hidden units of the model.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from sea_agent.saved_state import like, require
from sea_agent.types import Prompt, Response

_BUCKET = 16
_CACHE_BYTES = 256 * 2**20
# Floor of a deviation, as a share of the mean deviation: features that hardly varied in the first rows must not explode
# later.
_DEVIATION_FLOOR = 0.01

Pair = tuple[Prompt, Response]
Row = dict[str, list[int]]


class Standardised(ABC):
    """A frozen map from (prompt, response) to standardised features.

    ``blocks`` are the sizes of consecutive blocks of features. The features of a ``shared`` block are divided by one
    common deviation, because separate ones would amplify rare features.
    """

    def __init__(self, blocks: Sequence[int], shared: Sequence[bool] | None = None) -> None:
        self.blocks = tuple(blocks)
        self.dimension = sum(blocks)
        self._shared = shared or [False] * len(self.blocks)
        self._mean_D: Tensor | None = None
        self._deviation_D: Tensor | None = None

    def features(self, pairs: Sequence[Pair]) -> Tensor:
        """Standardised features_N_D of the pairs, float32 on the CPU.

        The first call fixes the mean and deviation, so it needs at least two rows.

        Raises:
            ValueError: if the first call has a single row, or a response has no tokens.
        """
        if not pairs:
            return torch.empty(0, self.dimension)
        raw_N_D = self._raw(pairs)
        if self._mean_D is None or self._deviation_D is None:
            if len(raw_N_D) < 2:
                raise ValueError("the first features call sets the scale of every feature and needs two rows or more")
            self._mean_D = raw_N_D.mean(0)
            self._deviation_D = self._spread(raw_N_D, pairs)
        return (raw_N_D - self._mean_D) / self._deviation_D

    def _spread(self, raw_N_D: Tensor, pairs: Sequence[Pair]) -> Tensor:
        """The divisor of each feature, from the first rows."""
        variances = raw_N_D.var(0, correction=0).split(self.blocks)
        return torch.cat(list(map(_deviation, variances, self._shared)))

    def forget(self) -> None:  # noqa: B027 (a map without a cache has nothing to do)
        """Empty the cache."""

    def state(self) -> dict[str, Tensor]:
        """The fixed mean and deviation; empty before the first call."""
        if self._mean_D is None or self._deviation_D is None:
            return {}
        return {"mean": self._mean_D.clone(), "deviation": self._deviation_D.clone()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore a saved scale.

        Raises:
            UnfitState: if it was saved for another number of features.
        """
        if state:
            require(state, {"mean": like(self.dimension), "deviation": like(self.dimension)}, "features")
        self._mean_D = state["mean"].clone() if state else None
        self._deviation_D = state["deviation"].clone() if state else None

    @abstractmethod
    def _raw(self, pairs: Sequence[Pair]) -> Tensor:
        """features_N_D before standardisation, float32 on the CPU."""


class FeatureMap(Standardised):
    """Features from a model: computed in batches of equal padded length, and cached."""

    def __init__(self, blocks: Sequence[int], batch: int, shared: Sequence[bool] | None = None) -> None:
        super().__init__(blocks, shared)
        self._batch = batch
        self._capacity = max(1, _CACHE_BYTES // (4 * self.dimension))
        self._cache: OrderedDict[Hashable, Tensor] = OrderedDict()

    def forget(self) -> None:
        """Empty the cache."""
        self._cache.clear()

    def _raw(self, pairs: Sequence[Pair]) -> Tensor:
        keys = [self._key(*pair) for pair in pairs]
        found: dict[Hashable, Tensor] = {}
        missing: dict[Hashable, Pair] = {}
        for key, pair in zip(keys, pairs, strict=True):
            if key in self._cache:
                self._cache.move_to_end(key)
                found[key] = self._cache[key]
            else:
                missing[key] = pair
        rows = {key: self._tokens(*pair) for key, pair in missing.items()}
        for batch, length in self._batches(rows):
            with torch.inference_mode():
                features_B_D = self._encode([rows[key] for key in batch], length).float().cpu()
            # Clone the rows: a view in the cache would keep its whole batch alive.
            found.update((key, row_D.clone()) for key, row_D in zip(batch, features_B_D, strict=True))
        self._cache.update((key, found[key]) for key in missing)
        while len(self._cache) > self._capacity:
            self._cache.popitem(last=False)
        return torch.stack([found[key] for key in keys])

    def _batches(self, rows: dict[Hashable, Row]) -> Iterator[tuple[list[Hashable], int]]:
        """(keys, padded length) of each batch, shortest first."""

        def padded(key: Hashable) -> int:
            return -(-len(rows[key]["input_ids"]) // _BUCKET) * _BUCKET

        for length, group in groupby(sorted(rows, key=padded), key=padded):
            keys = list(group)
            for start in range(0, len(keys), self._batch):
                yield keys[start : start + self._batch], length

    @abstractmethod
    def _key(self, prompt: Prompt, response: Response) -> Hashable:
        """Cache key: everything that the features depend on."""

    @abstractmethod
    def _tokens(self, prompt: Prompt, response: Response) -> Row:
        """Model input of one pair: ``input_ids`` and other sequences of the same length."""

    @abstractmethod
    def _encode(self, rows: list[Row], length: int) -> Tensor:
        """features_B_D of rows padded to ``length`` tokens."""


def _deviation(variance_D: Tensor, shared: bool) -> Tensor:
    """The divisor of each feature of a block."""
    deviation_D = variance_D.mean().expand_as(variance_D).sqrt() if shared else variance_D.sqrt()
    floor = _DEVIATION_FLOOR * float(deviation_D.mean())
    return deviation_D.clamp_min(floor) if floor > 0 else torch.ones_like(deviation_D)


def masked_mean(states_B_T_H: Tensor, mask_B_T: Tensor) -> Tensor:
    weights_B_T_1 = mask_B_T[..., None].to(states_B_T_H.dtype)
    return (states_B_T_H * weights_B_T_1).sum(1) / weights_B_T_1.sum(1)


def padded(rows: list[list[int]], length: int, device: str) -> Tensor:
    """Rows padded with zeros on the right, where every model input is masked."""
    return torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
