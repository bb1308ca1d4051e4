"""Features of a user's own: ``posterior.features: path/to/file.py:name``."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sea_agent.features.base import Pair, Standardised
from sea_agent.plugins import Plugin
from sea_agent.saved_state import require

_TRIAL = ("a response", "another response, which is longer", "")


class OwnFeatures(Standardised):
    """What a user's function, or an object of a user's class, makes of a list of (prompt, response) texts.

    D is known once it has been called, or has the state of one that was.

    Raises:
        UserError: when the user's file, its function or, at any call, what that returns is not as it has to be.
    """

    def __init__(self, target: str) -> None:
        self._map = Plugin(
            "posterior.features",
            target,
            "a feature map takes a list of (prompt, response) texts and returns a tensor or array of finite numbers, "
            "features_N_D, with a row for each of them and always the same number of columns",
        )
        super().__init__((0,))

    def try_on(self, prompts: Sequence[str]) -> None:
        """Call it once, for made-up responses to these prompts."""
        self._rows([(prompt, response) for prompt in prompts for response in _TRIAL])

    def load_state(self, state: dict[str, Tensor]) -> None:
        if state:
            require(state, {"mean": Tensor, "deviation": Tensor}, "features")
            self._fix(state["mean"].numel())
        super().load_state(state)

    def _raw(self, pairs: Sequence[Pair]) -> Tensor:
        return self._rows([(prompt.text, response.text) for prompt, response in pairs])

    def _fix(self, dimension: int) -> None:
        self.blocks, self.dimension = (dimension,), dimension

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
        if not self.dimension:
            self._fix(features_N_D.shape[1])
        if features_N_D.shape[1] != self.dimension:
            raise self._map.refusal(f"returned {features_N_D.shape[1]} columns after {self.dimension}")
        return features_N_D
