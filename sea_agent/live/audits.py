"""Whether audits say that live weights are worse than the initial policy, told as soon as they do.

An audit is won (1), lost (0) or tied (½) by the live weights. The hypothesis is that they are as good as the initial
policy or better: whatever came before, the expected outcome is ½ or more. Somebody who bets the share λ of their money
on losses, with λ in [0, 2), multiplies it by 1 + λ (½ − outcome) with each audit; under the hypothesis their money is a
supermartingale, and so is its mean over several λ. It therefore ever exceeds 1/α times the stake with probability α at
most, whenever one looks (Ville 1939; Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", arXiv 2010.09686, sections 3 and 4: a capital process with a mixture of bets).

Dimension legend: N audits, B bets.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

from sea_agent.types import Outcome

_BETS_B = np.linspace(0.05, 1.95, 20)
"""λ of each bet; weak ones find small differences, strong ones large differences early."""


def evidence(outcomes: Sequence[float]) -> float:
    """The most that a stake of 1 has ever come to, by the outcomes in the order in which they came; 1 without any."""
    if not outcomes:
        return 1.0
    losses_N = 0.5 - np.asarray(outcomes, dtype=float)
    money_N_B = np.log1p(losses_N[:, None] * _BETS_B).cumsum(axis=0)
    mixed_N = logsumexp(money_N_B, axis=1) - np.log(len(_BETS_B))
    return float(np.exp(min(max(mixed_N.max(), 0.0), 700.0)))


def outcome_of(said: Outcome) -> float | None:
    """The outcome of an audit, whose first response is the live one; None where neither was called better."""
    return said.first_wins
