"""The comparison of methods: queries to a level, label-saving factors, and what else must be seen beside them.

Numbers only; ``tables`` and ``figures`` show them. Array names end in their dimensions: S seeds, P points of a curve.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from sea_agent.errors import UserError
from sea_agent.lab.records import UNBOUNDED, Bounds, Curve, Measurement, Record
from sea_agent.lab.statistics import Estimate, Factor, Reach, bootstrap, estimate, label_saving

FinalColumn = Literal[
    "win_rate",
    "judge_win_rate",
    "best_of_win_rate",
    "best_of_judge_win_rate",
    "distinct_share",
    "response_tokens",
    "kl_to_reference",
]
# Columns of a curve that are told at its end, and those that are also told where the level was reached.
FINAL = get_args(FinalColumn)
SPENT = ("policy_samples", "gradient_steps", "cpu_seconds")

Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class MethodFigures:
    """A method in one world, with one loss and one kind of labels.

    ``queries`` needed to the level: a run that never reached it counts with its budget and in ``censored``, so that the
    mean is then a lower bound. ``factor`` is None for the baseline itself, and without a seed in common with it.
    ``area`` is the mean win rate over the queries from 0 to the group's horizon; None when a run is shorter. ``final``
    and ``at_level`` hold estimates by column, None where a run did not measure it; at the level, a run that never
    reached it counts with its total.
    """

    method: str
    seeds: tuple[int, ...]
    queries: Estimate
    censored: int
    factor: Factor | None
    area: Estimate | None
    final: dict[str, Estimate | None]
    at_level: dict[str, Estimate | None]


@dataclass(frozen=True)
class Group:
    """What is compared with each other: one world, loss and kind of labels. ``horizon`` is in oracle queries;
    ``measurements`` are the ways win rates were measured, one where the runs agree."""

    world: str
    loss: str
    labels: str
    horizon: float
    measurements: tuple[Measurement, ...]
    methods: tuple[MethodFigures, ...]

    @property
    def by_judge(self) -> bool:
        """Whether the judge measured win rates, because the oracle does not evaluate."""
        return any(measurement.by_judge for measurement in self.measurements)


@dataclass(frozen=True)
class Comparison:
    """Groups of methods. ``level`` is the win rate to be reached, within ``bounds``; ``baseline`` names the method of
    the factors."""

    level: float
    bounds: Bounds
    baseline: str | None
    groups: tuple[Group, ...]

    def tree(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and mappings."""
        tree = asdict(self)
        for group, plain in zip(self.groups, tree["groups"], strict=True):
            plain["measurements"] = [measurement.model_dump() for measurement in group.measurements]
        return tree


def compare(
    records: Sequence[Record],
    *,
    level: float = 0.8,
    bounds: Bounds = UNBOUNDED,
    baseline: str | None = None,
    horizon: float | None = None,
) -> Comparison:
    """Compare the methods of each world, loss and kind of labels, by the queries to ``level`` within ``bounds``.

    ``baseline`` is ``passive`` where there is such a method and none is named. ``horizon``, in oracle queries, is the
    smallest number that any run of a group spent, when not given.

    Raises:
        UserError: when no run is of the ``baseline`` that is named, or a run did not measure what has a bound.
    """
    methods = list(dict.fromkeys(record.method for record in records))
    if baseline is not None and baseline not in methods:
        raise UserError(f"--baseline {baseline}: no run is of this method; there is {', '.join(methods)}")
    for column, _, _ in bounds.limits():
        without = [record for record in records if getattr(record.curve, column) is None]
        if without:
            names = ", ".join(dict.fromkeys(record.method for record in without))
            raise UserError(
                f"{column}: not measured by {len(without)} of {len(records)} runs ({names}); leave its bound out"
            )
    if baseline is None and "passive" in methods:
        baseline = "passive"
    groups = by_method(records, baseline)
    found = (_group(runs, level, bounds, baseline, horizon) for runs in groups.values())
    return Comparison(level, bounds, baseline, tuple(found))


def by_method(records: Sequence[Record], baseline: str | None) -> dict[tuple[str, str, str], dict[str, list[Record]]]:
    """Runs of each group and method by seed; the baseline first, the others in the order of their first run."""
    groups: dict[tuple[str, str, str], dict[str, list[Record]]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: record.method != baseline):
        groups[record.group].setdefault(record.method, []).append(record)
    for methods in groups.values():
        for runs in methods.values():
            runs.sort(key=_pair)
    return dict(groups)


def reach(record: Record, level: float, bounds: Bounds = UNBOUNDED) -> Reach:
    """Queries that a run needed to a level within bounds."""
    queries = record.curve.queries_to(level, bounds)
    return Reach(float(record.budget), True) if queries is None else Reach(queries, False)


def area(curve: Curve, horizon: float) -> float | None:
    """Mean win rate over the queries from 0 to ``horizon``, linear between evaluations; None for a shorter curve."""
    if horizon > curve.queries[-1]:
        return None
    inside = [queries for queries in curve.queries if 0 < queries < horizon]
    grid = np.array([0.0, *inside, horizon])
    return float(np.trapezoid(np.interp(grid, curve.queries, curve.win_rate), grid) / horizon)


def shortfall(curve: Curve) -> np.ndarray:
    """The area between a win rate of 1 and the curve from its first evaluation to each one, in oracle queries."""
    queries_P, lost_P = np.array(curve.queries, dtype=float), 1.0 - np.array(curve.win_rate)
    steps = np.diff(queries_P) * (lost_P[1:] + lost_P[:-1]) / 2
    return np.concatenate([[0.0], np.cumsum(steps)])


@dataclass(frozen=True)
class Band:
    """Curves over one axis: the mean over seeds and its 95 % bootstrap interval, one value for each of the P points;
    no interval under three seeds."""

    x_P: np.ndarray
    mean_P: np.ndarray
    low_P: np.ndarray | None
    high_P: np.ndarray | None


def band(records: Sequence[Record], column: str, along: str = "queries", most: int | None = None) -> Band | None:
    """The mean of a column of a method's runs; None when a run did not measure it, or not ``along``."""
    curves = [(getattr(record.curve, along), getattr(record.curve, column)) for record in records]
    return None if any(None in curve for curve in curves) else band_of(curves, most)


def band_of(curves: Sequence[tuple[Values, Values]], most: int | None = None) -> Band:
    """The mean of (x, y) curves up to the end of the shortest one, linear between their points.

    At ``most`` so many of all their points are kept, evenly and with both ends; the others keep their values.
    """
    end = min(x[-1] for x, _ in curves)
    points = np.unique(np.concatenate([np.asarray(x, dtype=float) for x, _ in curves]))
    points = points[points <= end]
    if most is not None and len(points) > most:
        points = points[np.linspace(0, len(points) - 1, most).round().astype(int)]
    values_S_P = np.array([np.interp(points, x, y) for x, y in curves])
    low_P, high_P = bootstrap(values_S_P) or (None, None)
    return Band(points, values_S_P.mean(axis=0), low_P, high_P)


def _group(
    methods: dict[str, list[Record]], level: float, bounds: Bounds, baseline: str | None, horizon: float | None
) -> Group:
    runs = [record for records in methods.values() for record in records]
    horizon = horizon or float(min(record.curve.queries[-1] for record in runs))
    reached = {name: [reach(record, level, bounds) for record in records] for name, records in methods.items()}
    theirs = dict(zip(map(_pair, methods.get(baseline or "", ())), reached.get(baseline or "", ()), strict=True))
    return Group(
        *runs[0].group,
        horizon=horizon,
        measurements=tuple(dict.fromkeys(record.measurement for record in runs)),
        methods=tuple(
            _figures(records, reached[name], {} if name == baseline else theirs, horizon)
            for name, records in methods.items()
        ),
    )


def _figures(
    records: Sequence[Record], reached: Sequence[Reach], baseline: dict[tuple[int, int], Reach], horizon: float
) -> MethodFigures:
    pairs = [
        (baseline[_pair(record)], ours)
        for record, ours in zip(records, reached, strict=True)
        if _pair(record) in baseline
    ]
    return MethodFigures(
        method=records[0].method,
        seeds=tuple(record.seed for record in records),
        queries=estimate([one.queries for one in reached]),
        censored=sum(one.censored for one in reached),
        factor=label_saving(pairs) if pairs else None,
        area=_estimate(area(record.curve, horizon) for record in records),
        final={column: _estimate(_last(record.curve, column) for record in records) for column in (*FINAL, *SPENT)},
        at_level={
            column: _estimate(
                _at(record.curve, column, one.queries) for record, one in zip(records, reached, strict=True)
            )
            for column in SPENT
        },
    )


def _estimate(values: Iterator[float | None]) -> Estimate | None:
    """The estimate where every run has a value."""
    known = list(values)
    return None if None in known else estimate([value for value in known if value is not None])


def _last(curve: Curve, column: str) -> float | None:
    values = getattr(curve, column)
    return None if values is None else float(values[-1])


def _at(curve: Curve, column: str, queries: float) -> float | None:
    values = getattr(curve, column)
    return None if values is None else float(np.interp(queries, curve.queries, values))


def _pair(record: Record) -> tuple[int, int]:
    """What pairs a run with the baseline's: the seed and the initial policy."""
    return record.seed, -1 if record.model is None else record.model
