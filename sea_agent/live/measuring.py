"""Measures new weights against the live ones and the initial policy, on held-out conversations.

The samplers of the run take the live and the initial weights for a while, and then the new ones again.

Dimension legend: S posterior draws, P prompts, K samples of a prompt.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from oracle import Oracle
from sea_agent.agent import Agent
from sea_agent.live.gate import Figures, win_rate
from sea_agent.seeding import generator_for, id_for
from sea_agent.types import Prompt, Response, TokenRow, question
from sea_agent.weights import WeightUpdate, checksum

FILE = "model.safetensors"
_SAMPLES = 2
_DRAWS = 400

Score = Callable[[Sequence[TokenRow], int], list[list[float]]]
"""Log-probabilities of response tokens by an engine with the weights of a version. Raises: NotScored."""
Samples = list[list[Response]]


class NotScored(Exception):
    """No engine gives log-probabilities: why."""


class Measuring:
    """Compares weights.

    Args:
        judge: an independent judge, if there is one.
        score: of the engines, if they can be asked.
    """

    def __init__(
        self, *, seed: int, temperature: float, judge: Oracle | None = None, score: Score | None = None
    ) -> None:
        self._seed, self._temperature, self._judge, self._score = seed, temperature, judge, score

    def measure(
        self, agent: Agent, prompts: Sequence[Prompt], initial: Path, live: Path | None, version: int
    ) -> Figures:
        """Figures of the agent's weights. ``live`` is the directory of those of ``version``, which serves; None for the
        initial policy, whose are in ``initial``."""
        pool, key, users = agent.samplers, agent.published, agent.ledger.annotators()
        if not prompts:
            return Figures(0, users, 0.0, 0.0, None, np.nan, np.nan, np.nan, np.nan, None, None)

        def sample() -> Samples:
            return pool.samples(prompts, _SAMPLES, self._temperature, "gate", version, key)

        mine = sample()
        plain = [row[0] for row in pool.samples(prompts, 1, 1.0, "gate divergence", key)]
        rows = _rows(prompts, plain)
        gap = _distance([one.logprobs for one in plain], agent.learner.token_logprobs(rows))
        try:
            first = self._sample_with(agent, initial, sample)
            before = [sum(tokens) for tokens in pool.logprobs(rows)]
            theirs = first if live is None else self._sample_with(agent, live, sample)
            engine_gap, engine_fault = self._engine_gap(prompts, [row[0] for row in theirs], version)
        finally:
            agent.publish()
        rate, low = self._win_rate(agent, prompts, mine, theirs, key)
        return Figures(
            prompts=len(prompts),
            users=users,
            win_rate=rate,
            win_low=low,
            judge_win_rate=self._judged(prompts, mine, theirs),
            kl=float(np.mean([sum(one.logprobs) - base for one, base in zip(plain, before, strict=True)])),
            length=_length(mine) / max(_length(first), 1e-9),
            distinct=_distinct(mine) / max(_distinct(first), 1e-9),
            gap=gap,
            engine_gap=engine_gap,
            engine_fault=engine_fault,
        )

    def _sample_with(self, agent: Agent, directory: Path, sample: Callable[[], Samples]) -> Samples:
        tensors = load_file(directory / FILE)
        update = WeightUpdate(agent.rounds, tensors, checksum(tensors))
        agent.samplers.load_weights(update, update.checksum)
        return sample()

    def _engine_gap(
        self, prompts: Sequence[Prompt], served: Sequence[Response], version: int
    ) -> tuple[float | None, str | None]:
        """How far the engines are from a sampler that holds the weights which they should serve, or why nobody knows;
        neither without engines."""
        if self._score is None:
            return None, None
        try:
            scored = self._score(_rows(prompts, served), version)
        except NotScored as error:
            return None, str(error)
        return _distance([one.logprobs for one in served], scored), None

    def _win_rate(
        self, agent: Agent, prompts: Sequence[Prompt], mine: Samples, theirs: Samples, key: str
    ) -> tuple[float, float]:
        """Win rate and its lower bound; 0 before the posterior has a label."""
        both = [*mine, *theirs]
        pairs = [(prompt, one) for prompt, row in zip([*prompts, *prompts], both, strict=True) for one in row]
        rewards_S_X = agent.selector.call("rewards", pairs, f"gate {key}", _DRAWS).result()
        if rewards_S_X is None:
            return 0.0, 0.0
        mine_S_P_K, theirs_S_P_K = rewards_S_X.unflatten(1, (2, len(prompts), _SAMPLES)).unbind(1)
        wins_S_P = torch.sigmoid(mine_S_P_K[..., :, None] - theirs_S_P_K[..., None, :]).mean((2, 3))
        return win_rate(wins_S_P, generator_for(self._seed, "gate", key))

    def _judged(self, prompts: Sequence[Prompt], mine: Samples, theirs: Samples) -> float | None:
        """Mean probability that the judge prefers the first sample; which is shown first is drawn by prompt."""
        if self._judge is None or not self._judge.evaluates:
            return None
        wins, asked, swapped = [], [], []
        for prompt, (ours, *_), (other, *_) in zip(prompts, mine, theirs, strict=True):
            if ours.text == other.text:
                wins.append(0.5)
                continue
            swapped.append(generator_for(self._seed, "gate sides", prompt.id).random() < 0.5)
            first, second = (other, ours) if swapped[-1] else (ours, other)
            asked.append(question(id_for("gate", first.id, second.id), prompt, first.text, second.text))
        for turned, probability in zip(swapped, self._judge.evaluate(asked), strict=True):
            wins.append(1.0 - probability if turned else probability)
        return float(np.mean(wins))


def _rows(prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[TokenRow]:
    return [(prompt.token_ids, one.token_ids) for prompt, one in zip(prompts, responses, strict=True)]


def _distance(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Mean absolute difference per token."""
    pairs = zip(some, others, strict=True)
    return float(np.mean([abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)]))


def _length(samples: Samples) -> float:
    return float(np.mean([len(one.token_ids) for row in samples for one in row]))


def _distinct(samples: Samples) -> float:
    return float(np.mean([(len({one.text for one in row}) - 1) / (len(row) - 1) for row in samples]))
