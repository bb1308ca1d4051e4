"""What is planned: a run, the machine it would have, and what each stage of it takes."""

import math
from dataclasses import dataclass
from typing import Literal

from sea_agent.config import RunConfig
from sea_agent.config.oracle import FeedbackServiceOracleConfig
from sea_agent.errors import UserError
from sea_agent.plan.machine import Machine, Shape


@dataclass(frozen=True)
class Planned:
    """A run on a machine. ``shape`` is its policy's, where anything depends on that."""

    config: RunConfig
    machine: Machine
    shape: Shape | None = None

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
            UserError: fewer could be given at once.
        """
        asked = self.config.oracle.votes if isinstance(self.config.oracle, FeedbackServiceOracleConfig) else None
        votes = asked or 1  # as in a run that the service makes without a number
        workers = self.machine.workers
        if workers is not None and workers.at_once < votes:
            raise UserError(f"plan: {workers.at_once} at once cannot give a duel oracle.votes={votes}")
        return votes

    def responses(self, asks: bool) -> int:
        """Responses that a round of this kind samples."""
        config, candidates = self.config, self.config.sampler.candidates
        if asks:
            return config.batch_size * config.selection.prompt_pool * candidates
        return config.batch_size * (config.imagination.candidates or candidates)

    def turns(self, asks: bool, actors: int | None = None) -> int:
        """Chunks that the busiest sampler has of a round, with ``sampler.actors`` of them or so many."""
        chunks = math.ceil(self.responses(asks) / self.config.sampler.chunk)
        return math.ceil(chunks / (actors or self.config.sampler.actors))


@dataclass(frozen=True)
class Costs:
    """Mean seconds of each stage. ``asked`` and ``imagined`` are of the two kinds of round; ``sample`` in them is with
    ``actors`` samplers."""

    asked: dict[str, float]
    imagined: dict[str, float]
    evaluation: float
    once: float
    """Of a run, beside the stages of its rounds."""
    actors: int
    imagined_share: float
    """Imagined rounds that there were, of those that ``imagination`` allows."""
    source: Literal["recorded", "guess"]
