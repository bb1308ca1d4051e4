"""Which new weights go live: what was measured of them against what ``live.gate`` asks for.

Posterior and policy learn from the same labels, so that a policy may exploit what the posterior gets wrong. The gate
therefore also looks at what does not come from labels, and audits (``audits.py``) have the last word.

Dimension legend: S posterior draws, P held-out prompts, R bootstrap replicates.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sea_agent.config import GateConfig

_REPLICATES = 2000
_BELOW = 0.05
"""Chance with which the true win rate is below the lower bound."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of new weights, on held-out conversations where nothing else is said."""

    prompts: int
    """Held-out conversations."""
    users: int
    """Users whose answers were learnt from."""
    win_rate: float
    """Probability that a sample of the new weights is preferred to one of the live ones, as the posterior sees it."""
    win_low: float
    """Its lower bound, at 95 %, over posterior draws and conversations."""
    judge_win_rate: float | None
    """The same probability by the independent judge, if there is one."""
    kl: float
    """Divergence from the initial policy, nats per response."""
    length: float
    """Mean tokens of a response, as a multiple of the initial policy's."""
    distinct: float
    """Share of distinct responses among samples to one prompt, relative to the initial policy's."""
    gap: float
    """Mean absolute difference of a token's log-probability between learner and sampler, nats."""
    engine_gap: float | None
    """The same between the engines and a sampler with the live weights, where there are engines that tell."""
    engine_fault: str | None
    """Why none does, where there are engines."""

    def report(self) -> dict[str, Any]:
        """The figures as JSON holds them, which has no number for what could not be measured."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def objections(figures: Figures, gate: GateConfig) -> list[str]:
    """Why weights with these figures must not go live; empty when they may. A figure that is no number objects."""
    judge, engine = figures.judge_win_rate, figures.engine_gap
    least = 0.5 - gate.margin
    checks = [
        (figures.prompts >= gate.least_prompts, f"{figures.prompts} held-out conversations of {gate.least_prompts}"),
        (figures.users >= gate.min_users, f"{figures.users} users answered of {gate.min_users}"),
        (figures.win_low > least, f"win rate {figures.win_rate:.3f} may be {figures.win_low:.3f}, not above {least:g}"),
        (judge is None or judge > least, f"judge's win rate {judge}, not above {least:g}"),
        (figures.kl <= gate.max_kl, f"{figures.kl:.3g} nats from the initial policy, more than {gate.max_kl:g}"),
        (
            1 / gate.longest <= figures.length <= gate.longest,
            f"responses {figures.length:.3g} times as long as the initial policy's, not within {gate.longest:g}",
        ),
        (
            figures.distinct >= gate.least_distinct,
            f"{figures.distinct:.3g} of the initial policy's share of distinct responses, not {gate.least_distinct:g}",
        ),
        (
            figures.gap <= gate.max_gap,
            f"sampler and learner {figures.gap:.3g} nats a token apart, not {gate.max_gap:g}",
        ),
        (
            engine is None or engine <= gate.max_gap,
            f"engine and sampler {engine} nats a token apart, not {gate.max_gap:g}",
        ),
        (
            figures.engine_fault is None,
            f"no engine gave log-probabilities to compare with a sampler's ({figures.engine_fault})",
        ),
    ]
    return [what for holds, what in checks if not holds]


def win_rate(wins_S_P: Tensor, generator: np.random.Generator) -> tuple[float, float]:
    """Mean of win probabilities, and its lower bound over posterior draws and conversations together.

    Each replicate takes one draw, which is one reward function for all conversations, and conversations with
    replacement. Averaging over draws first would hide that they may all be wrong in the same direction.
    """
    wins = wins_S_P.double().numpy()
    draws, prompts = wins.shape
    draw_R = generator.integers(draws, size=_REPLICATES)
    prompts_R_P = generator.integers(prompts, size=(_REPLICATES, prompts))
    means_R = wins[draw_R[:, None], prompts_R_P].mean(axis=1)
    return float(wins.mean()), float(np.quantile(means_R, _BELOW))
