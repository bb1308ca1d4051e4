"""Mixed preference learning: which duels the oracle labels and which the posterior (arXiv 2411.01493, section 4.2)."""

from sea_agent.config import MixingConfig
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
