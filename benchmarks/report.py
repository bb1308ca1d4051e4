"""Fill in the tables of docs/sample-efficiency.md, and write its figures and data, from the records of the experiments.

    python -m benchmarks.report [--results DIR] [--docs DIR]

Reads ``benchmarks/results``; its folder ``again`` holds the runs that were done a second time. The page is written by
hand: only the lines between ``<!-- table: NAME -->`` and ``<!-- end -->`` are replaced. ``data/efficiency-*.csv``,
beside the page, have every method at every level, every run, and the runs that were done twice. ``efficiency.json``,
beside the records, has the label-saving factors.
"""

import argparse
import csv
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.compute import compute_table
from benchmarks.real_text import draw_frontiers, real_tables
from benchmarks.tables import (
    LEVEL,
    LEVELS,
    OURS,
    RANDOM,
    Runs,
    ablation_table,
    again_table,
    cells,
    groups,
    loss_table,
    main_tables,
    tilted_table,
    trusted_table,
    tuned,
    worlds,
)
from sea_agent.errors import UserError
from sea_agent.lab.comparison import FINAL, SPENT, compare
from sea_agent.lab.figures import draw_comparison
from sea_agent.lab.records import Record, four_digits, read_json, read_records
from sea_agent.lab.tables import rows as rows_of

ROOT = Path(__file__).parent.parent
PAGE = "sample-efficiency.md"
FACTORS = "efficiency.json"
REPEATED = ("tuning", "main", "losses", "ablations")
EXPERIMENTS = (
    "reviews-tuning",
    "reviews",
    "tastes",
    "noisy",
    "active",
    "compute",
    "compute-toys",
    "trusted",
    *REPEATED,
)
DRAWN = ("passive", "passive-short", "sea_ee", *OURS, "sea-policy-features")
_MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Results:
    """The records of each experiment, those of the runs that were done again, and the bench of the rules."""

    first: dict[str, Runs]
    again: dict[str, Runs]
    selection: dict[str, Any]

    def repeated(self, name: str) -> tuple[Runs, Runs]:
        """The runs of an experiment that were done twice: first and again, paired by method and seed."""
        both = (self.first[name], self.again.get(name, []))
        first, again = ({(run.group, run.method, run.seed): run for run in runs} for runs in both)
        shared = [run for run in first if run in again]
        return [first[run] for run in shared], [again[run] for run in shared]


def read_results(folder: Path) -> Results:
    """Read the folder of the results.

    Raises:
        UserError: naming a file that is missing or not what it should be.
    """
    first, again = (
        {name: read_records(place / f"{name}.json") for name in names}
        for place, names in ((folder, EXPERIMENTS), (folder / "again", REPEATED))
    )
    return Results(first, again, read_json(folder / "selection.json"))


def tables(results: Results) -> dict[str, str]:
    """The tables of the page by name, as Markdown."""
    return main_tables(worlds(results.first["main"])) | {
        "again": again_table(*(worlds(runs) for runs in results.repeated("main"))),
        "trusted": trusted_table(worlds(results.first["trusted"])),
        "compute-toys": compute_table(results.first["compute-toys"], results.first["trusted"], "sea"),
        "losses": loss_table(results.first["losses"]),
        "ablation": ablation_table(results.first["ablations"]),
        "tilted": tilted_table(results.selection),
        **real_tables(results.first),
    }


def fill(page: str, made: Mapping[str, str]) -> str:
    """The page with its tables.

    Raises:
        UserError: when a marker names no table, or a table has no marker.
    """
    marked = [name for _, name, _ in _MARKED.findall(page)]
    if sorted(marked) != sorted(made):
        raise UserError(
            f"{PAGE}: the markers must name each of these tables once: {', '.join(sorted(made))}; "
            f"found {', '.join(sorted(marked))}"
        )
    return _MARKED.sub(lambda found: found[1] + made[found[2]] + found[3], page)


# --- data, figures and factors ---------------------------------------------------------------------------------------


def data(results: Results) -> dict[str, list[dict[str, Any]]]:
    """The rows of the CSV files: each method at each level, against each baseline of the page; each run; and the
    methods again with only those runs that were done twice."""
    found: dict[str, list[dict[str, Any]]] = {"methods": [], "runs": [], "again": []}
    for name in EXPERIMENTS:
        found["methods"] += [{"experiment": name} | row for row in _method_rows(results.first[name])]
        for time, twice, runs in zip(
            ("first", "again"), results.repeated(name), (results.first, results.again), strict=True
        ):
            found["again"] += [{"experiment": name, "time": time} | row for row in _method_rows(twice)]
            found["runs"] += [{"experiment": name, "time": time} | _run_row(run) for run in runs.get(name, [])]
    return found


def _method_rows(runs: Runs) -> Iterator[dict[str, Any]]:
    for group in groups(runs):
        methods = {run.method for run in group}
        for level in LEVELS:
            for baseline in dict.fromkeys((tuned(group, level), *methods & {RANDOM})):
                there = {cell.row.method: cell for cell in cells(group, baseline, level=level)}
                for row in rows_of(compare(group, level=level, baseline=baseline)):
                    cell = there[row["method"]]
                    judged = {f"{key}_at_level": (value := cell.there(key)) and value.mean for key in FINAL}
                    yield row | judged | {"judge_below_its_peak": cell.fall}


def _run_row(run: Record) -> dict[str, Any]:
    names = ("world", "loss", "labels", "method", "seed", "model", "budget")
    return (
        {name: getattr(run, name) for name in names}
        | {f"queries_to_{level:.2f}": run.curve.queries_to(level) for level in LEVELS}
        | {name: values and values[-1] for name in (*FINAL, *SPENT) for values in [getattr(run.curve, name)]}
        | {"judge_at_start": run.curve.judge_win_rate and run.curve.judge_win_rate[0]}
    )


def factors(main: Runs) -> dict[str, Any]:
    """The label-saving factors of DPO with thresholded answers, to four significant digits.

    ``low`` and ``high`` are the ends of the 95 % bootstrap interval, ``t_low`` and ``t_high`` those of the t interval,
    null under three pairs of runs. ``never`` counts runs of the method that did not reach the level, and
    ``baseline_never`` those of the baseline; ``bound`` says what this makes of the factor.
    """
    saved: dict[str, dict[str, Any]] = {}
    for world, runs in worlds(main).items():
        first, *others = cells(runs, tuned(runs))
        saved[world] = {
            cell.row.method: {
                **{key: value and four_digits(value) for key, value in asdict(cell.row.factor).items() if key in _ENDS},
                **{"level": LEVEL, "seeds": len(cell.row.factor.ratios), "baseline": first.row.method},
                **{"bound": cell.row.factor.bound, "never": cell.row.censored, "baseline_never": first.row.censored},
            }
            for cell in others
            if cell.row.factor is not None
        }
    return {"label_saving_factor": saved}


_ENDS = ("mean", "low", "high", "t_low", "t_high")


def draw(main: Runs, folder: Path) -> None:
    """Draw the figures; those of an earlier page are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("efficiency-*.png"):
        old.unlink()
    for world, runs in worlds(main).items():
        shown = [run for method in DRAWN for run in runs if run.method == method]
        with tempfile.TemporaryDirectory() as drawn:
            draw_comparison(compare(shown, level=LEVEL, baseline=tuned(runs)), shown, Path(drawn))
            for kind in ("win-rate", "judge"):
                shutil.move(
                    Path(drawn) / f"{kind}-{world}-dpo-threshold.png", folder / f"efficiency-{kind}-{world}.png"
                )


def write_report(results_dir: Path, docs_dir: Path) -> None:
    """Fill in the page, and write the figures, the data and the factors.

    Raises:
        UserError: naming a file of results that is not what it should be, or markers that do not fit the tables.
    """
    results, page = read_results(results_dir), docs_dir / PAGE
    page.write_text(fill(page.read_text(encoding="utf-8"), tables(results)), encoding="utf-8")
    draw(results.first["main"], docs_dir / "figures")
    draw_frontiers(results.first, docs_dir / "figures")
    (results_dir / FACTORS).write_text(to_json(factors(results.first["main"])), encoding="utf-8")
    (docs_dir / "data").mkdir(exist_ok=True)
    for name, rows in data(results).items():
        (docs_dir / "data" / f"efficiency-{name}.csv").write_text(to_csv(rows), encoding="utf-8")


def to_json(tree: dict[str, Any]) -> str:
    """The text of ``efficiency.json``."""
    return json.dumps(tree, indent=1) + "\n"


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The text of a CSV file, floats with four significant digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: four_digits(value) if isinstance(value, float) else value for key, value in row.items()})
    return text.getvalue()


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
    print(f"{arguments.docs / PAGE}, its figures and data, and {arguments.results / FACTORS}")


if __name__ == "__main__":
    main()
