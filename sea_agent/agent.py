"""The loop: sample, select, ask, learn, publish, until the budget of oracle answers is spent."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from actors.pool import LearnerGroup, SamplerPool
from actors.runtime import Remote
from oracle import Oracle
from sea_agent.bandit.mixing import imagined_rounds
from sea_agent.candidates import CandidateSource, Draw
from sea_agent.config import RunConfig
from sea_agent.errors import RunFailure
from sea_agent.evaluation import Evaluator
from sea_agent.ledger import Ledger
from sea_agent.stages import Stages
from sea_agent.types import Candidates, Duel, LabelSource, Preference, Response, Verdict, preference_from

Record = dict[str, Any]
_MAX_SILENT_ROUNDS = 20


class Agent:
    """An online active alignment run over parts that may live anywhere."""

    def __init__(
        self,
        config: RunConfig,
        *,
        source: CandidateSource,
        samplers: SamplerPool,
        selector: Remote,
        oracle: Oracle,
        learner: LearnerGroup,
        evaluator: Evaluator,
        ledger: Ledger,
        stages: Stages,
    ) -> None:
        self.config = config
        self.source, self.samplers, self.selector, self.oracle = source, samplers, selector, oracle
        self.learner, self.evaluator, self.ledger, self.stages = learner, evaluator, ledger, stages
        self.rounds = 0
        self._silent_rounds = 0
        self._policy_samples = 0
        self.imagined_pairs = 0

    def run(self, on_round: Callable[[Record], None]) -> None:
        """Spend the budget; every round's record goes to ``on_round``."""
        self.evaluator.fix_reference()
        on_round(self._record({}, evaluate=True))
        while self.ledger.oracle_queries < self.config.budget.oracle_queries:
            metrics = self.round()
            for _ in range(imagined_rounds(self.config.imagination, self.ledger.oracle_queries)):
                on_round(self._record(metrics, evaluate=False))
                metrics = self.imagine()
            on_round(self._record(metrics, evaluate=self._evaluation_is_due()))

    def round(self) -> Record:
        """A round that asks the oracle; returns its metrics."""
        self.rounds += 1
        number, config, stage = self.rounds, self.config, self.stages
        asked = self.ledger.oracle_queries
        draw = self._draw(asks=True)
        with stage("select"):
            left, implicit = config.budget.oracle_queries - asked, self._implicit_rewards(draw.candidates)
            duels: list[Duel] = self.selector.call("select", draw.candidates, number, asked, left, implicit).result()
            self.ledger.add_duels(duels)
        with stage("ask"):
            verdicts = self.oracle.ask([duel for duel in duels if duel.label_source is LabelSource.ORACLE])
            self.ledger.add_verdicts(verdicts)
        with stage("label"):
            labels: list[Verdict] = self.selector.call("label", duels, number).result()
            self.ledger.add_verdicts(labels)
        metrics = self._learn(_preferences(duels, verdicts + labels, draw.explored))
        with stage("update"):
            metrics |= self.selector.call("update", duels, verdicts, number).result()
        self._refuse_silence(len(duels))
        return metrics | self._spent(draw)

    def imagine(self) -> Record:
        """A round whose pairs are chosen and labelled by the posterior alone; returns its metrics."""
        self.rounds += 1
        draw = self._draw(asks=False)
        with self.stages("imagine"):
            preferences: list[Preference] = self.selector.call("imagine", draw.candidates, self.rounds).result()
        self.imagined_pairs += len(preferences)
        return self._learn(preferences) | self._spent(draw)

    def _draw(self, *, asks: bool) -> Draw:
        with self.stages("sample"):
            return self.source.draw(self.rounds, asks=asks)

    def _implicit_rewards(self, candidates: list[Candidates]) -> dict[str, float] | None:
        """β (log π(y|x) − log π_ref(y|x)) by response id, for the rule that looks at it."""
        if self.config.selection.rule != "apl":
            return None
        rows = {one.id: (group.prompt.token_ids, one.token_ids) for group in candidates for one in group.responses}
        ratios = self.learner.log_ratios(list(rows.values()))
        assert ratios is not None  # such a configuration has a loss with a reference
        return {id_: self.config.learner.beta * ratio for id_, ratio in zip(rows, ratios, strict=True)}

    def _learn(self, preferences: list[Preference]) -> Record:
        with self.stages("learn"):
            metrics = self.learner.step(preferences)
        with self.stages("publish"):
            self.samplers.load_weights(*self.learner.weights())
        return metrics

    def _spent(self, draw: Draw) -> Record:
        self._policy_samples += draw.sampled
        distinct = sum(len(group.responses) for group in draw.candidates)
        return {"distinct_candidates": distinct / (len(draw.candidates) * draw.per_prompt)}

    def _record(self, metrics: Record, *, evaluate: bool) -> Record:
        counts = {
            "round": self.rounds,
            "oracle_queries": self.ledger.oracle_queries,
            "posterior_labels": self.ledger.posterior_labels,
            "imagined_pairs": self.imagined_pairs,
            "policy_samples": self._policy_samples,
            "gradient_steps": self.rounds * self.config.learner.steps_per_round,
        }
        if evaluate:
            with self.stages("evaluate"):
                metrics |= self.evaluator.evaluate(self.ledger.oracle_queries)
        return counts | metrics | {"seconds": self.stages.take()}

    def _evaluation_is_due(self) -> bool:
        return self.evaluator.is_due(self.ledger.oracle_queries, self.config.budget.oracle_queries)

    def _refuse_silence(self, duels: int) -> None:
        self._silent_rounds = 0 if duels else self._silent_rounds + 1
        if self._silent_rounds == _MAX_SILENT_ROUNDS:
            raise RunFailure(
                f"the policy gave only equal responses to every prompt for {_MAX_SILENT_ROUNDS} rounds, so there is "
                "nothing to ask. Raise sampler.temperature, or lower learner.learning_rate."
            )


def _preferences(duels: list[Duel], verdicts: list[Verdict], explored: Mapping[str, Response]) -> list[Preference]:
    """What the verdicts say, in the order of the duels, each with the explored response to its prompt."""
    answers = {verdict.duel_id: verdict for verdict in verdicts}
    found = (preference_from(duel, answers[duel.id]) for duel in duels if duel.id in answers)
    return [replace(one, explored=explored.get(one.prompt.id)) for one in found if one is not None]
