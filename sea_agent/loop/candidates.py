"""Sampling the candidates of a round from the current policy, the frozen reference, or both.

Where the selector chooses the prompts by information, it gets the candidates of the whole pool.

Dimension legend: P prompts, M samples of a prompt.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Protocol

import torch

from actors.samplers import SamplerPool
from sea_agent.bandit.prompt_choice import most_uncertain
from sea_agent.config import SamplerConfig, SelectionConfig
from sea_agent.saved_state import require
from sea_agent.types import PROMPT_FORM, RESPONSE_FORM, Candidates, Duel, Prompt, Response, prompt_from, response_from

Samples = list[list[Response]]
Sampling = Callable[[], Samples]
"""Blocks until the responses to each prompt are there."""


@dataclass(frozen=True, slots=True)
class Draw:
    """The candidates of a round; those of the current policy come before those of the reference.

    ``per_prompt`` is the number of responses sampled per prompt, including duplicates. ``explored`` maps a prompt id to
    the response in the exploration term of the loss; it is empty without ``learner.optimism``. ``sampled`` counts all
    responses sampled for the round, including discarded ones. ``chosen`` are the duels of a round that were chosen
    where their responses were served; ``candidates`` then set the scale of the posterior's features, if it has none.
    """

    candidates: list[Candidates]
    per_prompt: int
    explored: dict[str, Response]
    sampled: int
    chosen: list[Duel] | None = None


class Prompts(Protocol):
    """What prompts are drawn from; see ``PromptSource`` for the methods."""

    def __len__(self) -> int: ...

    def next(self, count: int) -> list[Prompt]: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class Source(Protocol):
    """Where the rounds of a run get their prompts and candidates; see ``CandidateSource`` for the methods."""

    def draw(self, number: int, *, asks: bool) -> Draw: ...

    def sample_ahead(self, number: int, coming: Iterable[bool]) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...

    def revive(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Begun:
    """Sampling of a round that may still be running: by the policy (``own``) and, if its prompts are already final,
    by the reference and greedily (``beside``)."""

    asks: bool
    prompts: list[Prompt]
    own: Sampling
    beside: tuple[Sampling, Sampling] | None

    def parts(self) -> tuple[Sampling, ...]:
        return self.own, *(self.beside or ())

    def state(self) -> dict[str, Any]:
        rows = [[[asdict(response) for response in row] for row in part()] for part in self.parts()]
        return {"asks": self.asks, "prompts": [asdict(prompt) for prompt in self.prompts], "rows": rows}


class CandidateSource:
    """Draws the prompts of a round and samples their candidates, up to ``sampler.ahead`` rounds in advance.

    Args:
        reference: required if ``sampler.reference_candidates`` is above 0.
        batch_size: prompts per round.
        selection: which prompts of a pool are kept.
        imagined_candidates: responses per prompt in an imagined round; defaults to ``config.candidates``.
        optimism: as in ``LearnerConfig``.
    """

    def __init__(
        self,
        config: SamplerConfig,
        prompts: Prompts,
        samplers: SamplerPool,
        reference: SamplerPool | None = None,
        *,
        batch_size: int,
        selection: SelectionConfig,
        imagined_candidates: int | None = None,
        optimism: str = "none",
    ) -> None:
        self._config, self._prompts, self._samplers, self._reference = config, prompts, samplers, reference
        self._batch_size, self._prompt_pool, self._optimism = batch_size, selection.prompt_pool, optimism
        self._narrows = selection.prompt_choice == "entropy"
        self._imagined_candidates = imagined_candidates or config.candidates
        self._ahead: deque[_Begun] = deque()  # the next rounds, in order

    def draw(self, number: int, *, asks: bool) -> Draw:
        """The candidates of round ``number``. If the round asks the oracle, its prompts come from the prompt pool.

        If the next round sampled ahead is of the other kind (asking or imagined), all rounds sampled ahead are
        discarded.
        """
        in_vain = 0
        if self._ahead and self._ahead[0].asks != asks:
            in_vain = sum(_count(part()) for begun in self._ahead for part in begun.parts())
            self._ahead.clear()
        begun = self._ahead.popleft() if self._ahead else self._begin(number, asks)
        prompts, own, size = begun.prompts, begun.own(), self._batch_size
        sampled = in_vain + _count(own)
        if begun.beside is None:
            logprobs_P_M = torch.tensor([[sum(one.logprobs) for one in row] for row in own], dtype=torch.float64)
            kept = most_uncertain(logprobs_P_M, size)
            prompts, own = [prompts[index] for index in kept], [own[index] for index in kept]
        theirs, greedy = (part() for part in begun.beside or self._begin_beside(prompts, number))
        explored = {"none": [], "xpo": theirs, "selm": greedy}[self._optimism]
        return Draw(
            candidates=[
                Candidates.distinct(prompt, [*mine, *others])
                for prompt, mine, others in zip(prompts, own, theirs, strict=True)
            ],
            per_prompt=self._per_prompt(asks),
            explored={row[0].prompt_id: row[0] for row in explored},
            sampled=sampled + _count(theirs) + _count(greedy),
        )

    def sample_ahead(self, number: int, coming: Iterable[bool]) -> None:
        """Start sampling for the rounds after ``number``; ``coming`` says for each whether it is expected to ask."""
        for step, asks in enumerate(islice(coming, self._config.ahead), 1):
            if step > len(self._ahead):
                self._ahead.append(self._begin(number + step, asks))

    def state(self) -> dict[str, Any]:
        """The position in the prompts and the responses sampled ahead, as plain values; waits for their sampling."""
        return {"prompts": self._prompts.state(), "ahead": [begun.state() for begun in self._ahead]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``. Raises: UserError if it belongs to other prompts, UnfitState if it does not fit."""
        begun = {"asks": bool, "prompts": [PROMPT_FORM, ...], "rows": [[[RESPONSE_FORM, ...], ...], ...]}
        require(state, {"prompts": dict, "ahead": [begun, ...]}, "source")
        self._prompts.load_state(state["prompts"])
        self._ahead = deque(_restored(begun) for begun in state["ahead"])

    def revive(self) -> None:
        """Replace the samplers that have died."""
        for pool in filter(None, (self._samplers, self._reference)):
            pool.revive()

    def _per_prompt(self, asks: bool) -> int:
        return self._config.candidates if asks else self._imagined_candidates

    def _begin(self, number: int, asks: bool) -> _Begun:
        sampler, size = self._config, self._batch_size
        pool = self._prompt_pool if asks else 1
        prompts = self._prompts.next(min(pool * size, len(self._prompts)))
        own_count = self._per_prompt(asks) - sampler.reference_candidates
        own = self._samplers.begin(prompts, own_count, sampler.temperature, "round", number)
        final = len(prompts) <= size or not self._narrows
        beside = self._begin_beside(prompts, number) if final else None
        return _Begun(asks, prompts, own, beside)

    def _begin_beside(self, prompts: Sequence[Prompt], number: int) -> tuple[Sampling, Sampling]:
        """The responses of the reference, and the greedy responses of the policy."""
        sampler = self._config
        theirs = greedy = _done([[] for _ in prompts])
        if self._reference is not None:
            key = ("reference round", number)
            theirs = self._reference.begin(prompts, sampler.reference_candidates, sampler.temperature, *key)
        if self._optimism == "selm":
            greedy = self._samplers.begin(prompts, 1, 0.0, "greedy", number)
        return theirs, greedy


def _restored(state: Mapping[str, Any]) -> _Begun:
    own, *beside = (_done([[response_from(one) for one in row] for row in rows]) for rows in state["rows"])
    prompts = [prompt_from(row) for row in state["prompts"]]
    return _Begun(state["asks"], prompts, own, (beside[0], beside[1]) if beside else None)


def _done(rows: Samples) -> Sampling:
    return lambda: rows


def _count(rows: Sequence[Sequence[Response]]) -> int:
    return sum(map(len, rows))
