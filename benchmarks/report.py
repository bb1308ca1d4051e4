"""The report on sample efficiency: a page, its figures, and the label-saving factors as JSON.

    python -m benchmarks.report [--results DIR] [--docs DIR]

Reads the records of the experiments in DIR (``benchmarks/results``), and from its folder ``again`` those of runs that
were done a second time. Writes ``sample-efficiency.md`` and ``figures/efficiency-*.png`` to the docs, and
``efficiency.json`` beside the records. What was not run is said to be missing. Every number comes from the records
through ``sea_agent.lab``; the words, and which comparison stands where, are in ``efficiency/report.md.j2``, those on
runs that were done twice in ``efficiency/again.md.j2``, and what was tried and did not help in ``efficiency/tried.md``.
"""

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sea_agent.errors import UserError
from sea_agent.lab.comparison import Comparison, MethodFigures, band, by_method, compare, reach
from sea_agent.lab.figures import draw_comparison
from sea_agent.lab.records import Record, four_digits, read_json, read_records
from sea_agent.lab.statistics import Estimate, estimate
from sea_agent.lab.tables import definition

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "benchmarks" / "efficiency" / "report.md.j2"
PAGE = "sample-efficiency.md"
FACTORS = "efficiency.json"
EXPERIMENTS = ("tuning", "main", "losses", "ablations")
AGAIN = "again"
"""Folder beside the records that holds those of runs done once more, on other machines."""
LEVEL = 0.8
BASELINES = ("passive", "passive-short", "passive-kitchen")
"""The baseline as tuned for the long and the short horizon on the first world, and for the second world."""
WORLDS = ("lexicon", "kitchen")
"""The worlds in the order of the page: settings were picked on the first."""


@dataclass(frozen=True)
class Judged:
    """Win rates by the independent judge, before the first answer and at the end; ``fall`` is how far the mean curve
    ended below its highest point."""

    start: Estimate
    end: Estimate
    fall: float


@dataclass(frozen=True)
class Sheet:
    """The methods of one world, loss and kind of labels at one level, with factors against one baseline."""

    comparison: Comparison
    runs: dict[str, list[Record]]

    @property
    def level(self) -> float:
        """The win rate to be reached."""
        return self.comparison.level

    @property
    def baseline(self) -> str | None:
        """The method of the factors."""
        return self.comparison.baseline

    @property
    def horizon(self) -> float:
        """Oracle queries of the mean win rate."""
        return self.comparison.groups[0].horizon

    @property
    def rows(self) -> list[MethodFigures]:
        """The baseline, then the others by rank."""
        return sorted(self.ranked, key=lambda row: row.method != self.baseline)

    @property
    def ranked(self) -> list[MethodFigures]:
        """By the share of runs that reached the level, then by fewer queries; those that never did by the mean win rate
        over the first ``horizon`` queries."""
        return sorted(self.comparison.groups[0].methods, key=_rank)

    @property
    def reaching(self) -> list[str]:
        """The methods besides the baseline of which some run reached the level, by rank."""
        return [row.method for row in self.ranked if _reaches(row) and row.method != self.baseline]

    def of(self, *methods: str) -> list[MethodFigures]:
        """The rows of some methods, in the order given; those that were not run are left out."""
        rows = {row.method: row for row in self.rows}
        return [rows[method] for method in methods if method in rows]

    def budget(self, method: str) -> int:
        """Oracle queries that a run of the method was allowed at most."""
        return max(record.budget for record in self.runs[method])

    def judged(self, method: str) -> Judged | None:
        """What the independent judge says; None where a run was not judged."""
        runs = self.runs[method]
        mean = band(runs, "judge_win_rate")
        curves = [record.curve.judge_win_rate for record in runs if record.curve.judge_win_rate is not None]
        if mean is None:
            return None
        return Judged(
            start=estimate([judge[0] for judge in curves]),
            end=estimate([judge[-1] for judge in curves]),
            fall=float(mean.mean_P.max() - mean.mean_P[-1]),
        )

    def at_level(self, method: str, column: str) -> Estimate | None:
        """A column of the curve where the win rate first reached the level; a run that never did counts with its end.
        None where a run did not measure it."""
        runs = [(record, getattr(record.curve, column)) for record in self.runs[method]]
        if any(values is None for _, values in runs):
            return None
        found = [(reach(record, self.level).queries, record.curve.queries, values) for record, values in runs]
        return estimate([float(np.interp(end, queries, values)) for end, queries, values in found])


@dataclass(frozen=True)
class Runs:
    """All runs of one world, loss and kind of labels."""

    world: str
    loss: str
    labels: str
    records: tuple[Record, ...]

    @property
    def measured(self) -> str:
        """How win rates were measured."""
        return definition(dict.fromkeys(record.measurement for record in self.records))

    @property
    def methods(self) -> list[str]:
        """Names of the methods."""
        return list(dict.fromkeys(record.method for record in self.records))

    def named(self, beginning: str) -> list[str]:
        """The methods whose names begin so."""
        return [method for method in self.methods if method.startswith(beginning)]

    def against(
        self,
        baseline: str | None = None,
        *,
        level: float = LEVEL,
        methods: Sequence[str] | None = None,
        horizon: float | None = None,
    ) -> Sheet:
        """Compare ``methods`` in this order, or all; where ``baseline`` was not run, ``compare`` takes its own."""
        order = list(methods or self.methods)
        records = [record for record in self.records if record.method in order]
        records.sort(key=lambda record: order.index(record.method))
        if not records:
            raise UserError(f"{self.world}, {self.loss}, {self.labels}: none of {', '.join(order)} was run")
        baseline = baseline if any(record.method == baseline for record in records) else None
        comparison = compare(records, level=level, baseline=baseline, horizon=horizon)
        return Sheet(comparison, by_method(records, comparison.baseline)[records[0].group])

    def baseline(self, level: float = LEVEL) -> str | None:
        """The better horizon of the tuned baseline: of those that reach the level in more than half of their runs the
        one with fewer queries (geometric mean; a run that never reached it counts with its budget); the long one
        when none does, and None when it was not run."""
        queries = {}
        for method in (method for method in BASELINES if method in self.methods):
            reached = [reach(record, level) for record in self.records if record.method == method]
            if 2 * sum(one.censored for one in reached) < len(reached):
                queries[method] = float(np.mean(np.log([max(one.queries, 1.0) for one in reached])))
        if queries:
            return min(queries, key=lambda method: queries[method])
        return BASELINES[0] if BASELINES[0] in self.methods else None

    def reachable(self, method: str, levels: Sequence[float]) -> float:
        """The highest of the levels that the mean curve of a method reaches; when it reaches none, the lowest."""
        runs = [record for record in self.records if record.method == method]
        mean = band(runs, "win_rate") if runs else None
        reached = [level for level in levels if mean is not None and mean.mean_P.max() >= level]
        return max(reached, default=min(levels))


@dataclass(frozen=True)
class Experiment:
    """What is kept of one experiment."""

    records: tuple[Record, ...]

    @property
    def groups(self) -> list[Runs]:
        """Its worlds, losses and kinds of labels."""
        names = dict.fromkeys(record.group for record in self.records)
        places = {world: place for place, world in enumerate(WORLDS)}
        return [
            Runs(*name, tuple(record for record in self.records if record.group == name))
            for name in sorted(names, key=lambda name: places.get(name[0], len(places)))
        ]

    @property
    def seeds(self) -> list[int]:
        """Seeds of its runs."""
        return sorted({record.seed for record in self.records})

    @property
    def cpu_hours(self) -> float:
        """CPU hours of its runs, evaluation included."""
        return sum(record.summary.get("cpu_seconds", 0.0) for record in self.records) / 3600


@dataclass(frozen=True)
class Results:
    """Everything that the page tells. An experiment that was not run is None."""

    experiments: dict[str, Experiment | None]
    again: dict[str, Experiment | None]
    bandit: dict[str, Any] | None
    selection: dict[str, Any] | None

    def repeated(self, name: str) -> list[tuple[Runs, Runs]]:
        """Of an experiment, the runs that were done twice: first and again, with the same methods and seeds."""
        both = self.experiments[name], self.again[name]
        first, again = ({_identity(record): record for record in one.records} if one else {} for one in both)
        shared = [identity for identity in first if identity in again]
        pair = (Experiment(tuple(runs[identity] for identity in shared)) for runs in (first, again))
        return list(zip(*(one.groups for one in pair), strict=True))

    @property
    def cpu_hours(self) -> float:
        """CPU hours of all runs of the experiments."""
        return sum(one.cpu_hours for one in self.experiments.values() if one is not None)


@dataclass
class Figures:
    """The figures that a page asked for, by name, with their kind and sheet."""

    asked: dict[str, tuple[str, Sheet]] = field(default_factory=dict)

    def __call__(self, kind: str, sheet: Sheet, name: str, text: str) -> str:
        """The link to a figure; ``kind`` is a name that ``draw_comparison`` gives."""
        if name in self.asked:
            raise UserError(f"{TEMPLATE.name}: two figures are called {name}")
        self.asked[name] = kind, sheet
        return f"![{text}](figures/{_file(name)})"

    def draw(self, folder: Path) -> None:
        """Draw them to ``folder``, where those of an earlier page are removed."""
        for old in folder.glob(_file("*")):
            old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        sheets = {id(sheet): sheet for _, sheet in self.asked.values()}
        for key, sheet in sheets.items():
            records = [record for runs in sheet.runs.values() for record in runs]
            with tempfile.TemporaryDirectory() as drawn:
                files = draw_comparison(sheet.comparison, records, Path(drawn))
                for name, (kind, its_sheet) in self.asked.items():
                    if id(its_sheet) == key:
                        shutil.move(_only(kind, files), folder / _file(name))


def read_results(folder: Path) -> Results:
    """Read what there is in the folder of the results.

    Raises:
        UserError: naming a file that is not what it should be.
    """

    def experiment(file: Path) -> Experiment | None:
        return Experiment(tuple(read_records(file))) if file.exists() else None

    def bench(name: str) -> dict[str, Any] | None:
        file = folder / f"{name}.json"
        return read_json(file) if file.exists() else None

    return Results(
        experiments={name: experiment(folder / f"{name}.json") for name in EXPERIMENTS},
        again={name: experiment(folder / AGAIN / f"{name}.json") for name in EXPERIMENTS},
        bandit=bench("bandit"),
        selection=bench("selection"),
    )


def render(results: Results) -> tuple[str, Figures]:
    """The page, and the figures it links to."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "rate": _rate,
        "count": _count,
        "decimal": _decimal,
        "queries": _queries,
        "never": _never,
        "times": _times,
        "bootstrap": _bootstrap,
        "student": _student,
        "spent": _spent,
        "triple": _triple,
    }
    figures = Figures()
    page = environment.get_template(TEMPLATE.name).render(
        **results.experiments,
        repeated=results.repeated,
        bandit=results.bandit,
        selection=results.selection,
        cpu_hours=results.cpu_hours,
        level=LEVEL,
        figure=figures,
    )
    return re.sub(r"\n{3,}", "\n\n", page), figures


def factors(results: Results) -> dict[str, Any]:
    """The label-saving factors of DPO with thresholded answers, to four significant digits.

    ``low`` and ``high`` are the ends of the 95 % bootstrap interval, ``t_low`` and ``t_high`` those of the t interval,
    null under three pairs of runs. ``never`` counts runs of the method that did not reach the level, and
    ``baseline_never`` those of the baseline; ``bound`` says what this makes of the factor.
    """
    main = results.experiments["main"]
    saved = {
        runs.world: dict(_factors(runs.against(runs.baseline())))
        for runs in (main.groups if main else ())
        if (runs.loss, runs.labels) == ("dpo", "threshold")
    }
    return {"label_saving_factor": saved}


def write_report(results_dir: Path, docs_dir: Path) -> None:
    """Make everything anew.

    Raises:
        UserError: naming a file of results that is not what it should be.
    """
    results = read_results(results_dir)
    page, figures = render(results)
    docs_dir.mkdir(parents=True, exist_ok=True)
    results_dir.mkdir(parents=True, exist_ok=True)
    figures.draw(docs_dir / "figures")
    (docs_dir / PAGE).write_text(page, encoding="utf-8")
    (results_dir / FACTORS).write_text(to_json(factors(results)), encoding="utf-8")


def to_json(tree: dict[str, Any]) -> str:
    """The text of ``efficiency.json``."""
    return json.dumps(tree, indent=1) + "\n"


def _factors(sheet: Sheet) -> Iterator[tuple[str, dict[str, Any]]]:
    never = {row.method: row.censored for row in sheet.rows}
    for row in sheet.rows:
        if row.factor is None or sheet.baseline is None:
            continue
        yield (
            row.method,
            {
                **{end: _rounded(getattr(row.factor, end)) for end in ("mean", "low", "high")},
                "level": sheet.level,
                "seeds": len(row.factor.ratios),
                "baseline": sheet.baseline,
                **{end: _rounded(getattr(row.factor, end)) for end in ("t_low", "t_high")},
                "bound": row.factor.bound,
                "never": row.censored,
                "baseline_never": never[sheet.baseline],
            },
        )


def _identity(record: Record) -> tuple[Any, ...]:
    """What a run and its repetition have in common."""
    return record.group, record.method, record.seed


def _rounded(value: float | None) -> float | None:
    return None if value is None else four_digits(value)


def _rank(row: MethodFigures) -> tuple[float, float]:
    if _reaches(row):
        return row.censored / len(row.seeds), row.queries.mean
    return 1.0, -row.area.mean if row.area else 0.0


def _reaches(row: MethodFigures) -> bool:
    """Whether any run reached the level. If none did, its queries and factor are those of its budget."""
    return row.censored < len(row.seeds)


def _file(name: str) -> str:
    return f"efficiency-{name}.png"


def _only(kind: str, files: Sequence[Path]) -> Path:
    found = [file for file in files if file.name.startswith(f"{kind}-")]
    if len(found) != 1:
        raise UserError(f"{TEMPLATE.name}: asks for a figure {kind}, but there is {', '.join(f.stem for f in files)}")
    return found[0]


# --- numbers of the page ---------------------------------------------------------------------------------------------


def _rate(value: Estimate | float | None, interval: bool = True, decimals: int = 3) -> str:
    """A win rate or another share, ``.854 [.834, .871]``."""
    return _written(value, lambda number: f"{number:.{decimals}f}".removeprefix("0"), interval)


def _count(value: Estimate | float | None, interval: bool = True) -> str:
    """A whole number, ``1,409 [1,210, 1,590]``."""
    return _written(value, lambda number: f"{number:,.0f}", interval)


def _decimal(value: Estimate | float | None, decimals: int = 1, interval: bool = False) -> str:
    return _written(value, lambda number: f"{number:,.{decimals}f}", interval)


def _queries(row: MethodFigures) -> str:
    """Queries to the level; a lower bound when a run never reached it."""
    return ("≥ " if row.censored else "") + _count(row.queries, _reaches(row))


def _never(row: MethodFigures) -> str:
    return f"{row.censored} of {len(row.seeds)}"


def _times(row: MethodFigures, interval: bool = True) -> str:
    """The factor with its bootstrap interval. A bound at which both sides stopped says nothing."""
    factor = row.factor
    if factor is None:
        return "–"
    sign = {"": "", ">=": "≥ ", "<=": "≤ ", "?": "? "}[factor.bound]
    ends = f" {_bootstrap(row)}" if interval and factor.low is not None and _reaches(row) else ""
    return f"{sign}{factor.mean:.2f}{ends}"


def _bootstrap(row: MethodFigures) -> str:
    return _ends(row, row.factor.low, row.factor.high) if row.factor else "–"


def _student(row: MethodFigures) -> str:
    return _ends(row, row.factor.t_low, row.factor.t_high) if row.factor else "–"


def _ends(row: MethodFigures, low: float | None, high: float | None) -> str:
    return f"[{low:.2f}, {high:.2f}]" if low is not None and high is not None and _reaches(row) else "–"


def _spent(row: MethodFigures, column: str) -> str:
    """What was spent to the level / in all."""
    return " / ".join(_count(spent[column], False) for spent in (row.at_level, row.final))


def _triple(values: Sequence[float], decimals: int) -> str:
    """Mean, low and high as the records of the bandits have them."""
    mean, low, high = values
    return _decimal(Estimate(mean, low, high, ()), decimals, True)


def _written(value: Estimate | float | None, write: Any, interval: bool) -> str:
    if value is None:
        return "–"
    if not isinstance(value, Estimate):
        return str(write(value))
    ends = f" [{write(value.low)}, {write(value.high)}]" if interval and value.low is not None else ""
    return f"{write(value.mean)}{ends}"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    try:
        write_report(arguments.results, arguments.docs)
    except UserError as error:
        parser.error(str(error))
    print(f"{arguments.docs / PAGE}, its figures, and {arguments.results / FACTORS}")


if __name__ == "__main__":
    main()
