"""A user's Python function as the oracle: ``compare(duels: list[dict]) -> list[float]``."""

from collections.abc import Iterable, Sequence

from oracle.base import ProbabilityOracle, Question
from sea_agent.config import PythonOracleConfig
from sea_agent.plugins import Plugin


class PythonOracle(ProbabilityOracle):
    """Calls the function named by ``oracle.target``."""

    def __init__(self, config: PythonOracleConfig, seed: int) -> None:
        super().__init__(f"oracle.target={config.target}", config.labels, seed)
        contract = "return a list with one probability for each duel"
        self._compare = Plugin("oracle.target", config.target, contract)

    def probabilities(self, questions: Sequence[Question]) -> list[float]:
        """What the function answers."""
        answers = self._compare([dict(question) for question in questions])
        if not isinstance(answers, Iterable):
            raise self._compare.refusal(f"returned {type(answers).__name__}")
        return list(answers)
