"""The tables of docs/sample-efficiency.md: methods against the tuned baseline, and how their figures are shown."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sea_agent.lab.comparison import MethodFigures, band, compare, reach
from sea_agent.lab.records import UNBOUNDED, Bounds, Record
from sea_agent.lab.statistics import Estimate, estimate

WORLDS = ("lexicon", "kitchen", "reviews", "tastes")
"""Those with a hidden grammar: settings were picked on the first. Those of real English."""
LEVEL, LEVELS = 0.8, (0.7, 0.75, 0.8)
BASELINES = ("passive", "passive-short", "passive-kitchen")
"""Passive online DPO as tuned on the first world for the long and for the short horizon, and on the second world."""

RANDOM = "uniform-imagined"
ACTIVE = ("sea", "sea-bai")
OURS = (*ACTIVE, RANDOM)
JUDGED = ("passive", "passive-short", "passive-kitchen", "sea", RANDOM, "sea_ee", "passive-steps")
BITS = ("told", "tellable")
"""Of an answer, and of the most informative pair of the same candidates."""

Runs = list[Record]


@dataclass(frozen=True)
class Cell:
    """A method of one world, loss and kind of labels: its runs, and its figures against ``baseline``, at ``level``
    within ``bounds``."""

    runs: Runs
    row: MethodFigures
    baseline: str | None
    level: float
    bounds: Bounds

    def last(self, column: str) -> Estimate | None:
        """A column at the end of the runs."""
        return self.row.final[column]

    def there(self, column: str) -> Estimate | None:
        """A column where the win rate first reaches the level, or at the end of a run that never does; None where a
        run did not measure it."""
        measured = [(run, values) for run in self.runs if (values := getattr(run.curve, column)) is not None]
        at = (
            np.interp(reach(run, self.level, self.bounds).queries, run.curve.queries, values)
            for run, values in measured
        )
        return estimate([float(value) for value in at]) if len(measured) == len(self.runs) else None

    @property
    def fall(self) -> float | None:
        """How far the judge's mean curve ends below its highest point."""
        mean = band(self.runs, "judge_win_rate")
        return None if mean is None else float(mean.mean_P.max() - mean.mean_P[-1])


def groups(runs: Runs) -> list[Runs]:
    """The runs of each world, loss and kind of labels, in the order of the page."""
    names = sorted(dict.fromkeys(run.group for run in runs), key=lambda name: (WORLDS.index(name[0]), name[1:]))
    return [[run for run in runs if run.group == name] for name in names]


def worlds(runs: Runs) -> dict[str, Runs]:
    """The runs of DPO with thresholded answers, by world."""
    return {group[0].world: group for group in groups(runs) if group[0].group[1:] == ("dpo", "threshold")}


def tuned(runs: Runs, level: float = LEVEL) -> str | None:
    """The baseline of a group. Among the tuned settings of passive DPO that reach the level in more than half of their
    runs, the one with fewest queries (geometric mean; a run that never reaches it counts with its budget). If none
    does, the long horizon; None without runs of it."""
    queries = {}
    for method in BASELINES:
        reached = [reach(run, level) for run in runs if run.method == method]
        if 2 * sum(one.censored for one in reached) < len(reached):
            queries[method] = float(np.mean(np.log([max(one.queries, 1.0) for one in reached])))
    if queries:
        return min(queries, key=lambda method: queries[method])
    return BASELINES[0] if any(run.method == BASELINES[0] for run in runs) else None


def level_of(runs: Runs) -> float:
    """The highest of the levels that the mean curve of passive DPO reaches; the lowest when it reaches none."""
    mean = band([run for run in runs if run.method == BASELINES[0]], "win_rate")
    return max((level for level in LEVELS if mean and mean.mean_P.max() >= level), default=min(LEVELS))


def cells(
    runs: Runs, baseline: str | None, methods: Sequence[str] = (), level: float = LEVEL, bounds: Bounds = UNBOUNDED
) -> list[Cell]:
    """The named methods of a group in their order. Without names: the baseline, then the others by the share of runs
    that reached the level, then by fewer queries, or by the area under the curve where no run did."""
    rows = {row.method: row for row in compare(runs, level=level, bounds=bounds, baseline=baseline).groups[0].methods}

    def rank(name: str) -> tuple[bool, float, float]:
        row = rows[name]
        never = row.censored / len(row.seeds)
        return name != baseline, never, row.queries.mean if never < 1 else -row.area.mean if row.area else 0.0

    order = [name for name in methods if name in rows] if methods else sorted(rows, key=rank)
    return [Cell([run for run in runs if run.method == name], rows[name], baseline, level, bounds) for name in order]


# --- numbers of the page ---------------------------------------------------------------------------------------------


def number(value: Estimate | float | None, decimals: int = 0, interval: bool = True) -> str:
    """``1,409 [1,210, 1,590]``."""
    if value is None:
        return "–"
    ends = (value.mean, value.low, value.high) if isinstance(value, Estimate) else (value,)
    mean, *others = [f"{end:,.{decimals}f}" for end in ends if end is not None]
    return f"{mean} [{', '.join(others)}]" if others and interval else mean


def rate(value: Estimate | float | None, decimals: int = 3, interval: bool = True) -> str:
    """A share without the nought, ``.854 [.834, .871]``."""
    return re.sub(r"\b0\.", ".", number(value, decimals, interval))


def answers(row: MethodFigures) -> str:
    """Queries to the level: a lower bound when a run never reached it."""
    return ("≥ " if row.censored else "") + number(row.queries, interval=row.censored < len(row.seeds))


def times(row: MethodFigures) -> str:
    """The factor with the bootstrap interval; ``?`` where most runs of the method never reached the level, and some of
    the baseline: it would be that of the budgets."""
    if row.factor is None:
        return "–"
    if _is_of_budgets(row):
        return "?"
    sign = {"": "", ">=": "≥ ", "<=": "≤ ", "?": "? "}[row.factor.bound]
    factor = Estimate(row.factor.mean, row.factor.low, row.factor.high, ())
    return sign + number(factor, 2, interval=row.censored < len(row.seeds))


def student(row: MethodFigures) -> str:
    """The t interval of the factor, under the same condition."""
    factor = row.factor
    if factor is None or factor.t_low is None or row.censored == len(row.seeds) or _is_of_budgets(row):
        return "–"
    return f"[{factor.t_low:.2f}, {factor.t_high:.2f}]"


def _is_of_budgets(row: MethodFigures) -> bool:
    return row.factor is not None and row.factor.bound == "?" and 2 * row.censored > len(row.seeds)


def spent(cell: Cell, column: str) -> str:
    """What was spent to the level / in all."""
    return " / ".join(number(value, interval=False) for value in (cell.there(column), cell.last(column)))


# --- tables of the page ----------------------------------------------------------------------------------------------

COLUMNS: dict[str, Callable[[Cell], str]] = {
    "world": lambda cell: cell.runs[0].world,
    "loss, answers": lambda cell: ", ".join(cell.runs[0].group[1:]),
    "method": lambda cell: f"`{cell.row.method}`",
    "than": lambda cell: f"`{cell.baseline}`",
    "seeds": lambda cell: str(len(cell.runs)),
    "win rate": lambda cell: rate(cell.level, 2),
    "answers to it": lambda cell: answers(cell.row),
    "never": lambda cell: f"{cell.row.censored} of {len(cell.runs)}",
    "times fewer": lambda cell: times(cell.row),
    "t interval": lambda cell: student(cell.row),
    "asked in all": lambda cell: number(max(run.budget for run in cell.runs)),
    "at the end": lambda cell: rate(cell.last("win_rate")),
    "by judge": lambda cell: rate(cell.last("judge_win_rate")),
    "best of N": lambda cell: rate(cell.last("best_of_win_rate")),
    "best of N by judge": lambda cell: rate(cell.last("best_of_judge_win_rate")),
    "judge there": lambda cell: rate(cell.there("judge_win_rate")),
    "below its peak": lambda cell: rate(cell.fall),
    "distinct there": lambda cell: rate(cell.there("distinct_share"), 2),
    "KL there": lambda cell: number(cell.there("kl_to_reference"), 1, interval=False),
    "tokens": lambda cell: number(cell.last("response_tokens"), 1, interval=False),
    "samples": lambda cell: spent(cell, "policy_samples"),
    "steps": lambda cell: spent(cell, "gradient_steps"),
    "CPU seconds": lambda cell: spent(cell, "cpu_seconds"),
}
REACHED = "answers to it; never; times fewer; t interval; asked in all; at the end; by judge"


def table(columns: str, cells: Iterable[Cell]) -> str:
    """A row for each cell."""
    names = columns.split("; ")
    return markdown(names, ([COLUMNS[name](cell) for name in names] for cell in cells))


def main_tables(main: dict[str, Runs]) -> dict[str, str]:
    """Those of DPO with thresholded answers by name, as Markdown."""

    def in_worlds(columns: str, *methods: str, baseline: str | None = None) -> str:
        found = (cell for runs in main.values() for cell in cells(runs, baseline or tuned(runs), methods))
        return table(columns, found)

    lower = (
        cell for runs in main.values() for at in LEVELS[:-1] for cell in cells(runs, tuned(runs, at), ACTIVE[:1], at)
    )
    made = {
        f"methods-{world}": table(f"method; seeds; {REACHED}", cells(runs, tuned(runs))) for world, runs in main.items()
    }
    return made | {
        "headline": in_worlds("world; method; times fewer; t interval; than", *OURS),
        "levels": table("world; win rate; than; times fewer; t interval", lower),
        "active": in_worlds(
            "world; method; seeds; answers to it; times fewer; t interval", RANDOM, *ACTIVE, baseline=RANDOM
        ),
        "judge": in_worlds("world; method; judge there; by judge; below its peak; distinct there; KL there", *JUDGED),
        "cost": in_worlds("world; method; samples; steps; CPU seconds; tokens", "passive", "sea"),
    }


def trusted_table(found: dict[str, Runs]) -> str:
    """The methods as they run today."""
    columns = "world; method; seeds; answers to it; never; times fewer; t interval; than; KL there; by judge"
    return table(columns, (cell for runs in found.values() for cell in cells(runs, tuned(runs))))


def loss_table(runs: Runs) -> str:
    """Other losses and labels, each at a level that passive DPO reaches."""
    found = (cell for group in groups(runs) for cell in cells(group, BASELINES[0], level=level_of(group)))
    return table(f"loss, answers; win rate; method; seeds; {REACHED}", found)


def ablation_table(runs: Runs) -> str:
    """The variants by number."""
    variants = sorted(cells(runs, None), key=lambda cell: cell.row.method)
    return table("method; seeds; at the end; by judge; best of N; best of N by judge", variants)


def again_table(first: dict[str, Runs], again: dict[str, Runs]) -> str:
    """The factors of runs that were done twice."""
    names = ("world", "method", "than", "seeds", "times fewer", "t interval")
    pairs = (
        (before, after)
        for world, runs in first.items()
        for baseline, methods in ((tuned(runs), ("sea", RANDOM)), (RANDOM, ("sea",)))
        for before, after in zip(*(cells(its[world], baseline, methods) for its in (first, again)), strict=True)
    )
    rows = (
        [COLUMNS[name](cell) for cell, of in zip(pair, (names, names[-2:]), strict=True) for name in of]
        for pair in pairs
    )
    return markdown([*names, "again", "t interval"], rows)


def tilted_table(bench: dict[str, Any]) -> str:
    """The rules with a policy that is tilted instead of trained, with the seeds that had no part in the question."""
    names = ["world", "rule", "answers to .80", "times fewer", "lead after 160", "bits", "of the best pair"]
    rows = []
    for setting in bench["settings"]:
        if setting["seeds"][0] and setting["follows"]:
            for rule, row in setting["rules"].items():
                figures = _triple(row["answers"], 0), _triple(row["factor"], 2), _triple(row["ahead"][-1], 3)
                rows.append([setting["world"], f"`{rule}`", *figures, *(rate(row[key][0], 2) for key in BITS)])
    return markdown(names, rows)


def _triple(values: Sequence[float], decimals: int) -> str:
    mean, low, high = values
    return number(Estimate(mean, low, high, ()), decimals)


def markdown(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
