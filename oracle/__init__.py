"""Oracles, which answer duels: a world's hidden reward, a reward model, an LLM judge, a Python function, or people."""

from oracle.base import Oracle
from sea_agent.config import (
    FeedbackServiceOracleConfig,
    LiveOracleConfig,
    LlmJudgeOracleConfig,
    OracleConfig,
    PythonOracleConfig,
    WorldOracleConfig,
)


def make_oracle(config: OracleConfig, *, seed: int, device: str, key: str = "oracle") -> Oracle:
    """The oracle of ``config.kind``; imports the packages of that kind only. ``key`` is the configuration's section."""
    if isinstance(config, WorldOracleConfig):
        from oracle.world import WorldOracle

        return WorldOracle(config, seed)
    if isinstance(config, PythonOracleConfig):
        from oracle.python import PythonOracle

        return PythonOracle(config, seed, key)
    if isinstance(config, FeedbackServiceOracleConfig):
        from oracle.feedback_service import FeedbackServiceOracle

        return FeedbackServiceOracle(config)
    if isinstance(config, LlmJudgeOracleConfig):
        from oracle.llm_judge import LlmJudgeOracle

        return LlmJudgeOracle(config)
    if isinstance(config, LiveOracleConfig):
        from oracle.live import LiveOracle

        return LiveOracle(config)
    from oracle.reward_model import RewardModelOracle

    return RewardModelOracle(config, seed, device, key)
