"""The hidden reward of a built-in world as the only feature: a control that bounds the gain from better features."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sea_agent.features.base import Pair, Standardised
from sea_agent.worlds import scorer


class RewardFeatures(Standardised):
    """``posterior.features: reward``. D = 1: the reward in logits, which is unknown outside built-in worlds."""

    def __init__(self, world: str) -> None:
        super().__init__((1,))
        self._score = scorer(world, "reward")

    def _raw(self, pairs: Sequence[Pair]) -> Tensor:
        return torch.tensor([[self._score(prompt.text, response.text)] for prompt, response in pairs])
