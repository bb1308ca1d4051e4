"""The hidden reward of a built-in world, or its independent judge, as the oracle."""

from collections.abc import Sequence

from oracle.base import ProbabilityOracle, Question, bradley_terry
from sea_agent.config import WorldOracleConfig
from sea_agent.worlds import scorer


class WorldOracle(ProbabilityOracle):
    """Bradley–Terry over the world's score of prompt and response."""

    def __init__(self, config: WorldOracleConfig, seed: int) -> None:
        super().__init__(f"world:{config.world}:{config.scorer}", config.labels, seed)
        self._score = scorer(config.world, config.scorer)

    def probabilities(self, questions: Sequence[Question]) -> list[float]:
        """σ(score(first) − score(second)) of each question."""
        return [
            bradley_terry(self._score(q["prompt"], q["first"]), self._score(q["prompt"], q["second"]))
            for q in questions
        ]
