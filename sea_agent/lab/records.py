"""The record of a run: what a comparison needs of it, small enough to keep, many in one JSON file."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveInt, model_validator

from sea_agent.config.files import validate
from sea_agent.config.section import Section
from sea_agent.errors import UserError

FORMAT = 1

Column = tuple[float, ...] | None
Counts = tuple[NonNegativeInt, ...]


@dataclass(frozen=True)
class Bounds:
    """What a policy may have given up where its win rate counts; None does not look."""

    max_kl: float | None = None
    """KL(policy ‖ initial policy) of a response in nats, at most."""
    min_distinct: float | None = None
    """Share of prompts to which two samples differ, at least."""
    min_judge: float | None = None
    """Win rate by the independent judge, at least."""

    def __str__(self) -> str:
        """``, KL <= 5, judge >= 0.6``, or nothing."""
        signs = {1: ">=", -1: "<="}
        return "".join(f", {_IN_WORDS[column]} {signs[sign]} {bound:g}" for column, bound, sign in self.limits())

    def limits(self) -> Iterator[tuple[str, float, int]]:
        """The columns with a bound, the bound, and 1 where it is a lower one, -1 where it is an upper one."""
        bounds = (self.max_kl, self.min_distinct, self.min_judge)
        for (column, sign), bound in zip(_BOUNDED, bounds, strict=True):
            if bound is not None:
                yield column, bound, sign


_BOUNDED = (("kl_to_reference", -1), ("distinct_share", 1), ("judge_win_rate", 1))
_IN_WORDS = {"kl_to_reference": "KL", "distinct_share": "distinct", "judge_win_rate": "judge"}
UNBOUNDED = Bounds()


class Curve(Section):
    """A run's evaluations in order: a column is None where the run did not measure it. All counts are cumulative."""

    queries: Counts
    """Oracle answers so far."""
    win_rate: tuple[float, ...]
    """Against the initial policy, by the training oracle; by the judge where ``Measurement.by_judge``."""
    low: tuple[float, ...]
    """Lower end of the win rate's 95 % interval over prompts."""
    high: tuple[float, ...]
    """Upper end of it."""
    judge_win_rate: Column = None
    """By the independent judge."""
    best_of_win_rate: Column = None
    """By the training oracle, of the best of several responses as the reward posterior sees it."""
    best_of_judge_win_rate: Column = None
    """The same by the independent judge."""
    distinct_share: Column = None
    """Share of prompts to which two samples differ."""
    response_tokens: Column = None
    """Mean length of a response."""
    kl_to_reference: Column = None
    """KL(policy ‖ initial policy) of a response in nats."""
    policy_samples: Counts | None = None
    """Responses sampled for training."""
    gradient_steps: Counts | None = None
    """Optimiser steps."""
    cpu_seconds: Column = None
    """CPU time of everything but evaluation."""
    wall_seconds: Column = None
    """Wall time of everything but evaluation."""

    @model_validator(mode="after")
    def _columns_are_of_one_length(self) -> "Curve":
        for name, column in self:
            if column is not None and len(column) != len(self.queries):
                raise ValueError(f"{name} has {len(column)} values for {len(self.queries)} evaluations")
        if not self.queries or any(later <= sooner for sooner, later in pairwise(self.queries)):
            raise ValueError("queries must grow from one evaluation to the next")
        return self

    def queries_to(self, level: float, bounds: Bounds = UNBOUNDED) -> float | None:
        """Oracle queries at which the win rate first is ``level`` within ``bounds``, linear between evaluations.

        None if never, and if a bound is on a column that the run did not measure.
        """
        margins = [tuple(rate - level for rate in self.win_rate)]
        for column, bound, sign in bounds.limits():
            values = getattr(self, column)
            if values is None:
                return None
            margins.append(tuple(sign * (value - bound) for value in values))
        points = list(zip(self.queries, zip(*margins, strict=True), strict=True))
        for (start, before), (end, after) in pairwise([points[0], *points]):
            share = _first_share(before, after)
            if share is not None:
                return start + share * (end - start)
        return None


def _first_share(before: tuple[float, ...], after: tuple[float, ...]) -> float | None:
    """The least share of the way from ``before`` to ``after`` where no number is negative; None if there is none."""
    low, high = 0.0, 1.0
    for one, other in zip(before, after, strict=True):
        if one < 0 and other < 0:
            return None
        if one < 0:
            low = max(low, one / (one - other))
        elif other < 0:
            high = min(high, one / (one - other))
    return low if low <= high else None


class Measurement(Section):
    """How a run's win rates were measured."""

    oracle: str
    """Who judged ``win_rate``."""
    judge: str | None = None
    """Who judged ``judge_win_rate``."""
    by_judge: bool = False
    """The training oracle does not evaluate, as people do not, so that ``win_rate`` is the independent judge's."""
    reference: str
    """The policy that responses are compared with."""
    prompts: PositiveInt
    """Largest number of held-out prompts."""
    temperature: float
    """Sampling temperature of policy and reference."""


class Record(Section):
    """One run. Runs are compared within one world, loss and kind of labels, and paired by seed and model."""

    world: str
    """Name of the world, or the kind of oracle outside the built-in ones."""
    loss: str
    """Name of the loss."""
    labels: str
    """Kind of the oracle's labels."""
    method: str
    """Name of the method; the selection rule of a run that belongs to no experiment."""
    seed: NonNegativeInt
    """Seed of the run."""
    model: NonNegativeInt | None = None
    """Which of the experiment's initial policies."""
    config: str
    """Digest of the configuration."""
    setting: str | None = None
    """Digest of what of the configuration makes a method: equal for its seeds."""
    budget: PositiveInt
    """Oracle queries that the run was allowed."""
    measurement: Measurement
    """How the win rates were measured."""
    commit: str | None = None
    """Commit of the source tree that ran it, shortened."""
    summary: dict[str, int | float]
    """Figures of the whole run, evaluation included."""
    curve: Curve
    """Evaluations."""

    @property
    def group(self) -> tuple[str, str, str]:
        """What compared runs have in common."""
        return self.world, self.loss, self.labels


def read_records(file: Path) -> list[Record]:
    """The records of a file that ``write_records`` wrote.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    tree = read_json(file)
    if tree.get("format") != FORMAT or not isinstance(tree.get("records"), list):
        raise UserError(f"{file}: not a file of records, format {FORMAT}; give records.json of a comparison")
    return [
        validate(Record, record, f"{file}: record {number} is not valid", (), "not known here")
        for number, record in enumerate(tree["records"], start=1)
    ]


def write_records(records: Iterable[Record], file: Path) -> None:
    """Write records, one a line."""
    lines = (record.model_dump_json(exclude_none=True) for record in records)
    file.write_text(f'{{"format": {FORMAT}, "records": [\n' + ",\n".join(lines) + "\n]}\n")


def four_digits(value: float) -> float:
    """A figure as it is kept, with four significant digits: what is left agrees between machines."""
    return float(f"{value:.4g}")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: when there is none.
    """
    try:
        tree = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(tree, dict):
        raise UserError(f"{file}: expected a JSON object")
    return tree
