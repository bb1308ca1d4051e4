"""Evidence by betting: how much somebody wins who bets, at fair odds, against a hypothesis.

The returns of a bet are in [−½, ½], and under the hypothesis none is above 0 in expectation, whatever came before. Who
stakes the share λ in [0, 2) of their money on each then has a supermartingale, and so has who spreads it over several λ
at first. It ever exceeds 1/α times the stake with probability α at most, whenever one looks (Ville 1939; Waudby-Smith
and Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686, sections 3 and 4: a capital
process with a mixture of bets). Money that is given away meanwhile changes nothing about that.

Dimension legend: N returns, B bets.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor

from sea_agent.saved_state import like, require

Array = NDArray[np.float64]

_BETS_B = np.linspace(0.05, 1.95, 20)
"""λ of each bet; weak ones find small differences, strong ones large differences early."""
ERROR = 0.05
"""Chance with which answers that have nothing to do with the responses are ever taken to bear beliefs out."""
_MOST = 2 * math.log(1 / ERROR)
"""Nats of money beyond which it is given away, so that it is lost again where answers stop to bear the beliefs out."""


def won(returns_N: Sequence[float] | Array) -> Array:
    """What a stake of 1 has come to after each return, in nats."""
    money_N_B = np.log1p(np.asarray(returns_N, dtype=float)[:, None] * _BETS_B).cumsum(axis=0)
    return _total(money_N_B)


class Wager:
    """Bets on what was believed of duels before their answers came, at the odds of a coin.

    It is only for duels of which chance alone decides what comes first: the order is drawn, or the two are samples of
    one policy in the order of their sampling. This is fair where answers have nothing to do with the responses, also if
    people like the first place, or the second, however much, and each in their own way. For then the answer w does not
    depend on which of the two is first. To swap them turns the belief p into 1 - p, and was as likely. So given the
    two, the answer and everything before, the return (2p - 1)(w - 1/2) is as likely as its opposite: 0 in expectation.
    """

    def __init__(self) -> None:
        self._money_B = np.zeros(len(_BETS_B))
        self._is_won = False

    @property
    def is_won(self) -> bool:
        """Whether answers bear the beliefs out: the money came to 1 / ``ERROR``, and is not lost again since."""
        return self._is_won

    def add(self, probability_N: Tensor, wins_N: Tensor) -> None:
        """Answers in the order in which they were asked for.

        Args:
            probability_N: believed before the answers, that the first response wins.
            wins_N: whether it won; one half for a tie, which is a bet called off.
        """
        for gain in ((2 * probability_N.double() - 1) * (wins_N.double() - 0.5)).tolist():
            money_B = self._money_B + np.log1p(gain * _BETS_B)
            self._money_B = money_B - max(0.0, float(_total(money_B)) - _MOST)
            money = float(_total(self._money_B))
            self._is_won = money >= 0.0 if self._is_won else money >= math.log(1 / ERROR)

    def state(self) -> dict[str, Any]:
        """The money, as tensors and plain values."""
        return {"money": torch.from_numpy(self._money_B.copy()), "won": self._is_won}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``. Raises: UnfitState if it is none."""
        require(state, {"money": like(len(_BETS_B), dtype=torch.float64), "won": bool}, "wager")
        self._money_B, self._is_won = state["money"].numpy().copy(), state["won"]


def _total(money_X_B: Array) -> Any:
    """Of all bets, in nats, each of which had the same share of the stake."""
    return logsumexp(money_X_B, axis=-1) - np.log(len(_BETS_B))
