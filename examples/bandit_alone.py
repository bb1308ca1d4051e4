"""Duels between items with features of one's own, chosen by Thompson sampling or by chance."""

import numpy as np
import torch

from sea_agent.bandit import Laplace, LaplaceConfig, select_pairs

ITEMS, FEATURES, DUELS, SEEDS = 50, 6, 40, 5


def regret(rule: str, seed: int) -> float:
    """Reward of the best item minus the mean of the two that are duelled, mean over the duels."""
    chance = np.random.default_rng(seed)
    features_1_M_D = torch.from_numpy(chance.normal(size=(1, ITEMS, FEATURES))).float()
    rewards_M = features_1_M_D[0] @ torch.from_numpy(chance.normal(size=FEATURES)).float()
    posterior, lost = Laplace(dimension=FEATURES, config=LaplaceConfig(prior_deviation=2.0)), 0.0
    for _ in range(DUELS):
        draws_S_1_M = posterior.draw(features_1_M_D)
        first, second = select_pairs(rule, draws_S_1_M, torch.ones(1, ITEMS, dtype=torch.bool), chance)[0]
        wins_1 = torch.tensor([chance.random()]) < torch.sigmoid(rewards_M[first] - rewards_M[second])
        posterior.add(features_1_M_D[:, first], features_1_M_D[:, second], wins_1)
        posterior.update()
        lost += float(rewards_M.max() - (rewards_M[first] + rewards_M[second]) / 2) / DUELS
    return lost


thompson, random = (np.mean([regret(rule, seed) for seed in range(SEEDS)]) for rule in ("sea_ee", "uniform"))
print(f"regret of a duel: {thompson:.2f} by Thompson sampling, {random:.2f} by chance")
assert thompson < random / 2
