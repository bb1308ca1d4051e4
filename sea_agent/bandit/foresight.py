"""How far a posterior's beliefs are acted on: as far as answers that it had not seen have borne them out.

Dimension legend: N duels that were answered.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, where, zeros_like

from sea_agent.saved_state import require

HALF_LIFE = 80
"""Answers after which an answer counts half as much: the policy moves, and what is known of its responses with it."""
LUCK = 2.0
"""Nats of gain that are held to be luck. A coin's gain exceeds x nats at any time with probability exp(-x) at most,
because its exponential is a martingale of mean 1 (Ville 1939)."""
VOUCHED = 1.0
"""Such nats where somebody vouches for a score of responses by giving it to the posterior."""


class Foresight:
    """The record of what was believed of duels before their answers came (prequential: Dawid 1984).

    Args:
        luck: nats of gain that are held to be luck.
    """

    def __init__(self, luck: float = LUCK) -> None:
        self._luck = luck
        self._gained = self._promised = 0.0

    @property
    def trust(self) -> float:
        """How much of what the beliefs claimed to know the answers have borne out, in [0, 1].

        The gain over a coin, ln 2 + log p(answer), summed, less luck, against the gain that the beliefs themselves
        promised, and luck. 0 where answers bear out no more than luck would.
        """
        return min(max(self._gained - self._luck, 0.0) / (self._promised + self._luck), 1.0)

    def add(self, probability_N: Tensor, wins_N: Tensor) -> None:
        """Answers in the order in which they were asked for.

        Args:
            probability_N: believed before the answers, that the first response wins.
            wins_N: whether it won; one half for a tie.
        """
        probability_N = probability_N.double().clamp(1e-9, 1 - 1e-9)
        said_N = wins_N * probability_N.log() + (1 - wins_N) * (1 - probability_N).log()
        kept = 0.5 ** (1 / HALF_LIFE)
        for gain, promise in zip((said_N + math.log(2)).tolist(), information(probability_N).tolist(), strict=True):
            self._gained = kept * self._gained + gain
            self._promised = kept * self._promised + promise

    def state(self) -> dict[str, float]:
        """The record, as plain values."""
        return {"gained": self._gained, "promised": self._promised}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``. Raises: UnfitState if it is none."""
        require(state, {"gained": float, "promised": float}, "foresight")
        self._gained, self._promised = state["gained"], state["promised"]


def information(probability_X: Tensor) -> Tensor:
    """What a probability says of its outcome: ln 2 less its entropy, in nats; 0 for a coin and ln 2 for certainty."""
    rest_X = 1 - probability_X
    return math.log(2) + _x_log_x(probability_X) + _x_log_x(rest_X)


def _x_log_x(probability_X: Tensor) -> Tensor:
    return where(probability_X > 0, probability_X * probability_X.clamp_min(1e-300).log(), zeros_like(probability_X))
