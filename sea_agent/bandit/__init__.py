"""Dueling bandits over features of one's own: what is believed of rewards, and which pairs to ask about.

Tensors in, decisions out; nothing here knows language models. A round is

    posterior = Laplace(dimension=D)
    rewards_S_P_M = posterior.draw(features_P_M_D)
    pairs_P_2 = select_pairs("sea_ee", rewards_S_P_M, valid_P_M, generator)
    posterior.add(first_P_D, second_P_D, first_wins_P)
    posterior.update()

with the features standardised (mean 0, deviation 1), and ``pad_candidates`` where prompts have different numbers of
candidates. ``examples/bandit_alone.py`` is a whole program.

Dimension legend: S posterior draws, P prompts, M candidates of a prompt, D features.
"""

from sea_agent.bandit.ensemble import Ensemble
from sea_agent.bandit.laplace import Laplace
from sea_agent.bandit.posterior import Posterior
from sea_agent.bandit.selection import (
    RULES,
    Rule,
    belief,
    diverse_duels,
    pad_candidates,
    pair_information,
    select_pairs,
)
from sea_agent.config import EnsembleConfig, LaplaceConfig

__all__ = [
    "RULES",
    "Ensemble",
    "EnsembleConfig",
    "Laplace",
    "LaplaceConfig",
    "Posterior",
    "Rule",
    "belief",
    "diverse_duels",
    "pad_candidates",
    "pair_information",
    "select_pairs",
]
