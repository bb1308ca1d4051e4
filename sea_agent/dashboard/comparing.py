"""Views over the methods of a comparison: figures, curves, beliefs and labels, as plain numbers for JSON and CSV.

The figures are those of ``sea_agent.lab.comparison``; nothing is computed a second way.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from sea_agent.dashboard.chosen import Member, Selection, short
from sea_agent.dashboard.ledgers import Tally
from sea_agent.dashboard.run import Run
from sea_agent.errors import UserError
from sea_agent.lab import tables
from sea_agent.lab.comparison import Comparison, FinalColumn, Values, band_of, compare, shortfall
from sea_agent.lab.records import Record
from sea_agent.lab.statistics import LEAST_SEEDS

MOST_POINTS = 120
"""Points of a curve that are sent."""

CHUNKS = 24
"""Points that a run's beliefs are averaged into."""

Axis = Literal["queries", "samples", "cpu", "wall"]
AXES: dict[Axis, str] = {
    "queries": "queries",
    "samples": "policy_samples",
    "cpu": "cpu_seconds",
    "wall": "wall_seconds",
}
Column = Literal[FinalColumn, "shortfall"]
BELIEFS = ("disagreement", "typical_disagreement", "foresight_accuracy", "foresight_brier")

Table = list[dict[str, Any]]


def comparison_of(selection: Selection, level: float, baseline: str | None) -> Comparison:
    """The comparison of the counted runs.

    Raises:
        UserError: when no run is of the ``baseline`` that is named.
    """
    counted = selection.counted
    finished = [record for name in counted if not selection.is_so_far(name) for record in _records(counted[name])]
    everybody = [record for members in counted.values() for record in _records(members)]
    ends = [record.curve.queries[-1] for record in finished or everybody]
    horizon = max(1, min(ends)) if ends else None
    return compare(everybody, level=level, baseline=baseline, horizon=horizon)


def comparison_view(selection: Selection, level: float, baseline: str | None) -> dict[str, Any]:
    """The figures of every method, and what they are about."""
    comparison = comparison_of(selection, level, baseline)
    tree = comparison.tree()
    view: dict[str, Any] = {
        "level": level,
        "baseline": comparison.baseline,
        "group": selection.group,
        "groups": [{"group": key, "runs": runs} for key, runs in sorted(selection.groups.items())],
        "left_out": [{"run": run, "why": why} for run, why in sorted(selection.left_out)],
        "unmeasured": sorted(selection.unmeasured),
        "methods": [],
    }
    for group, plain in zip(comparison.groups, tree["groups"], strict=True):
        view |= {
            "title": tables.title(group),
            "horizon": group.horizon,
            "definition": tables.definition(group.measurements),
            "by_judge": group.by_judge,
            "methods": [{**row, **_members(selection, row["method"])} for row in plain["methods"]],
        }
    return view


def comparison_table(selection: Selection, level: float, baseline: str | None) -> Table:
    """A row for each method, with the columns of ``sea-agent compare``."""
    rows = tables.rows(comparison_of(selection, level, baseline))
    return [{**row, "so_far": selection.is_so_far(row["method"])} for row in rows]


def curves_view(selection: Selection, columns: Sequence[Column], axis: Axis) -> dict[str, Any]:
    """Curves of the methods: the mean and its interval where there are enough finished seeds, single runs otherwise."""
    return {
        "x": axis,
        "columns": {
            column: [
                curve
                for name, members in selection.methods.items()
                for curve in _curves(name, members, column, AXES[axis])
            ]
            for column in columns
        },
    }


def beliefs_view(selection: Selection) -> dict[str, Any]:
    """What the posterior believed before the answers, along the queries; chunks of rounds are averaged."""
    columns: dict[str, list[dict[str, Any]]] = {name: [] for name in BELIEFS}
    for method, members in selection.methods.items():
        rounds = [(member, member.run.rounds()) for member in members]
        for name in BELIEFS:
            curves = [(member, found) for member, one in rounds if (found := _chunked(one, name)) is not None]
            columns[name] += [curve for curve, _ in _mean_or_runs(method, curves)]
    return {"x": "queries", "columns": columns}


def long_table(view: dict[str, Any]) -> Table:
    """Curves with a row for each point."""
    return [
        {
            "column": column,
            "method": curve["method"],
            "kind": curve["kind"],
            "seeds": " ".join(map(str, curve["seeds"])),
            view["x"]: x,
            "value": value,
            "low": None if curve["low"] is None else curve["low"][place],
            "high": None if curve["high"] is None else curve["high"][place],
        }
        for column, curves in view["columns"].items()
        for curve in curves
        for place, (x, value) in enumerate(zip(curve["x"], curve["y"], strict=True))
    ]


def labels_view(selection: Selection) -> dict[str, Any]:
    """What the ledgers of each method count, evaluated or not, and how its beliefs were borne out."""
    return {"methods": [_labels(name, runs) for name, runs in selection.asking.items()]}


def calibration_table(view: dict[str, Any]) -> Table:
    """A row for each bin of each method."""
    return [{"method": one["method"], **row} for one in view["methods"] for row in one["calibration"]]


def _records(members: Sequence[Member]) -> list[Record]:
    return [member.record for member in members]


def _members(selection: Selection, method: str) -> dict[str, Any]:
    members = selection.methods[method]
    return {
        "so_far": selection.is_so_far(method),
        "runs": [
            {
                "id": member.run.id,
                "seed": member.record.seed,
                "model": member.record.model,
                "state": member.run.place.state,
                "queries": member.record.curve.queries[-1],
                "win_rate": member.record.curve.win_rate[-1],
                "interval": (member.record.curve.low[-1], member.record.curve.high[-1]),
            }
            for member in members
        ],
    }


def _curves(method: str, members: Sequence[Member], column: Column, along: str) -> Iterator[dict[str, Any]]:
    curves = [(member, found) for member in members if (found := _points(member.record, column, along)) is not None]
    for curve, only in _mean_or_runs(method, curves):
        if only is not None and column == "win_rate" and len(curve["x"]) == len(only.record.curve.low):
            curve |= {"low": _rounded(only.record.curve.low), "high": _rounded(only.record.curve.high)}  # over prompts
        yield curve


def _points(record: Record, column: Column, along: str) -> tuple[Values, Values] | None:
    """The curve of a column; None when the run did not measure it, or not ``along``."""
    x, curve = getattr(record.curve, along), record.curve
    y = shortfall(curve) if column == "shortfall" else getattr(curve, column)
    return None if x is None or y is None else (x, y)


def _chunked(rounds: dict[str, list[float | None]], column: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Queries and means of at most ``CHUNKS`` runs of rounds; None when no round has the column."""
    pairs = [
        (queries, value)
        for queries, value in zip(rounds.get("oracle_queries", []), rounds.get(column, []), strict=False)
        if queries is not None and value is not None
    ]
    if not pairs:
        return None
    chunks = np.array_split(np.array(pairs, dtype=float), min(CHUNKS, len(pairs)))
    return np.array([chunk[-1, 0] for chunk in chunks]), np.array([chunk[:, 1].mean() for chunk in chunks])


def _mean_or_runs(
    method: str, curves: Sequence[tuple[Member, tuple[Values, Values]]]
) -> Iterator[tuple[dict[str, Any], Member | None]]:
    """The mean of the finished runs where they are enough, and each of the other runs, with the run it is of."""
    finished = [(member, curve) for member, curve in curves if member.finished]
    mean = len(finished) >= LEAST_SEEDS
    if mean:
        yield _curve(method, "mean", finished), None
    for member, curve in curves:
        if not (mean and member.finished):
            kind = "finished" if member.finished else "unfinished"
            yield _curve(method, kind, [(member, curve)]), member


def _curve(method: str, kind: str, curves: Sequence[tuple[Member, tuple[Values, Values]]]) -> dict[str, Any]:
    """One curve over some runs."""
    found = band_of([curve for _, curve in curves], MOST_POINTS)
    low, high = (None if end is None else _rounded(end) for end in (found.low_P, found.high_P))
    return {
        "method": method,
        "kind": kind,
        "seeds": [member.record.seed for member, _ in curves],
        "x": _rounded(found.x_P),
        "y": _rounded(found.mean_P),
        "low": low,
        "high": high,
    }


def _labels(method: str, runs: Sequence[Run]) -> dict[str, Any]:
    total, trouble = Tally(), []
    for run in runs:
        try:
            total += run.counts().tally
        except UserError as error:
            trouble.append({"run": run.id, "why": short(error, run)})
    first, second = (total.outcomes.get(side, 0) for side in ("first", "second"))
    return {
        "method": method,
        "runs": len(runs) - len(trouble),
        "trouble": trouble,
        "answers": total.answers,
        "outcomes": total.outcomes,
        "waiting": total.waiting,
        "posterior": total.posterior,
        "first_share": first / (first + second) if first + second else None,
        "per_minute": 60 * total.intervals / total.seconds if total.seconds else None,
        "calibration": [
            {"from": place / len(total.bins), "to": (place + 1) / len(total.bins), **_bin(*sums)}
            for place, sums in enumerate(total.bins.tolist())
        ],
    }


def _bin(number: float, beliefs: float, wins: float) -> dict[str, Any]:
    """A bin's mean belief and share of wins, with the 95 % Wilson interval of that share.

    A tie is half a win, which ``scipy.stats.binomtest`` refuses.
    """
    if not number:
        return {"n": 0, "belief": None, "share": None, "low": None, "high": None}
    z, share = 1.959964, wins / number
    centre = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(share * (1 - share) / number + z * z / (4 * number**2))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return {"n": int(number), "belief": beliefs / number, "share": share, "low": low, "high": high}


def _rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    """Six significant digits."""
    return [float(f"{value:.6g}") for value in values]
