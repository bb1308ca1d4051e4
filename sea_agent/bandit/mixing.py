"""What the posterior labels itself: a share of the duels (arXiv 2411.01493, section 4.2), and pairs of imagined rounds.

Dimension legend: S posterior draws, P prompts, M candidates of a prompt.
"""

from torch import Tensor, inf, stack

from sea_agent.config import ImaginationConfig, MixingConfig
from sea_agent.keys import generator_for
from sea_agent.types import LabelSource


def label_source(config: MixingConfig, oracle_labels: int, seed: int, duel_id: str) -> LabelSource:
    """Who labels a duel: the oracle always during burn-in, afterwards with probability ``oracle_share``.

    ``oracle_labels`` counts the labels before this round. The choice is keyed by the duel, so it does not depend
    on what else is in the round.
    """
    if oracle_labels < config.burn_in or config.oracle_share >= 1.0:
        return LabelSource.ORACLE
    asks = generator_for(seed, "mixing", duel_id).random() < config.oracle_share
    return LabelSource.ORACLE if asks else LabelSource.POSTERIOR


def imagined_rounds(config: ImaginationConfig, oracle_labels: int) -> int:
    """How many imagined rounds follow a round after which there are so many oracle labels."""
    return config.rounds if oracle_labels >= config.start else 0


def imagined_pairs(rewards_S_P_M: Tensor, valid_P_M: Tensor, pessimism: float) -> Tensor:
    """The pair of each prompt whose order the posterior is surest of, (winner, loser) in pairs_P_2.

    It has the largest lower bound of the reward difference, mean − ``pessimism`` · standard deviation over the draws.
    """
    draws, _, candidates = rewards_S_P_M.shape
    centred_S_P_M = (rewards_S_P_M - rewards_S_P_M.mean(0)).masked_fill(~valid_P_M, 0.0)
    covariance_P_M_M = (centred_S_P_M.permute(1, 2, 0) @ centred_S_P_M.permute(1, 0, 2)) / draws
    variance_P_M = covariance_P_M_M.diagonal(dim1=1, dim2=2)
    variance_P_M_M = (variance_P_M[:, :, None] + variance_P_M[:, None, :] - 2 * covariance_P_M_M).clamp_min(0.0)
    mean_P_M = rewards_S_P_M.mean(0)
    bound_P_M_M = mean_P_M[:, :, None] - mean_P_M[:, None, :] - pessimism * variance_P_M_M.sqrt()
    bound_P_M_M = bound_P_M_M.masked_fill(~(valid_P_M[:, :, None] & valid_P_M[:, None, :]), -inf)
    bound_P_M_M.diagonal(dim1=1, dim2=2).fill_(-inf)
    best_P = bound_P_M_M.flatten(1).argmax(1)
    return stack([best_P // candidates, best_P % candidates], 1)
