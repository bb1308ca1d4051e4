"""A user's Python function as the oracle: ``compare(duels: list[dict]) -> list[float]``.

It is asked about duels of the run only, never on trial: its calls may cost money, and they equal the ledger's count.
"""

import logging
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from oracle.base import ProbabilityOracle, Question
from sea_agent.config import PythonOracleConfig
from sea_agent.errors import UserError
from sea_agent.plugins import Plugin
from sea_agent.types import QUESTION_TEXTS

# What the index of the winner says of the probability that the first response is preferred; -1 is undecided.
_FIRST_WINS = {0: 1.0, 1: 0.0, -1: 0.5}

_log = logging.getLogger(__name__)


class PythonOracle(ProbabilityOracle):
    """Calls the function named by ``oracle.target``, which answers as ``oracle.returns`` says.

    A function that returns the winner's index cannot be told from one that returns probabilities by what it prefers:
    with 0 and 1 exchanged both answer two orders of a pair consistently. But an index is a whole number, and code that
    means a probability rarely makes one. So whole numbers taken for probabilities are warned of once.
    """

    def __init__(self, config: PythonOracleConfig, seed: int, key: str = "oracle") -> None:
        super().__init__(f"{key}.target={config.target}", config.labels, seed)
        self._key = key
        self.contract = f"{self.contract}, or set {key}.returns=winner if the function returns the winner's index"
        contract = "return a list with one probability for each duel"
        if config.returns == "winner":
            contract = "return a list with the index of one winner for each duel"
        self._compare = Plugin(f"{key}.target", config.target, contract)
        self._returns = config.returns
        self._warned = False

    def probabilities(self, questions: Sequence[Question]) -> list[float]:
        """What the function answers."""
        answers = self._compare([{name: question[name] for name in QUESTION_TEXTS} for question in questions])
        if not isinstance(answers, Iterable) or isinstance(answers, (str, bytes, Mapping)):
            raise self._compare.refusal(f"returned {type(answers).__name__}")
        answers = list(answers)
        if self._returns == "winner":
            return [self._of_winner(answer) for answer in answers]
        if not self._warned and answers and all(_is_index(answer) and 0 <= answer <= 1 for answer in answers):
            self._warned = True
            _log.warning(
                "%s: returns the whole numbers 0 and 1, which are taken for the probability that `first` is preferred: "
                "1 means `first`. If they are the winner's index, 0 for `first`, they mean the opposite: set "
                "%s.returns=winner and start again. If not, return 0.0 and 1.0.",
                self.name,
                self._key,
            )
        return answers

    def _of_winner(self, answer: Any) -> float:
        if _is_index(answer) and operator.index(answer) in _FIRST_WINS:
            return _FIRST_WINS[operator.index(answer)]
        raise UserError(
            f"{self.name}: answered {answer!r}; with {self._key}.returns=winner return 0 if `first` is preferred, 1 if "
            "`second` is, or -1 if undecided"
        )


def _is_index(answer: Any) -> bool:
    """Whether it is a whole number by its type, also one of numpy or torch; a truth value is not."""
    if isinstance(answer, bool) or str(getattr(answer, "dtype", "")).endswith("bool"):
        return False
    try:
        operator.index(answer)
    except TypeError:
        return False
    return True
