"""Features of (prompt, response) pairs, the input of the reward posterior."""

import math
from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from sea_agent.config import Compute, PolicyConfig, PosteriorConfig
from sea_agent.features.base import Pair, Standardised
from sea_agent.features.control import RewardFeatures
from sea_agent.features.hidden import EncoderFeatures, PolicyFeatures
from sea_agent.features.own import OwnFeatures
from sea_agent.features.prior import PriorScore
from sea_agent.features.text import TextFeatures
from sea_agent.plugins import is_own
from sea_agent.pretrained import use_threads
from sea_agent.saved_state import require


class Features:
    """The concatenated features of one or more feature maps."""

    def __init__(self, maps: Sequence[Standardised]) -> None:
        self._maps = tuple(maps)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Sizes of the blocks, known after the first call; D is their sum."""
        return tuple(size for part in self._maps for size in part.blocks)

    @property
    def deviations(self) -> list[float]:
        """What each block is expected to add to a reward, as a standard deviation in logits.

        The maps share a variance of 1 equally, and so do the blocks of a map, so that a map of many blocks does not
        drown one of a single block. A prior score adds 1 of its own.
        """
        shares = sum(not isinstance(part, PriorScore) for part in self._maps)
        return [
            1.0 if isinstance(part, PriorScore) else 1.0 / math.sqrt(shares * len(part.blocks))
            for part in self._maps
            for _ in part.blocks
        ]

    @property
    def means(self) -> list[float]:
        """The expected weight of each block, in units of its deviation: 1 for a prior score, 0 for all others."""
        return [float(isinstance(part, PriorScore)) for part in self._maps for _ in part.blocks]

    def features(self, pairs: Sequence[Pair]) -> Tensor:
        """Standardised features_N_D of the pairs; see ``Standardised.features``."""
        return torch.cat([part.features(pairs) for part in self._maps], dim=1)

    def twin(self) -> "Features":
        """The same maps, with a scale of their own and no models of their own."""
        return Features([copy(part) for part in self._maps])

    def forget(self) -> None:
        """Empty the caches, as they are in a resumed run."""
        for part in self._maps:
            part.forget()

    def state(self) -> list[dict[str, Tensor]]:
        """The frozen scales of each feature map."""
        return [part.state() for part in self._maps]

    def load_state(self, state: list[dict[str, Tensor]]) -> None:
        """Restore saved scales.

        Raises:
            UnfitState: if they were saved for other features.
        """
        require(state, [dict] * len(self._maps), "features")
        for part, saved in zip(self._maps, state, strict=True):
            part.load_state(saved)


def make_features(config: PosteriorConfig, policy: PolicyConfig, world: str | None, compute: Compute) -> Features:
    """The features selected by a configuration.

    Args:
        policy: the model whose frozen hidden states ``policy`` and ``text`` features use.
        world: the built-in world whose hidden reward ``features: reward`` uses.

    Raises:
        UserError: if one of their models, a user's own map or a prior score cannot be loaded.
    """
    use_threads(compute.threads)
    maps: list[Standardised] = []
    if is_own(config.features):
        maps.append(OwnFeatures(config.features))
    if config.features == "policy":
        maps.append(PolicyFeatures(policy, config.feature_batch, compute.device))
    if config.features == "text":
        maps.append(TextFeatures(policy, config.feature_batch, compute.device))
    if config.features in ("text", "encoder") and config.encoder_path is not None:
        maps.append(EncoderFeatures(config.encoder_path, config.feature_batch, compute.device))
    if config.features == "reward":
        assert world is not None  # the configuration was checked
        maps.append(RewardFeatures(world))
    maps += [PriorScore(source, config.feature_batch, compute.device) for source in config.prior]
    return Features(maps)
