"""Features of (prompt, response) pairs: what the reward posterior sees."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sea_agent.config import PolicyConfig, PosteriorConfig
from sea_agent.features.base import FeatureMap, Pair
from sea_agent.features.hidden import EncoderFeatures, PolicyFeatures
from sea_agent.features.text import TextFeatures
from sea_agent.models import use_threads


class Features:
    """The features of one or more maps, side by side."""

    def __init__(self, maps: Sequence[FeatureMap]) -> None:
        self._maps = tuple(maps)
        self.blocks = tuple(size for part in maps for size in part.blocks)
        self.dimension = sum(self.blocks)

    def features(self, pairs: Sequence[Pair]) -> Tensor:
        """Standardised features_N_D of the pairs; see ``FeatureMap.features``."""
        return torch.cat([part.features(pairs) for part in self._maps], dim=1)

    def state(self) -> list[dict[str, Tensor]]:
        """The frozen scales of each map."""
        return [part.state() for part in self._maps]

    def load_state(self, state: list[dict[str, Tensor]]) -> None:
        """Continue with saved scales.

        Raises:
            UserError: when they were saved for other features.
        """
        for part, saved in zip(self._maps, state, strict=True):
            part.load_state(saved)


def make_features(policy: PolicyConfig, config: PosteriorConfig, device: str, threads: int) -> Features:
    """The features that a configuration names, on ``device``, with at most ``threads`` CPU threads.

    Raises:
        UserError: when a model they read cannot be loaded.
    """
    use_threads(threads)
    batch = config.feature_batch
    maps: list[FeatureMap] = []
    if config.features == "policy":
        maps.append(PolicyFeatures(policy, batch, device))
    if config.features == "text":
        maps.append(TextFeatures(policy, batch, device))
    if config.features != "policy" and config.encoder_path is not None:
        maps.append(EncoderFeatures(config.encoder_path, batch, device))
    return Features(maps)
