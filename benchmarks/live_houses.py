"""The two ways in which live mode gets better with answers: choosing among samples, and training the policy.

Dimension legend: P prompts, M responses of a prompt, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from actors.hf_sampler import HfSampler
from actors.sampling import SampleRequest
from benchmarks.selection import Responses, respond
from learner.learner import PreferenceLearner
from sea_agent.config import Compute, LearnerConfig, MixingConfig, PolicyConfig, PosteriorConfig, SelectionConfig
from sea_agent.features import Features
from sea_agent.features.base import Pair, Standardised
from sea_agent.features.prior import PriorScore
from sea_agent.features.text import TextFeatures
from sea_agent.loop.deciding import live_trust
from sea_agent.loop.selector import Selector
from sea_agent.pretrained import load_tokenizer
from sea_agent.seeding import generator_for, id_for, seed_for
from sea_agent.types import Candidates, Duel, Prompt, Response, Verdict, preference_from
from sea_agent.worlds import resolve, scorer

CANDIDATES = 8
DAYS = 10
RATE = 3000 / (DAYS * 86_400)
"""Requests a second."""
IMAGINED, BATCHES = 4, 2
"""Imagined rounds after each round of answers, and steps of each."""
_PROMPTS = 16  # of an imagined round
_TEMPERATURE, _TOKENS = 0.7, 14
_FEATURE_BATCH = 64


@dataclass(frozen=True)
class Request:
    """Somebody asks about a prompt; ``at`` in seconds since the beginning."""

    number: int
    at: float
    user: int
    row: int


@dataclass(frozen=True)
class Offer:
    """The responses to a request."""

    responses: list[Response]
    rewards: list[float]
    """The hidden reward of each."""
    alone: int
    """What is shown where nobody is asked."""
    shown: int | None
    """What is streamed before the pair is chosen."""
    best: float
    """The hidden reward of the best of ``CANDIDATES`` responses of the initial policy."""


class House(Protocol):
    """What answers, and learns."""

    prompts: int
    selector: Selector | None
    """None before the first answers."""

    def prompt(self, request: Request) -> Prompt:
        """What is asked in a request."""

    def offers(self, block: Sequence[Request]) -> list[Offer]:
        """The responses to each request."""

    def learn(self, answers: Sequence[tuple[Duel, Verdict]], number: int) -> None:
        """A round of learning."""


class Kept(Standardised):
    """Features of responses that were made before, by the ids of ``initial``."""

    def __init__(self, world: Responses) -> None:
        super().__init__(world.blocks)
        self._features_P_M_D = world.features_P_M_D

    def features(self, pairs: Sequence[Pair]) -> Tensor:
        """They have their scale already."""
        return self._raw(pairs)

    def _raw(self, pairs: Sequence[Pair]) -> Tensor:
        rows, places = zip(*(map(int, response.id.split("-")) for _, response in pairs), strict=True)
        return self._features_P_M_D[list(rows), list(places)]


def make_selector(features: Features, seed: int, prior: tuple[str, ...] = ()) -> Selector:
    """The posterior of the preset ``sea``."""
    return Selector(
        SelectionConfig(rule="sea_ee"),
        PosteriorConfig(family="laplace", features="text", prior=prior),
        MixingConfig(),
        Compute(seed),
        batch_size=_PROMPTS,
        make_features=lambda: features,
    )


def places_of(request: Request, responses: int, seed: int) -> list[int]:
    """Which responses of the initial policy a request gets."""
    generator = generator_for("live", seed, "candidates", request.number)
    return [int(place) for place in generator.choice(responses, CANDIDATES, replace=False)]


class Fixed:
    """The initial policy; who is not asked is shown the best of its samples under the posterior's mean.

    Args:
        prior: scores that the posterior starts from.
    """

    def __init__(self, world: str, seed: int, prior: tuple[str, ...]) -> None:
        self._world, self._seed, self._prior = respond(world), seed, prior
        self.prompts = len(self._world.texts)
        self.selector: Selector | None = None
        self._seen: list[tuple[Prompt, list[Response]]] = []  # of the last block

    def prompt(self, request: Request) -> Prompt:
        return Prompt(f"prompt-{request.row}", self._world.texts[request.row][0], (0,))

    def offers(self, block: Sequence[Request]) -> list[Offer]:
        groups = [self._responses(request) for request in block]
        self._seen = [(self.prompt(request), group) for request, group in zip(block, groups, strict=True)]
        alone = [0] * len(block)
        if self.selector is not None and live_trust(self.selector) > 0.0:
            found = [Candidates.distinct(*one) for one in self._seen]
            alone = [group.index(best) for group, best in zip(groups, self.selector.best(found), strict=True)]
        rewards = [[self._reward(response) for response in group] for group in groups]
        return [
            Offer(group, values, place, None, max(values))
            for group, values, place in zip(groups, rewards, alone, strict=True)
        ]

    def learn(self, answers: Sequence[tuple[Duel, Verdict]], number: int) -> None:
        if self.selector is None:
            features = Features([Kept(self._world), *map(PriorScore, self._prior)])
            self.selector = make_selector(features, self._seed, self._prior)
            self.selector.begin([Candidates.distinct(*one) for one in self._seen])
        self.selector.update(answers, number)

    def _responses(self, request: Request) -> list[Response]:
        texts = self._world.texts[request.row][1]
        return [
            Response(f"{request.row}-{place}", f"prompt-{request.row}", texts[place], (0,), (), 0)
            for place in places_of(request, len(texts), self._seed)
        ]

    def _reward(self, response: Response) -> float:
        row, place = map(int, response.id.split("-"))
        return float(self._world.rewards_P_M[row, place])


class Trained:
    """The policy as it is trained; its first sample is shown."""

    def __init__(self, world: str, seed: int) -> None:
        self._world, self._seed, self._score = respond(world), seed, scorer(world, "reward")
        self.prompts = len(self._world.texts)
        self.selector: Selector | None = None
        path = resolve(f"world://{world}/policy")
        policy, tokenizer = PolicyConfig(path=path), load_tokenizer(path)
        self._prompts = [
            Prompt(id_for("prompt", text), text, tuple(tokenizer(text).input_ids)) for text, _ in self._world.texts
        ]
        self._sampler = HfSampler(policy, device="cpu")
        config = LearnerConfig(loss="dpo", beta=0.3, learning_rate=2e-3, micro_batch=128)
        self._learner = PreferenceLearner(policy, config, total_steps=1, seed=seed)
        self._features = Features([TextFeatures(policy, _FEATURE_BATCH, "cpu")])
        self._recent: list[Prompt] = []

    def prompt(self, request: Request) -> Prompt:
        return self._prompts[request.row]

    def offers(self, block: Sequence[Request]) -> list[Offer]:
        prompts = [self.prompt(request) for request in block]
        names = [f"request-{request.number}" for request in block]
        groups = self._sample(prompts, names)
        if not self._recent:  # the first responses set the scale of the features
            self.selector = make_selector(self._features, self._seed)
            self.selector.begin([Candidates.distinct(*one) for one in zip(prompts, groups, strict=True)])
        self._recent = prompts
        return [
            Offer(
                group,
                [self._score(prompt.text, response.text) for response in group],
                0,
                0,
                float(self._world.rewards_P_M[request.row, places_of(request, 40, self._seed)].max()),
            )
            for request, prompt, group in zip(block, prompts, groups, strict=True)
        ]

    def learn(self, answers: Sequence[tuple[Duel, Verdict]], number: int) -> None:
        assert self.selector is not None  # something was shown before it was answered
        learnt = [one for duel, verdict in answers if (one := preference_from(duel, verdict)) is not None]
        # With few answers a step of Adam at the full rate follows their noise, and the policy gets worse.
        self._learner.step(learnt, min(1.0, len(learnt) / _PROMPTS), oldest=0)
        self.selector.update(answers, number)
        chosen = generator_for("live", self._seed, "imagined", number)
        for turn in range(IMAGINED):
            self._publish()
            prompts = [self._recent[place] for place in chosen.choice(len(self._recent), _PROMPTS, replace=False)]
            groups = self._sample(prompts, [f"imagined-{number}-{turn}-{place}" for place in range(_PROMPTS)])
            found = [Candidates.distinct(*one) for one in zip(prompts, groups, strict=True)]
            preferences, trust = self.selector.imagine(found, number * IMAGINED + turn)
            if trust > 0.0:
                self._learner.step(preferences, trust, BATCHES)
        self._publish()

    def _publish(self) -> None:
        update = self._learner.weights()
        assert update is not None  # of rank 0
        self._sampler.load_weights(update)

    def _sample(self, prompts: Sequence[Prompt], names: Sequence[str]) -> list[list[Response]]:
        requests = [
            SampleRequest(f"{name}-{place}", prompt, seed_for(self._seed, name, place), _TEMPERATURE, _TOKENS)
            for name, prompt in zip(names, prompts, strict=True)
            for place in range(CANDIDATES)
        ]
        found = {response.id: response for response in self._sampler.sample(requests)}
        ordered = [found[request.id] for request in requests]
        return [ordered[start : start + CANDIDATES] for start in range(0, len(ordered), CANDIDATES)]
