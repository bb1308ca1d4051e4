"""Who answers duels: a world's hidden reward, a reward model, or any Python function."""

from oracle.base import Oracle
from sea_agent.config import PythonOracleConfig, RewardModelOracleConfig, WorldOracleConfig


def make_oracle(
    config: WorldOracleConfig | PythonOracleConfig | RewardModelOracleConfig, *, seed: int, device: str
) -> Oracle:
    """The oracle that ``config.kind`` names; heavy packages are imported only by the kinds that need them."""
    if isinstance(config, WorldOracleConfig):
        from oracle.world import WorldOracle

        return WorldOracle(config, seed)
    if isinstance(config, PythonOracleConfig):
        from oracle.python import PythonOracle

        return PythonOracle(config, seed)
    from oracle.reward_model import RewardModelOracle

    return RewardModelOracle(config, seed, device)
