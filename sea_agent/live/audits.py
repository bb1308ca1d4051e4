"""Whether audits say that live weights are worse than the initial policy, told as soon as they do.

An audit is won (1), lost (0) or tied (½) by the live weights. The hypothesis is that they are as good as the initial
policy or better: whatever came before, the expected outcome is ½ or more. Somebody bets on losses, at fair odds
(``bandit/betting.py``).
"""

from collections.abc import Sequence

import numpy as np

from sea_agent.bandit.betting import won
from sea_agent.types import Outcome


def evidence(outcomes: Sequence[float]) -> float:
    """The most that a stake of 1 has ever come to, by the outcomes in the order in which they came; 1 without any."""
    if not outcomes:
        return 1.0
    most = won(0.5 - np.asarray(outcomes, dtype=float)).max()
    return float(np.exp(min(max(most, 0.0), 700.0)))


def outcome_of(said: Outcome) -> float | None:
    """The outcome of an audit, whose first response is the live one; None where neither was called better."""
    return said.first_wins
