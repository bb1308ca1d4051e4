"""The row of a round: what a run measures in each of its rounds, for ``metrics.jsonl``, trackers and every reader.

``metrics.jsonl`` holds a row a line, as one flat JSON object. What a round did not measure is not in its row.
"""

import json
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, ValidationError

from sea_agent.config.section import Section
from sea_agent.errors import UserError

Interval = tuple[float, float]
"""Lower and upper end of a 95 % bootstrap interval over prompts."""

_ORACLE = "oracle_"


class _Row(Section):
    model_config = ConfigDict(allow_inf_nan=True)  # a loss that diverges is told as it is


class Seconds(_Row):
    """What a stage of a round took."""

    wall: float
    """Wall seconds."""
    cpu: float
    """CPU seconds of all processes of the run."""


class Evaluation(_Row):
    """What an evaluation measured, against the initial policy on held-out prompts."""

    win_rate: float | None = None
    """Mean probability, by the training oracle, that the policy's response is preferred."""
    win_rate_ci: Interval | None = None
    """Its 95 % interval over prompts."""
    judge_win_rate: float | None = None
    """The same by the independent judge."""
    judge_win_rate_ci: Interval | None = None
    """Its 95 % interval over prompts."""
    best_of_win_rate: float | None = None
    """Win rate, by the training oracle, of the best of several responses as the reward posterior sees it."""
    best_of_win_rate_ci: Interval | None = None
    """Its 95 % interval over prompts."""
    best_of_judge_win_rate: float | None = None
    """The same by the independent judge."""
    best_of_judge_win_rate_ci: Interval | None = None
    """Its 95 % interval over prompts."""
    kl_to_reference: float | None = None
    """KL(policy ‖ initial policy) of a response, nats; null where the loss keeps no reference."""
    distinct_share: float | None = None
    """Share of prompts to which two samples differ."""
    response_tokens: float | None = None
    """Mean tokens of a response."""
    evaluation_queries: int | None = None
    """Questions asked for evaluation so far; none of them comes from the budget."""

    def measured(self) -> dict[str, Any]:
        """What was measured, by name, as JSON holds it."""
        return self.model_dump(mode="json", exclude_unset=True)


class RoundMetrics(_Row):
    """One row. Counts are those of the whole run so far; all else is of this round alone."""

    round: int
    """Number of the round; 0 is the evaluation before the first."""
    oracle_queries: int
    """Answers of the oracle: what the budget counts."""
    open_duels: int | None = None
    """Duels that wait for an answer."""
    posterior_labels: int | None = None
    """Duels that the reward posterior labelled."""
    imagined_pairs: int | None = None
    """Pairs that imagined rounds learnt from."""
    policy_samples: int | None = None
    """Responses sampled for training."""
    gradient_steps: int | None = None
    """Optimiser steps of the policy."""
    oracle: dict[str, int | float] = Field(default_factory=dict)
    """What the oracle counts beside its answers, such as the requests and the money of a judge."""
    pairs: float | None = None
    """Preferences that the round learnt from."""
    kl: float | None = None
    """Mean log π/π_ref of the policy's responses that the round learnt from, nats; the KL if those are all."""
    logprob_gap: float | None = None
    """Mean absolute difference between the log-probabilities of sampler and learner, nats per token."""
    learning_rate: float | None = None
    """Learning rate of the last optimiser step."""
    loss: float | None = None
    """Mean loss of the policy over the optimiser steps."""
    accuracy: float | None = None
    """Share of preferences with which the implicit rewards agree."""
    margin: float | None = None
    """Mean implicit reward of the preferred response above that of the rejected one."""
    grad_norm: float | None = None
    """Norm of the gradient before clipping."""
    posterior_loss: float | None = None
    """Mean Bradley–Terry loss of the labels under the reward posterior."""
    posterior_anchor_energy: float | None = None
    """Ensemble: mean negative log density of a head under the prior around its anchor."""
    posterior_log_evidence_per_label: float | None = None
    """Laplace: log-evidence for each label, nats."""
    posterior_prior_deviation: float | None = None
    """Laplace: standard deviation of a reward under the fitted prior."""
    posterior_trust: float | None = None
    """Share of what the posterior claimed to know of answers beforehand that they confirmed; 1 for an ensemble."""
    foresight_accuracy: float | None = None
    """Share of answers on the side that the posterior believed in before."""
    foresight_brier: float | None = None
    """Brier score of those beliefs."""
    disagreement: float | None = None
    """Mean standard deviation, over the posterior, of the probability that the first response of a chosen pair wins."""
    typical_disagreement: float | None = None
    """The same about all pairs of the same candidates: what a random choice has in expectation."""
    distinct_candidates: float | None = None
    """Distinct candidates, as a share of those that were sampled."""
    evaluation: Evaluation = Evaluation()
    """What was evaluated after the round; its fields stand among the others in the file."""
    seconds: dict[str, Seconds]
    """Wall and CPU seconds of each stage."""

    @classmethod
    def parse(cls, line: str | bytes, file: Path) -> Self:
        """The row of a line of ``metrics.jsonl``; names that are not known here are left out.

        Raises:
            UserError: naming the ``file``, when it is no such line.
        """
        try:
            tree = json.loads(line)
        except ValueError as error:
            raise not_metrics(file, f"a line is not JSON: {error}") from None
        if not isinstance(tree, dict):
            raise not_metrics(file, "a line is not a JSON object")
        row, oracle, evaluation = {}, {}, {}
        fields, evaluated = cls.model_fields, Evaluation.model_fields
        for name, value in tree.items():
            if name in fields:
                row[name] = value
            elif name in evaluated:
                evaluation[name] = value
            elif name.startswith(_ORACLE):
                oracle[name.removeprefix(_ORACLE)] = value
        try:
            return cls.model_validate(row | {"oracle": oracle, "evaluation": evaluation})
        except ValidationError as error:
            problem = error.errors()[0]
            raise not_metrics(file, f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None

    def flat(self) -> dict[str, Any]:
        """Everything by the name that it has in the file."""
        tree: dict[str, Any] = {}
        for name, value in self.model_dump(exclude_unset=True).items():
            if name == "oracle":
                tree |= {f"{_ORACLE}{count}": amount for count, amount in value.items()}
            elif name == "evaluation":
                tree |= value
            else:
                tree[name] = value
        return tree

    def numbers(self) -> dict[str, float]:
        """Every number by name: ends of intervals as ``NAME/low`` and ``NAME/high``, and ``seconds/STAGE/CLOCK``."""
        numbers = {name: float(value) for name, value in vars(self).items() if isinstance(value, (int, float))}
        numbers |= {f"{_ORACLE}{name}": float(count) for name, count in self.oracle.items()}
        for name, value in vars(self.evaluation).items():
            if isinstance(value, tuple):
                numbers |= {f"{name}/low": value[0], f"{name}/high": value[1]}
            elif value is not None:
                numbers[name] = float(value)
        for stage, seconds in self.seconds.items():
            numbers |= {f"seconds/{stage}/wall": seconds.wall, f"seconds/{stage}/cpu": seconds.cpu}
        return numbers

    @property
    def is_imagined(self) -> bool:
        """Whether the round learnt from imagined pairs and asked nobody."""
        return "imagine" in self.seconds


def read_rows(file: Path) -> list[RoundMetrics]:
    """Every row of a file of metrics. Raises: UserError, naming the file, when it cannot be read or holds others."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise not_metrics(file, error) from None
    return [RoundMetrics.parse(line, file) for line in lines]


def not_metrics(file: Path, why: object) -> UserError:
    """What is said of a file that holds no rows of rounds."""
    return UserError(f"{file}: not the metrics of a run ({why})")


def meanings() -> dict[str, str]:
    """What each name of the file means; ``oracle_NAME`` stands for all that an oracle counts."""
    found: dict[str, str] = {}
    for name, field in RoundMetrics.model_fields.items():
        if name == "evaluation":
            found |= {name: field.description or "" for name, field in Evaluation.model_fields.items()}
        else:
            found[f"{_ORACLE}NAME" if name == "oracle" else name] = field.description or ""
    return found
