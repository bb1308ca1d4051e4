"""Policies of the lexicon world that are better or worse than its own, and a posterior that has learnt true labels."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from live.live_world import prompts
from run_parts import learner_group, sampler_pool, selector

from actors.runtime import InlineRuntime
from oracle.base import bradley_terry
from sea_agent.config import RunConfig
from sea_agent.config.files import parse_config
from sea_agent.seeding import generator_for
from sea_agent.types import Candidates, Duel, LabelSource, Outcome, Preference, Prompt, Response, Verdict
from sea_agent.worlds import scorer

Score = Callable[[Prompt, Response], float]
_REWARD = scorer("lexicon", "reward")
STEPS, PAIRS = 24, 32


def reward(prompt: Prompt, response: Response) -> float:
    return _REWARD(prompt.text, response.text)


def config() -> RunConfig:
    tree = {
        "batch_size": 16,
        "policy": {"path": "world://lexicon/policy"},
        "prompts": {"path": "world://lexicon/prompts.jsonl"},
        "sampler": {"max_new_tokens": 14, "chunk": 320},
        "posterior": {"family": "laplace", "features": "text", "members": 20},
        "oracle": {"kind": "world"},
        "learner": {"learning_rate": 5e-4, "beta": 0.3, "micro_batch": 128},
        "budget": {"oracle_queries": 1},
    }
    return parse_config(tree, where="test")


class _Answers:
    """As much of a ledger as is asked for."""

    oracle_queries = 160

    def annotators(self) -> int:
        return 7


class Maker:
    """The parts of an agent whose weights can be made to be anything."""

    def __init__(self) -> None:
        self.config, runtime = config(), InlineRuntime()
        self.samplers, self.rounds, self.ledger = sampler_pool(runtime, self.config), 1, _Answers()
        self.learner = learner_group(runtime, self.config, total_steps=1000)
        self.selector = runtime.spawn("posterior", partial(selector, self.config))
        self.initial = self.learner.state()
        self.published = self.learner.checksum()
        self.pool = self.samplers.candidates(prompts().first(160), 10, 0.7, "pool")
        self._fit()

    def publish(self) -> None:
        update, self.published = self.learner.weights()
        self.samplers.load_weights(update, self.published)

    def reset(self) -> None:
        """Back to the initial policy."""
        self.learner.load_state(self.initial)
        self.publish()

    def learn(self, score: Score, seed: int) -> None:
        """From pairs of the initial policy's own samples, ordered by ``score``."""
        draw = generator_for("learn", seed)
        for number in range(STEPS):
            found = []
            for place in draw.integers(len(self.pool), size=PAIRS).tolist():
                group = self.pool[place]
                ordered = sorted(group.responses, key=partial(score, group.prompt))
                found.append(
                    Preference(f"{number}-{len(found)}", group.prompt, ordered[-1], ordered[0], LabelSource.ORACLE)
                )
            self.learner.step(found, 1.0, 1, 0)
        self.publish()

    def disturb(self, change: Callable[[torch.nn.Module], None]) -> None:
        """Change the learner's weights by hand."""
        learner: Any = self.learner
        with torch.no_grad():
            change(learner._ranks[0]._target._model)
        self.publish()

    def true_win_rate(self, among: Sequence[Prompt]) -> float:
        """Of the present weights against the initial policy, by the hidden reward."""
        mine = self.samplers.samples(among, 4, 0.7, "true")
        key = self.published
        state = self.learner.state()
        self.reset()
        theirs = self.samplers.samples(among, 4, 0.7, "true", key)
        self.learner.load_state(state)
        self.publish()
        rates = [
            bradley_terry(reward(prompt, one), reward(prompt, other))
            for prompt, row, others in zip(among, mine, theirs, strict=True)
            for one in row
            for other in others
        ]
        return math.fsum(rates) / len(rates)

    def _fit(self) -> None:
        """Ten rounds of thirty answers by the hidden reward, about pairs of the initial policy."""
        self.selector.call("begin", self.pool[:16]).result()
        contested = [group for group in self.pool if len(group.responses) > 3]
        for number in range(10):
            groups = contested[number * 15 : number * 15 + 15]
            answers = [_answered(group, place, number) for group in groups for place in (0, 2)]
            self.selector.call("update", answers, number).result()


def _answered(group: Candidates, place: int, number: int) -> tuple[Duel, Verdict]:
    first, second = group.responses[place : place + 2]
    name = f"{group.prompt.id}-{place}"
    duel = Duel(name, number, group.prompt, first, second, "passive", 0, 0, LabelSource.ORACLE)
    chance = bradley_terry(reward(group.prompt, first), reward(group.prompt, second))
    wins = generator_for("answer", duel.id).random() < chance
    return duel, Verdict(duel.id, Outcome.FIRST if wins else Outcome.SECOND, "ann", 0.0)


def better(maker: Maker, seed: int) -> None:
    maker.learn(reward, seed)


def noisy(maker: Maker, seed: int) -> None:
    """Noise on every weight."""
    generator = torch.Generator().manual_seed(seed)

    def add(model: torch.nn.Module) -> None:
        for parameter in model.parameters():
            parameter += 0.5 * parameter.std() * torch.randn(parameter.shape, generator=generator)

    maker.disturb(add)


def collapsed(maker: Maker, seed: int) -> None:
    """One response to each prompt, whatever the temperature, which need not be a bad one."""
    maker.disturb(lambda model: model.get_parameter("model.norm.weight").mul_(20.0 + seed))


def reversed_labels(maker: Maker, seed: int) -> None:
    maker.learn(lambda prompt, one: -reward(prompt, one), seed)


def very_long(maker: Maker, seed: int) -> None:
    maker.learn(lambda prompt, one: len(one.token_ids) + 0.01 * len(one.text), seed)


WORSE = {one.__name__: one for one in (noisy, collapsed, reversed_labels, very_long)}
