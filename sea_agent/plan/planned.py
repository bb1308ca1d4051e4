"""What is planned: a run, the machine it would have, and what each stage of it takes."""

from dataclasses import dataclass
from typing import Literal

from sea_agent.config import RunConfig
from sea_agent.config.oracle import FeedbackServiceOracleConfig
from sea_agent.errors import UserError
from sea_agent.plan.machine import Machine, Shape


@dataclass(frozen=True)
class Planned:
    """A run on a machine. ``shape`` is its policy's."""

    config: RunConfig
    machine: Machine
    shape: Shape

    @property
    def answer_tokens(self) -> int:
        """Tokens of a response."""
        return self.machine.response_tokens or self.config.sampler.max_new_tokens

    @property
    def row_tokens(self) -> int:
        """Tokens of a prompt and a response."""
        return self.machine.prompt_tokens + self.answer_tokens

    @property
    def votes(self) -> int:
        """Answers that a duel takes.

        Raises:
            UserError: there are fewer annotators than that.
        """
        votes = self.config.oracle.votes if isinstance(self.config.oracle, FeedbackServiceOracleConfig) else 1
        people = self.machine.people
        if people is not None and people.annotators < votes:
            raise UserError(f"plan: {people.annotators} annotators cannot give oracle.votes={votes} for a duel")
        return votes


@dataclass(frozen=True)
class Costs:
    """Mean seconds of each stage. ``asked`` and ``imagined`` are of the two kinds of round; ``sample`` in them is with
    ``actors`` samplers."""

    asked: dict[str, float]
    imagined: dict[str, float]
    evaluation: float
    rest: float
    """Of a round, beside its stages: checkpoints, files."""
    actors: int
    imagined_share: float
    """Imagined rounds that there were, of those that ``imagination`` allows."""
    source: Literal["recorded", "guess"]
