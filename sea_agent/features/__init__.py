"""Features of (prompt, response) pairs: what the reward posterior sees."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sea_agent.config import RunConfig
from sea_agent.config_oracle import WorldOracleConfig
from sea_agent.features.base import Pair, Standardised
from sea_agent.features.control import RewardFeatures
from sea_agent.features.hidden import EncoderFeatures, PolicyFeatures
from sea_agent.features.text import TextFeatures
from sea_agent.forms import require
from sea_agent.models import use_threads


class Features:
    """The features of one or more maps, side by side."""

    def __init__(self, maps: Sequence[Standardised]) -> None:
        self._maps = tuple(maps)
        self.blocks = tuple(size for part in maps for size in part.blocks)
        self.dimension = sum(self.blocks)

    def features(self, pairs: Sequence[Pair]) -> Tensor:
        """Standardised features_N_D of the pairs; see ``Standardised.features``."""
        return torch.cat([part.features(pairs) for part in self._maps], dim=1)

    def state(self) -> list[dict[str, Tensor]]:
        """The frozen scales of each map."""
        return [part.state() for part in self._maps]

    def load_state(self, state: list[dict[str, Tensor]]) -> None:
        """Continue with saved scales.

        Raises:
            UnfitState: when they were saved for other features.
        """
        require(state, [dict] * len(self._maps), "features")
        for part, saved in zip(self._maps, state, strict=True):
            part.load_state(saved)


def make_features(config: RunConfig) -> Features:
    """The features that a configuration names.

    Raises:
        UserError: when a model they read cannot be loaded.
    """
    use_threads(config.threads)
    section = config.posterior
    maps: list[Standardised] = []
    if section.features == "policy":
        maps.append(PolicyFeatures(config.policy, section.feature_batch, config.device))
    if section.features == "text":
        maps.append(TextFeatures(config.policy, section.feature_batch, config.device))
    if section.features in ("text", "encoder") and section.encoder_path is not None:
        maps.append(EncoderFeatures(section.encoder_path, section.feature_batch, config.device))
    if section.features == "reward":
        assert isinstance(config.oracle, WorldOracleConfig)  # the configuration was checked
        maps.append(RewardFeatures(config.oracle.world))
    return Features(maps)
