"""The base classes of oracles: they reject invalid duels, check answers, and count queries."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sea_agent.errors import UserError
from sea_agent.seeding import generator_for
from sea_agent.types import Duel, LabelSource, Outcome, Prompt, Verdict

Labels = Literal["threshold", "bernoulli"]
Question = Mapping[str, Any]


class Oracle(ABC):
    """Answers duels, now or later: a duel without an answer stays open and is asked again.

    ``queries`` counts the duels answered for training, ``evaluation_queries`` those answered for evaluation; skips do
    not count. ``evaluates`` says whether it also measures win rates; it does not where answers cost money or people's
    time.
    """

    evaluates = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.queries = 0
        self.evaluation_queries = 0

    @abstractmethod
    def verdicts(self, duels: Sequence[Duel]) -> list[Verdict]:
        """At most one verdict per duel, in the order of the duels; none for those without an answer yet.

        Returns within about a minute. Only duels without a verdict are passed again.
        """

    @abstractmethod
    def evaluate(self, questions: Sequence[Question]) -> list[float]:
        """The probability that ``first`` is preferred, for each question (``sea_agent.types.question``). Counted
        separately, outside the budget."""

    def try_on(self, prompts: Sequence[Prompt], max_new_tokens: int) -> None:  # noqa: B027 (not all can be tried)
        """Try what costs nothing and needs nobody, before anything is sampled: by default nothing.

        Args:
            prompts: at least one, of the run; the longest among them.
            max_new_tokens: of a response, in tokens of the policy.

        Raises:
            UserError: the oracle cannot answer duels of these prompts.
        """

    def waiting(self) -> str:
        """What else there is to say to a user who waits for answers; empty, or a sentence."""
        return ""

    def metrics(self) -> dict[str, float]:
        """The cost of answering so far, such as requests and money; recorded with the metrics of each round."""
        return {}

    def ask(self, duels: Sequence[Duel]) -> list[Verdict]:
        """The verdicts available now, in the order of the duels.

        Raises:
            ValueError: a duel must not reach an oracle.
            UserError: the oracle's answers are invalid.
        """
        for duel in duels:
            if duel.label_source is not LabelSource.ORACLE:
                raise ValueError(f"duel {duel.id} is labelled by {duel.label_source} and must not reach an oracle")
            if duel.first.text == duel.second.text:
                raise ValueError(f"duel {duel.id} has two equal responses and must not reach an oracle")
        verdicts = self.verdicts(duels)
        self.queries += sum(verdict.outcome is not Outcome.SKIP for verdict in verdicts)
        return verdicts


class ProbabilityOracle(Oracle):
    """Answers immediately, with the probability that the first response is preferred."""

    contract = "return the probability, between 0 and 1, that `first` is preferred"
    """What an answer has to be; part of every refusal of one."""

    def __init__(self, name: str, labels: Labels, seed: int) -> None:
        super().__init__(name)
        self._labels = labels
        self._seed = seed

    @abstractmethod
    def probabilities(self, questions: Sequence[Question]) -> list[float]:
        """One probability for each question."""

    def verdicts(self, duels: Sequence[Duel]) -> list[Verdict]:
        """One verdict for each duel."""
        probabilities = self._checked([duel.public() for duel in duels])
        return [
            Verdict(duel.id, self._outcome(duel.id, probability), self.name, time.time(), probability)
            for duel, probability in zip(duels, probabilities, strict=True)
        ]

    def evaluate(self, questions: Sequence[Question]) -> list[float]:
        """See ``Oracle.evaluate``."""
        probabilities = self._checked(questions)
        self.evaluation_queries += len(questions)
        return probabilities

    def _outcome(self, duel_id: str, probability: float) -> Outcome:
        if self._labels == "bernoulli":
            wins = generator_for(self._seed, "verdict", duel_id).random() < probability
            return Outcome.FIRST if wins else Outcome.SECOND
        if probability == 0.5:
            return Outcome.TIE
        return Outcome.FIRST if probability > 0.5 else Outcome.SECOND

    def _checked(self, questions: Sequence[Question]) -> list[float]:
        if not questions:
            return []
        answers = self.probabilities(questions)
        if len(answers) != len(questions):
            raise UserError(
                f"{self.name}: returned {len(answers)} answers for {len(questions)} duels; "
                "return one probability for each duel, in the order given"
            )
        return [self._probability(answer, question) for answer, question in zip(answers, questions, strict=True)]

    def _probability(self, answer: Any, question: Question) -> float:
        try:
            probability = math.nan if isinstance(answer, (str, bytes)) else float(answer)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            probability = math.nan
        if not 0.0 <= probability <= 1.0:
            raise UserError(f"{self.name}: answered {answer!r} to duel {question['id']}; {self.contract}")
        return probability


def bradley_terry(first: float, second: float) -> float:
    """σ(first − second): the probability that the response with reward ``first`` is preferred."""
    difference = first - second
    if difference >= 0:
        return 1.0 / (1.0 + math.exp(-difference))
    return math.exp(difference) / (1.0 + math.exp(difference))
