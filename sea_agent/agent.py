"""The loop: sample, select, ask, learn, publish, until the budget of oracle answers is spent."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from actors.learners import LearnerGroup
from actors.runtime import Remote
from actors.samplers import SamplerPool
from sea_agent.bandit.mixing import imagined_rounds
from sea_agent.config import RunConfig
from sea_agent.errors import RunFailure
from sea_agent.loop.candidates import Draw, Source
from sea_agent.loop.evaluation import Evaluator
from sea_agent.loop.open_duels import OpenDuels
from sea_agent.loop.relived import as_of_now
from sea_agent.loop.stopwatch import Stopwatch
from sea_agent.persistence.ledger import Ledger
from sea_agent.persistence.rounds import Evaluation, RoundMetrics
from sea_agent.saved_state import require
from sea_agent.types import (
    REFERENCE_VERSION,
    Candidates,
    Duel,
    LabelSource,
    Preference,
    Response,
    Verdict,
    preference_from,
)

Measured = dict[str, Any]
"""Fields of ``RoundMetrics`` by name."""

_MAX_SILENT_ROUNDS = 20
_COMPARED = 8  # responses whose log-probabilities are compared after a publish
_COUNTERS = (
    *("begun", "rounds", "imagined_pairs", "policy_samples", "gradient_steps", "imagined_rounds_due", "silent_rounds"),
    "relived_rounds",  # with the answers to duels that other weights sampled, in an earlier life of the run
)


class Agent:
    """An online active alignment run over parts that may live anywhere."""

    def __init__(
        self,
        config: RunConfig,
        *,
        source: Source,
        samplers: SamplerPool,
        selector: Remote,
        open_duels: OpenDuels,
        learner: LearnerGroup,
        evaluator: Evaluator,
        ledger: Ledger,
        stopwatch: Stopwatch,
    ) -> None:
        self.config = config
        self.source, self.samplers, self.selector, self.open_duels = source, samplers, selector, open_duels
        self.learner, self.evaluator, self.ledger, self.stopwatch = learner, evaluator, ledger, stopwatch
        self.begun = False
        self.rounds = self.imagined_pairs = self.policy_samples = self.gradient_steps = 0
        self.imagined_rounds_due = self.silent_rounds = self.relived_rounds = 0
        self.divergence = 0.0  # from the initial policy, in nats per response, as last measured
        self.published = ""  # the checksum of the weights that the samplers have

    def run(self, after_round: Callable[[RoundMetrics], None]) -> None:
        """Spend the budget; the row of every round goes to ``after_round``."""
        if not self.begun:
            self.begun = True
            self.published = self.learner.checksum()
            self.evaluator.fix_reference()
            after_round(self._row({}, evaluate=True))
        while self.imagined_rounds_due or self.ledger.oracle_queries < self.config.budget.limit:
            metrics = self.imagine() if self.imagined_rounds_due else self.round()
            after_round(self._row(metrics, evaluate=not self.imagined_rounds_due and self._evaluation_is_due()))

    def round(self) -> Measured:
        """A round that asks the oracle; returns its metrics."""
        self.rounds += 1
        number, config, stage = self.rounds, self.config, self.stopwatch
        asked = self.ledger.oracle_queries
        left = config.budget.limit - asked
        draw = self._draw(asks=True)
        with stage("select"):
            room = left - len(self.open_duels)
            duels = self.ledger.add_duels(self._select(draw, asked, room), number, self.published)
        with stage("ask"):
            answers = self.open_duels.ask(duels, number, left)
        with stage("label"):
            answers += self._label([duel for duel in duels if duel.label_source is LabelSource.POSTERIOR])
        oldest = self._oldest()
        preferences = self._preferences(answers, duels, draw.explored, oldest)
        # Users answer when they like: a whole step on few answers would follow their noise.
        rate = 1.0 if draw.chosen is None else min(1.0, len(preferences) / config.batch_size)
        metrics = self._learn(preferences, rate, oldest=oldest)
        with stage("update"):
            found, hindsight = self.selector.call("update", answers, number).result()
            self.ledger.add_hindsight(hindsight)
        if room > 0 and draw.chosen is None:
            self._refuse_silence(len(duels))
        if all(duel.rule == "passive" for duel in duels):  # pairs that were chosen diverge further than most
            self.divergence = metrics.get("kl", self.divergence)
        trust = 0.0 if self._is_far else found.get("posterior_trust", 1.0)
        self.imagined_rounds_due = imagined_rounds(config.imagination, self.ledger.oracle_queries, trust)
        return metrics | found | self._spent(draw)

    def imagine(self) -> Measured:
        """A round whose pairs are chosen and labelled by the posterior alone; returns its metrics."""
        self.rounds += 1
        self.imagined_rounds_due -= 1
        draw = self._draw(asks=False)
        with self.stopwatch("imagine"):
            preferences, trust = self.selector.call("imagine", draw.candidates, self.rounds).result()
        self.imagined_pairs += len(preferences)
        metrics = self._learn(preferences, trust, self.config.imagination.batches)
        self.divergence = metrics.get("kl", self.divergence)
        if self._is_far:
            self.imagined_rounds_due = 0
        return metrics | self._spent(draw)

    def state(self) -> dict[str, Any]:
        """Everything that a later agent needs to go on from the end of this round, as tensors and plain values."""
        return {
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "divergence": self.divergence,
            "source": self.source.state(),
            "learner": self.learner.state(),
            "selector": self.selector.call("state").result(),
            "evaluator": self.evaluator.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; the duels that were open then are open again.

        Raises:
            UserError: when it belongs to other prompts.
            UnfitState: when it belongs to another policy or another posterior, or is no such state.
        """
        parts = dict.fromkeys(("source", "learner", "selector", "evaluator"), dict)
        require(state, {"counters": dict.fromkeys(_COUNTERS, int), "divergence": float, **parts}, "agent")
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])
        self.divergence = state["divergence"]
        self.source.load_state(state["source"])
        self.learner.load_state(state["learner"])
        self.selector.call("load_state", state["selector"]).result()
        self.evaluator.load_state(state["evaluator"])
        self.publish()
        self.open_duels.restore(self.ledger.rewind(self.rounds))

    def revive(self) -> None:
        """Replace the parts whose processes have died; ``load_state`` must follow."""
        self.learner.revive()
        if self.selector.is_dead():
            self.selector.restart()
        self.source.revive()

    @property
    def _is_far(self) -> bool:
        """Whether the policy has used up its divergence, so that the run goes on as passive online DPO."""
        return self.divergence > (self.config.imagination.max_kl or math.inf)

    def _draw(self, *, asks: bool) -> Draw:
        with self.stopwatch("sample"):
            draw = self.source.draw(self.rounds, asks=asks)
            self.source.sample_ahead(self.rounds, self._coming(asks=asks))
        return draw

    def _coming(self, *, asks: bool) -> Iterator[bool]:
        """Whether each round after one that ``asks`` or not will ask, if every duel is answered."""
        queries, due = self.ledger.oracle_queries, self.imagined_rounds_due
        while True:
            if asks:
                queries += self.config.batch_size
                due = imagined_rounds(self.config.imagination, queries)
            asks = due == 0
            due -= not asks
            if asks and queries >= self.config.budget.limit:
                return
            yield asks

    def _select(self, draw: Draw, asked: int, room: int) -> list[Duel]:
        """The round's duels; those that were chosen where they were served are taken as they are."""
        if draw.chosen is not None:
            if draw.candidates:
                self.selector.call("begin", draw.candidates).result()
            return draw.chosen[: max(room, 0)]
        implicit = self._implicit_rewards(draw.candidates)
        given = (draw.candidates, self.rounds, asked, room, implicit, self._is_far)
        duels: list[Duel] = self.selector.call("select", *given).result()
        return duels

    def _implicit_rewards(self, candidates: list[Candidates]) -> dict[str, float] | None:
        """β (log π(y|x) − log π_ref(y|x)) by response id, for the rule that looks at it."""
        if self.config.selection.rule != "apl":
            return None
        rows = {one.id: (group.prompt.token_ids, one.token_ids) for group in candidates for one in group.responses}
        ratios = self.learner.log_ratios(list(rows.values()))
        assert ratios is not None  # such a configuration has a loss with a reference
        return {id_: self.config.learner.beta * ratio for id_, ratio in zip(rows, ratios, strict=True)}

    def _label(self, duels: list[Duel]) -> list[tuple[Duel, Verdict]]:
        """The posterior's own verdicts on the duels that the oracle is not asked about."""
        labels = self.ledger.recorded(duels, self.rounds)
        if not labels:
            labels = self.selector.call("label", duels, self.rounds).result()
            self.ledger.add_verdicts(duels, labels, self.rounds)
        return list(zip(duels, labels, strict=True))

    def _oldest(self) -> int:
        """The first round whose answers the policy may still learn from. Imagined rounds make an answer no older."""
        return self.ledger.asking_round(self.rounds, self.config.learner.max_staleness - self.config.sampler.ahead)

    def _preferences(
        self, answers: list[tuple[Duel, Verdict]], duels: list[Duel], explored: Mapping[str, Response], oldest: int
    ) -> list[Preference]:
        """What the answers say, each with the explored response to its prompt: first those to earlier duels, then those
        to the round's ``duels`` in their order; without those to duels before round ``oldest``."""
        place = {duel.id: index for index, duel in enumerate(duels)}
        now = {duel.id: duel for duel in self._as_of_now(duels)}
        answered = [(now.get(duel.id, duel), verdict) for duel, verdict in answers]
        answered.sort(key=lambda one: place.get(one[0].id, -1))
        found = (preference_from(duel, verdict) for duel, verdict in answered if self._is_recent(duel, oldest))
        return [replace(one, explored=explored.get(one.prompt.id)) for one in found if one is not None]

    def _is_recent(self, duel: Duel, oldest: int) -> bool:
        """Whether round ``oldest`` or a later one asked about the duel. A live duel may be older than the round that
        learns of it: it is as recent as its responses. Elsewhere the learner refuses responses that are too old."""
        if not self.config.is_live:
            return duel.round >= oldest
        versions = {duel.first.policy_version, duel.second.policy_version} - {REFERENCE_VERSION}
        return duel.round >= oldest and min(versions, default=oldest) >= oldest - 1

    def _as_of_now(self, duels: list[Duel]) -> list[Duel]:
        """The round's duels; older where other weights sampled them, in a life of the run that computed otherwise."""
        if self.config.is_live or not duels or self.ledger.weights_behind(duels[0].round) == self.published:
            return duels
        self.relived_rounds += 1
        tolerance = self.config.learner.largest_gap(self.config.policy.dtype)
        return as_of_now(duels, self.rounds, self.samplers.logprobs, tolerance=tolerance)

    def _learn(
        self, preferences: list[Preference], rate: float = 1.0, batches: int = 1, oldest: int | None = None
    ) -> Measured:
        self.gradient_steps += batches * self.config.learner.steps_per_round
        oldest_version = None if oldest is None else oldest - 1 - self.config.sampler.ahead  # behind round ``oldest``
        with self.stopwatch("learn"):
            metrics = self.learner.step(preferences, rate, batches, oldest_version)
        with self.stopwatch("publish"):
            self.publish()
            if self.config.sampler.ahead and preferences:  # no response that was learnt from is of a present version
                rows = [(one.prompt.token_ids, one.chosen.token_ids) for one in preferences[:_COMPARED]]
                metrics["logprob_gap"] = self.learner.logprob_gap(rows, self.samplers.logprobs(rows))
        return metrics

    def publish(self) -> None:
        """Give the samplers the learner's weights."""
        update, self.published = self.learner.weights()
        self.samplers.load_weights(update, self.published)

    def _spent(self, draw: Draw) -> Measured:
        self.policy_samples += draw.sampled
        distinct = sum(len(group.responses) for group in draw.candidates)
        return {"distinct_candidates": distinct / (len(draw.candidates) * draw.per_prompt)} if draw.candidates else {}

    def _row(self, metrics: Measured, *, evaluate: bool) -> RoundMetrics:
        evaluation = Evaluation()
        if evaluate:
            with self.stopwatch("evaluate"):
                evaluation = self.evaluator.evaluate(self.ledger.oracle_queries)
        return RoundMetrics(
            round=self.rounds,
            oracle_queries=self.ledger.oracle_queries,
            open_duels=len(self.open_duels),
            posterior_labels=self.ledger.posterior_labels,
            imagined_pairs=self.imagined_pairs,
            policy_samples=self.policy_samples,
            gradient_steps=self.gradient_steps,
            oracle=self.open_duels.oracle_counts(),
            **metrics,
            evaluation=evaluation,
            seconds=self.stopwatch.take(),
        )

    def _evaluation_is_due(self) -> bool:
        return self.evaluator.is_due(self.ledger.oracle_queries, self.config.budget.limit)

    def _refuse_silence(self, duels: int) -> None:
        self.silent_rounds = 0 if duels else self.silent_rounds + 1
        if self.silent_rounds == _MAX_SILENT_ROUNDS:
            raise RunFailure(
                f"the policy gave only equal responses to every prompt for {_MAX_SILENT_ROUNDS} rounds, so there is "
                "nothing to ask. Begin a new run with a higher sampler.temperature or a lower learner.learning_rate."
            )
