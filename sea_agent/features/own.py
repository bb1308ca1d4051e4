"""Features of a user's own: ``posterior.features: path/to/file.py:name``."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sea_agent.features.base import Pair, Standardised
from sea_agent.plugins import Plugin

_TRIAL = [("a prompt", "a response"), ("a prompt", "another response, which is longer"), ("a prompt", "")]


class OwnFeatures(Standardised):
    """What a user's function, or an object of a user's class, makes of a list of (prompt, response) texts.

    D is what it returns for made-up texts.

    Raises:
        UserError: when the user's file, its function or what that returns is not as it has to be.
    """

    def __init__(self, target: str) -> None:
        self._map = Plugin(
            "posterior.features",
            target,
            "a feature map takes a list of (prompt, response) texts and returns a tensor or array of finite numbers, "
            "features_N_D, with a row for each of them and always the same number of columns",
        )
        super().__init__((self._rows(_TRIAL).shape[1],))

    def _raw(self, pairs: Sequence[Pair]) -> Tensor:
        features_N_D = self._rows([(prompt.text, response.text) for prompt, response in pairs])
        if features_N_D.shape[1] != self.dimension:
            raise self._map.refusal(f"returned {features_N_D.shape[1]} columns after {self.dimension}")
        return features_N_D

    def _rows(self, texts: list[tuple[str, str]]) -> Tensor:
        found = self._map(texts)
        if not isinstance(found, Tensor | np.ndarray):
            raise self._map.refusal(f"returned {type(found).__name__}")
        if found.dtype == torch.complex64 or (isinstance(found, np.ndarray) and found.dtype.kind not in "fiub"):
            raise self._map.refusal(f"returned numbers of the type {found.dtype}")
        features_N_D = torch.as_tensor(found).detach().to("cpu", torch.float32)
        if features_N_D.ndim != 2 or len(features_N_D) != len(texts) or not features_N_D.shape[1]:
            raise self._map.refusal(f"returned shape {tuple(features_N_D.shape)} for {len(texts)} pairs of texts")
        if not features_N_D.isfinite().all():
            raise self._map.refusal("returned values that are not finite")
        return features_N_D
