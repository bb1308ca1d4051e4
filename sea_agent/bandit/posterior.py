"""The Bayesian reward posterior: what is believed about rewards, given the labelled duels.

Dimension legend: S posterior draws, P prompts, M candidates of a prompt, N labelled duels, D features.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from sea_agent.bandit.ensemble import Ensemble
from sea_agent.bandit.laplace import Laplace
from sea_agent.bandit.people import People, Who
from sea_agent.config import PosteriorConfig


class Posterior(Protocol):
    """A distribution over reward functions that is fitted to labelled duels."""

    @property
    def version(self) -> int:
        """Number of updates so far."""

    @property
    def labels(self) -> int:
        """Number of labelled duels in the replay."""

    def draw(self, features_P_M_D: Tensor, generator: np.random.Generator | None = None, who: Who = None) -> Tensor:
        """Posterior draws of the rewards, rewards_S_P_M (float32).

        Along S the draws are exchangeable and their order is drawn anew for each prompt, so that index 0 is a
        fresh Thompson draw for every prompt. One draw is one reward function for all candidates of its prompt.
        Without a generator the draws are keyed by the version: the same until the next update. ``who`` names the
        person in whose eyes each prompt's candidates are seen.
        """

    def mean(self, features_P_M_D: Tensor, who: Who = None) -> Tensor:
        """The best guess of the rewards, rewards_P_M (float32): the mean over the posterior, without any chance."""

    def chance(self, first_N_D: Tensor, second_N_D: Tensor, who: Who = None) -> Tensor:
        """chance_N (float32): the probability that the first response wins, over the whole posterior, without any
        draw."""

    def add(
        self,
        first_N_D: Tensor,
        second_N_D: Tensor,
        first_wins_N: Tensor,
        ids: Sequence[str] | None = None,
        weights_N: Tensor | None = None,
        who: Sequence[str] | None = None,
    ) -> None:
        """Append labelled duels to the replay; labels are floats in [0, 1]. ``who`` names those who answered.

        A label of weight w counts like w labels of weight 1, which is what it has where no weights are given. ``ids``
        tell a label that is added twice; without them the labels are numbered.

        Raises:
            ValueError: when shapes disagree, a label leaves [0, 1], an id was added before, or a posterior that tells
                people apart is not told who answered.
        """

    def update(self, generator: np.random.Generator | None = None, rounds: int = 1) -> dict[str, float]:
        """Fit to the replay and count a version; metrics of the fit (none without labels).

        ``generator`` decides what the fit leaves to chance; without one that is keyed by the version. ``rounds`` says
        how many rounds would have brought the new labels, for a fit that goes on from the last one.

        Raises:
            RunFailure: when the fit diverges.
        """

    def state(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit, as tensors and plain values."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            UnfitState: when it was saved under other posterior settings, or is no such state.
        """


def make_posterior(
    config: PosteriorConfig,
    blocks: Sequence[int],
    seed: int,
    *,
    deviations: Sequence[float] | None = None,
    means: Sequence[float] | None = None,
) -> Posterior:
    """A posterior over rewards of standardised features, before any label; ``blocks`` are the sizes of their blocks.

    ``seed`` keys the prior draws of the heads and their bootstrap weights. ``deviations`` and ``means`` of the blocks
    are as in ``Laplace``; an ensemble has no use for them.
    """
    if config.family == "ensemble":
        return Ensemble(sum(blocks), config.ensemble, members=config.members, seed=seed)
    return Laplace(
        sum(blocks),
        config.laplace,
        members=config.members,
        blocks=blocks,
        deviations=deviations,
        means=means,
        people=People(config.axes, seed) if config.people == "shared" else None,
        seed=seed,
    )
