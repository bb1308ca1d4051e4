"""The loop: sample, select, ask, learn, publish, until the budget of oracle answers is spent."""

from collections.abc import Callable
from typing import Any

from actors.pool import LearnerGroup, SamplerPool
from actors.runtime import Remote
from oracle import Oracle
from sea_agent.bandit.mixing import imagined_rounds
from sea_agent.config import RunConfig
from sea_agent.errors import RunFailure
from sea_agent.evaluation import Evaluator
from sea_agent.ledger import Ledger
from sea_agent.prompts import PromptSource
from sea_agent.stages import Stages
from sea_agent.types import Candidates, Duel, LabelSource, Preference, Verdict, preference_from

Record = dict[str, Any]
_MAX_SILENT_ROUNDS = 20


class Agent:
    """An online active alignment run over parts that may live anywhere."""

    def __init__(
        self,
        config: RunConfig,
        *,
        prompts: PromptSource,
        samplers: SamplerPool,
        selector: Remote,
        oracle: Oracle,
        learner: LearnerGroup,
        evaluator: Evaluator,
        ledger: Ledger,
        stages: Stages,
    ) -> None:
        self.config = config
        self.prompts, self.samplers, self.selector, self.oracle = prompts, samplers, selector, oracle
        self.learner, self.evaluator, self.ledger, self.stages = learner, evaluator, ledger, stages
        self.rounds = 0
        self._silent_rounds = 0
        self._policy_samples = 0

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
        candidates = self._candidates()
        with stage("select"):
            left = config.budget.oracle_queries - asked
            duels: list[Duel] = self.selector.call("select", candidates, number, asked, left).result()
            self.ledger.add_duels(duels)
        with stage("ask"):
            verdicts = self.oracle.ask([duel for duel in duels if duel.label_source is LabelSource.ORACLE])
            self.ledger.add_verdicts(verdicts)
        with stage("label"):
            labels: list[Verdict] = self.selector.call("label", duels, number).result()
            self.ledger.add_verdicts(labels)
        metrics = self._learn(duels, verdicts + labels)
        with stage("update"):
            metrics |= self.selector.call("update", duels, verdicts, number).result()
        self._refuse_silence(len(duels))
        return metrics | self._spent(candidates)

    def imagine(self) -> Record:
        """A round whose pairs are chosen and labelled by the posterior alone; returns its metrics."""
        self.rounds += 1
        candidates = self._candidates()
        with self.stages("select"):
            duels, labels = self.selector.call("imagine", candidates, self.rounds).result()
            self.ledger.add_duels(duels)
            self.ledger.add_verdicts(labels)
        return self._learn(duels, labels) | self._spent(candidates)

    def _candidates(self) -> list[Candidates]:
        sampler = self.config.sampler
        with self.stages("sample"):
            prompts = self.prompts.next(min(self.config.batch_size, len(self.prompts)))
            return self.samplers.candidates(prompts, sampler.candidates, sampler.temperature, "round", self.rounds)

    def _learn(self, duels: list[Duel], verdicts: list[Verdict]) -> Record:
        with self.stages("learn"):
            metrics = self.learner.step(_preferences(duels, verdicts))
        with self.stages("publish"):
            self.samplers.load_weights(*self.learner.weights())
        return metrics

    def _spent(self, candidates: list[Candidates]) -> Record:
        sampled = len(candidates) * self.config.sampler.candidates
        distinct = sum(len(group.responses) for group in candidates)
        self._policy_samples += sampled
        return {"distinct_candidates": distinct / sampled}

    def _record(self, metrics: Record, *, evaluate: bool) -> Record:
        counts = {
            "round": self.rounds,
            "oracle_queries": self.ledger.oracle_queries,
            "posterior_labels": self.ledger.posterior_labels,
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


def _preferences(duels: list[Duel], verdicts: list[Verdict]) -> list[Preference]:
    """What the verdicts say, in the order of the duels."""
    answers = {verdict.duel_id: verdict for verdict in verdicts}
    found = (preference_from(duel, answers[duel.id]) for duel in duels if duel.id in answers)
    return [preference for preference in found if preference is not None]
