"""How much the posterior can learn with its features, by imported preferences that it has not seen."""

from dataclasses import dataclass

from scipy.stats import binomtest

from sea_agent.data.imported import ImportedPreferences
from sea_agent.errors import UserError
from sea_agent.loop.selector import Selector
from sea_agent.seeding import generator_for

_MOST = 512
"""Preferences to learn from, and as many to foretell."""
_LEAST = 20


@dataclass(frozen=True)
class Foretold:
    """``right`` of ``count`` preferences were foretold after ``learnt`` others."""

    learnt: int
    right: int
    count: int

    def __str__(self) -> str:
        low, high = binomtest(self.right, self.count).proportion_ci(0.95, "wilson")
        return (
            f"After {self.learnt} of the imported preferences the posterior foretells {self.right / self.count:.0%} of "
            f"{self.count} others (95 % interval {low:.0%} to {high:.0%}; a coin 50 %)."
        )


def foretell(selector: Selector, imported: ImportedPreferences | None) -> Foretold:
    """Let a fresh posterior learn from one half of the imported preferences and ask it about the other.

    Raises:
        UserError: there are none, or too few.
    """
    found = 0 if imported is None else len(imported.duels)
    if imported is None or found < _LEAST:
        raise UserError(
            f"--foretell needs imported preferences, at least {_LEAST}: set posterior.preferences_path; found {found}"
        )
    order = generator_for("foretell").permutation(found)[: 2 * _MOST].tolist()
    learnt, others = order[: len(order) // 2], order[len(order) // 2 :]
    answers = [(imported.duels[row], imported.verdicts[row]) for row in learnt]
    selector.warm(answers, [imported.weights[row] for row in learnt])
    beliefs = selector.foretell([imported.duels[row] for row in others])
    return Foretold(len(learnt), sum(belief > 0.5 for belief in beliefs), len(others))
