"""Where the candidates of a round come from: the current policy, the frozen reference, or both.

Dimension legend: P prompts, M samples of a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actors.pool import SamplerPool
from sea_agent.bandit.prompt_choice import most_uncertain
from sea_agent.config import RunConfig
from sea_agent.prompts import PromptSource
from sea_agent.types import Candidates, Prompt, Response


@dataclass(frozen=True, slots=True)
class Draw:
    """The candidates of a round, those of the current policy before those of the reference.

    ``per_prompt`` were sampled for each prompt; equal ones are one candidate. ``explored`` holds, by prompt id, the
    response on which the learner's loss is optimistic; it is empty without optimism. ``sampled`` counts all responses
    that were sampled for the round.
    """

    candidates: list[Candidates]
    per_prompt: int
    explored: dict[str, Response]
    sampled: int


class CandidateSource:
    """Draws the prompts of a round and samples their candidates.

    ``reference`` is needed where ``sampler.reference_candidates`` is above 0.
    """

    def __init__(
        self, config: RunConfig, prompts: PromptSource, samplers: SamplerPool, reference: SamplerPool | None
    ) -> None:
        self.prompts = prompts
        self._config, self._samplers, self._reference = config, samplers, reference

    def draw(self, number: int, *, asks: bool) -> Draw:
        """The candidates of round ``number``; where it asks the oracle, its prompts are chosen from the prompt pool."""
        sampler, size = self._config.sampler, self._config.batch_size
        per_prompt = sampler.candidates if asks else self._config.imagination.candidates or sampler.candidates
        pool = self._config.selection.prompt_pool if asks else 1
        prompts = self.prompts.next(min(pool * size, len(self.prompts)))
        own_count = per_prompt - sampler.reference_candidates
        own = self._samplers.samples(prompts, own_count, sampler.temperature, "round", number)
        sampled = _count(own)
        if len(prompts) > size:
            logprobs_P_M = torch.tensor([[sum(one.logprobs) for one in row] for row in own], dtype=torch.float64)
            kept = most_uncertain(logprobs_P_M, size)
            prompts, own = [prompts[index] for index in kept], [own[index] for index in kept]
        theirs = self._of_reference(prompts, number)
        greedy = self._greedy(prompts, number)
        explored = {"none": [], "xpo": theirs, "selm": greedy}[self._config.learner.optimism]
        return Draw(
            candidates=[
                Candidates.distinct(prompt, [*mine, *others])
                for prompt, mine, others in zip(prompts, own, theirs, strict=True)
            ],
            per_prompt=per_prompt,
            explored={row[0].prompt_id: row[0] for row in explored},
            sampled=sampled + _count(theirs) + _count(greedy),
        )

    def revive(self) -> None:
        """Replace the samplers that have died."""
        for pool in filter(None, (self._samplers, self._reference)):
            pool.revive()

    def _of_reference(self, prompts: Sequence[Prompt], number: int) -> list[list[Response]]:
        if self._reference is None:
            return [[] for _ in prompts]
        sampler = self._config.sampler
        key = ("reference round", number)
        return self._reference.samples(prompts, sampler.reference_candidates, sampler.temperature, *key)

    def _greedy(self, prompts: Sequence[Prompt], number: int) -> list[list[Response]]:
        if self._config.learner.optimism != "selm":
            return []
        return self._samplers.samples(prompts, 1, 0.0, "greedy", number)


def _count(rows: Sequence[Sequence[Response]]) -> int:
    return sum(map(len, rows))
