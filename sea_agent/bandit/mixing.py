"""What the posterior labels itself: a share of the duels (arXiv 2411.01493, section 4.2), and pairs of imagined rounds.

Dimension legend: S posterior draws, P prompts, M candidates of a prompt, C valid ones of a single prompt, Q pairs.
"""

from torch import Tensor, cat, full, stack

from sea_agent.config import ImaginationConfig, MixingConfig
from sea_agent.seeding import generator_for
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


LEAST_TRUST = 0.05
"""Trust in the posterior below which nothing is imagined."""


def imagined_rounds(config: ImaginationConfig, oracle_labels: int, trust: float = 1.0) -> int:
    """How many imagined rounds follow a round after which there are so many oracle labels."""
    return config.rounds if oracle_labels >= config.start and trust >= LEAST_TRUST else 0


def folded_pairs(rewards_S_P_M: Tensor, valid_P_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of candidates to train on: best with worst, second best with second worst, and so on, by the mean reward.

    Every candidate takes part, so a step sees the whole order of a prompt's candidates and not only its ends.

    Returns:
        rows_Q, the prompt of each pair; pairs_Q_2, better and worse by the mean; and probability_Q, the mean over the
        draws of the probability that the better one is preferred. For an odd number the middle candidate is left out.
    """
    mean_P_M = rewards_S_P_M.mean(0)
    rows, pairs = [], []
    for row, valid_M in enumerate(valid_P_M):
        candidates_C = valid_M.nonzero()[:, 0]
        order_C = candidates_C[mean_P_M[row, candidates_C].argsort(descending=True, stable=True)]
        half = len(order_C) // 2
        pairs.append(stack([order_C[:half], order_C.flip(0)[:half]], 1))
        rows.append(full((half,), row))
    rows_Q, pairs_Q_2 = cat(rows), cat(pairs)
    gap_S_Q = rewards_S_P_M[:, rows_Q, pairs_Q_2[:, 0]] - rewards_S_P_M[:, rows_Q, pairs_Q_2[:, 1]]
    return rows_Q, pairs_Q_2, gap_S_Q.sigmoid().mean(0)
