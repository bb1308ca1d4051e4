"""The page on sample efficiency says what the records say, and the experiments behind it are valid."""

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from benchmarks import compute, real_text, report, tables
from benchmarks.report import Results
from benchmarks.tables import Cell, cells, tuned, worlds
from sea_agent.errors import UserError
from sea_agent.lab.comparison import compare
from sea_agent.lab.records import Record
from sea_agent.lab.spec import Cell as Planned
from sea_agent.lab.spec import plan, read_spec

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / report.PAGE
SPECS = sorted((ROOT / "benchmarks" / "efficiency").glob("*.yaml"))
MakeRuns = Callable[..., list[Record]]

METHODS = {
    "passive": (960.0, 1536),
    "passive-short": (640.0, 256),
    "uniform-imagined": (120.0, 224),
    "sea": (96.0, 224),
}


@cache
def results() -> Results:
    return report.read_results(RESULTS)


# --- what is in the repository ---------------------------------------------------------------------------------------


def test_the_data_has_every_run_and_every_method() -> None:
    """Of the files in the repository, which the command's test compares with what the records say."""
    files = {name: ROOT / "docs" / "data" / f"efficiency-{name}.csv" for name in ("runs", "methods")}
    found = {name: list(csv.DictReader(file.open(newline=""))) for name, file in files.items()}
    assert len(found["runs"]) == sum(len(runs) for kept in (results().first, results().again) for runs in kept.values())
    for name, runs in results().first.items():
        methods = {(run.world, run.loss, run.method, f"{level}") for run in runs for level in tables.LEVELS}
        rows = [row for row in found["methods"] if row["experiment"] == name]
        assert {(row["world"], row["loss"], row["method"], row["level"]) for row in rows} == methods


def test_every_file_that_the_page_links_to_is_there() -> None:
    found = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE.read_text(encoding="utf-8"))
    links = [link for link in found if "://" not in link]
    assert len(links) > 10
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


# --- how the tables are made -----------------------------------------------------------------------------------------


def of(runs: list[Record], method: str, baseline: str | None = None, level: float = tables.LEVEL) -> Cell:
    (found,) = cells(runs, baseline or tuned(runs, level), [method], level)
    return found


def test_the_factors_are_the_ratios_of_the_queries(make_runs: MakeRuns) -> None:
    """Every run of passive needs 960 queries; of sea, 96."""
    found = report.factors(make_runs(METHODS))["label_saving_factor"]
    assert set(found) == {"lexicon"}
    assert set(found["lexicon"]) == {"passive-short", "uniform-imagined", "sea"}
    sea = found["lexicon"]["sea"]
    assert (sea["mean"], sea["low"], sea["high"]) == pytest.approx((10.0, 10.0, 10.0))
    assert (sea["level"], sea["seeds"], sea["baseline"], sea["bound"], sea["never"]) == (0.8, 5, "passive", "", 0)
    assert found["lexicon"]["uniform-imagined"]["mean"] == pytest.approx(8.0)
    assert found["lexicon"]["passive-short"] | {"bound": "<=", "never": 5} == found["lexicon"]["passive-short"]


def test_the_factors_are_those_of_the_comparison(make_runs: MakeRuns) -> None:
    records = [
        record
        for seed in range(5)
        for record in make_runs({"passive": (800.0 + 50 * seed, 1536), "sea": (90.0 - 5 * seed, 224)}, seeds=[seed])
    ]
    found = report.factors(records)["label_saving_factor"]["lexicon"]["sea"]
    (group,) = compare(records, level=0.8, baseline="passive").groups
    factor = group.methods[1].factor
    assert factor is not None
    for end in ("mean", "low", "high", "t_low", "t_high"):
        assert found[end] == pytest.approx(getattr(factor, end), rel=1e-3)


def test_other_losses_and_labels_are_not_among_the_factors(make_runs: MakeRuns) -> None:
    others = make_runs(METHODS, loss="ipo") + make_runs(METHODS, labels="bernoulli")
    assert report.factors(others) == {"label_saving_factor": {}}
    both = report.factors(others + make_runs(METHODS, world="kitchen"))
    assert set(both["label_saving_factor"]) == {"kitchen"}


@pytest.mark.parametrize(
    ("long", "short", "baseline", "factor"),
    [
        ((960.0, 1536), (640.0, 256), "passive", "10.00"),  # the short horizon never reaches the level
        ((960.0, 1536), (240.0, 256), "passive-short", "2.50"),
        ((960.0, 1536), (1200.0, 1536), "passive", "10.00"),
        ((3000.0, 1536), (640.0, 256), "passive", "≥ 16.00"),  # neither does: the long one, as a lower bound
    ],
)
def test_the_baseline_is_the_better_horizon(
    long: tuple[float, int], short: tuple[float, int], baseline: str, factor: str, make_runs: MakeRuns
) -> None:
    found = of(make_runs(METHODS | {"passive": long, "passive-short": short}), "sea")
    assert found.baseline == baseline
    assert tables.times(found.row).split(" [")[0] == factor


def test_tables_show_answers_factors_and_censored_runs(make_runs: MakeRuns) -> None:
    runs = make_runs(METHODS)
    found = tables.main_tables(worlds(runs))
    assert "| `passive` | 5 | 960 [960, 960] | 0 of 5 | – | – | 1,536 |" in found["methods-lexicon"]
    assert "| `sea` | 5 | 96 [96, 96] | 0 of 5 | 10.00 [10.00, 10.00] | [10.00, 10.00] |" in found["methods-lexicon"]
    assert "| `passive-short` | 5 | ≥ 256 | 5 of 5 | ≤ 3.75 | – | 256 |" in found["methods-lexicon"]
    assert "| lexicon | `sea` | 5 | 96 [96, 96] | 1.25 [1.25, 1.25] |" in found["active"]
    (slower,) = make_runs({"sea": (144.0, 224)}, seeds=[4])
    assert tables.main_tables(worlds([*runs[:-1], slower]))["headline"] != found["headline"]


def test_runs_that_were_done_twice_stand_side_by_side(make_runs: MakeRuns) -> None:
    """On the other machine `sea` needs 120 queries instead of 96, and passive 1,080 instead of 960."""
    elsewhere = {"passive": (1080.0, 1536), "uniform-imagined": (144.0, 224), "sea": (120.0, 224)}
    both = {"main": make_runs(METHODS)}, {"main": make_runs(elsewhere, seeds=[1, 2, 3, 70])}
    found = tables.again_table(*map(worlds, Results(*both, selection={}).repeated("main")))
    assert "| lexicon | `sea` | `passive` | 3 | 10.00 [10.00, 10.00] | [10.00, 10.00] | 9.00 [9.00, 9.00] |" in found
    assert "| lexicon | `sea` | `uniform-imagined` | 3 | 1.25 [1.25, 1.25] | [1.25, 1.25] | 1.20" in found


def test_a_judge_that_falls_is_shown(make_runs: MakeRuns) -> None:
    records = make_runs({"sea": (96.0, 192)}, seeds=range(3))
    risen = of(records, "sea")
    # The judge rises to .65 where the oracle reaches .8, at half of the queries, and is back at .55 at the end.
    half = len(records[0].curve.queries) // 2
    judged = tuple(
        0.65 - 0.1 * max(0, place - half) / half - 0.15 * max(0, half - place) / half for place in range(2 * half + 1)
    )
    falling = [
        run.model_copy(update={"curve": run.curve.model_copy(update={"judge_win_rate": judged})}) for run in records
    ]
    fallen = of(falling, "sea")
    assert risen.fall == pytest.approx(0.0, abs=1e-9)
    assert fallen.fall == pytest.approx(0.1)
    there, end = fallen.there("judge_win_rate"), fallen.last("judge_win_rate")
    assert there is not None
    assert end is not None
    assert (there.mean, end.mean) == pytest.approx((0.65, 0.55))


@pytest.mark.parametrize(("scale", "level"), [(960.0, 0.8), (1750.0, 0.75), (2200.0, 0.7), (9000.0, 0.7)])
def test_another_loss_is_shown_at_a_level_that_passive_reaches(scale: float, level: float, make_runs: MakeRuns) -> None:
    """With a slope of .3 for ``scale`` queries, 1,536 of them come to .98, .76, .71 and .55."""
    records = make_runs({"passive": (scale, 1536), "sea": (96.0, 256)}, range(3), loss="ipo")
    assert tables.level_of(records) == level
    assert f"| ipo, threshold | {tables.rate(level, 2)} | `sea` |" in tables.loss_table(records)


def test_markers_must_fit_the_tables() -> None:
    page = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n"
    assert report.fill(page, {"one": "new\n"}) == "a\n<!-- table: one -->\nnew\n<!-- end -->\nb\n"
    for made in ({}, {"two": "new\n"}, {"one": "new\n", "two": "new\n"}):
        with pytest.raises(UserError, match=r"each of these tables once: .*found one"):
            report.fill(page, made)


def test_the_command_writes_the_page_its_figures_data_and_factors_as_they_are_here(tmp_path: Path) -> None:
    docs, records = tmp_path / "docs", tmp_path / "results"
    (docs / "figures").mkdir(parents=True)
    for name in ("efficiency-gone.png", "other.png"):
        (docs / "figures" / name).write_text("an earlier figure")
    shutil.copytree(RESULTS, records)
    (records / report.FACTORS).unlink()
    page = PAGE.read_text(encoding="utf-8")
    emptied = re.sub(r"(<!-- table: \S+ -->\n).*?(<!-- end -->)", r"\1\2", page, flags=re.DOTALL)
    assert emptied != page
    (docs / report.PAGE).write_text(emptied, encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.report", "--results", str(records), "--docs", str(docs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (docs / report.PAGE).read_text(encoding="utf-8") == page
    assert (records / report.FACTORS).read_text() == (RESULTS / report.FACTORS).read_text()
    written = {file.name: file.read_text() for file in (docs / "data").iterdir()}
    assert sorted(written) == ["efficiency-again.csv", "efficiency-methods.csv", "efficiency-runs.csv"]
    for name, text in written.items():
        assert text == (ROOT / "docs" / "data" / name).read_text(), name
    asked = re.findall(r"\(figures/(efficiency-[^)]+)\)", page)
    assert sorted(file.name for file in (docs / "figures").iterdir()) == sorted([*asked, "other.png"])
    assert all(matplotlib.image.imread(docs / "figures" / name).std() > 0.01 for name in asked), "something is drawn"


def test_a_broken_or_missing_file_of_results_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(RESULTS, folder)
    (folder / "again" / "losses.json").unlink()
    with pytest.raises(UserError, match=r"again/losses\.json"):
        report.read_results(folder)
    (folder / "main.json").write_text("{}")
    with pytest.raises(UserError, match=r"main\.json"):
        report.read_results(folder)


# --- the experiments -------------------------------------------------------------------------------------------------


def planned(name: str) -> list[Planned]:
    spec = ROOT / "benchmarks" / "efficiency" / f"{name}.yaml"
    return plan(read_spec(spec), spec.name)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.stem)
def test_experiments_are_valid_and_named_after_their_files(spec: Path) -> None:
    assert read_spec(spec).name == spec.stem
    assert planned(spec.stem)


def test_what_the_page_tells_has_its_experiment() -> None:
    """`smoke` belongs to the tests."""
    assert {*report.EXPERIMENTS, "smoke"} == {spec.stem for spec in SPECS}


def test_settings_were_picked_on_seeds_that_report_nothing_and_on_one_world() -> None:
    tuned = planned("tuning")
    reported = {cell.seed for name in ("main", "losses", "ablations") for cell in planned(name)}
    assert {cell.seed for cell in tuned} & reported == set()
    assert {cell.world for cell in tuned} == {tables.WORLDS[0]}
    real = {cell.seed for name in ("reviews", "tastes") for cell in planned(name)}
    assert {cell.seed for cell in planned("reviews-tuning")} & real == set()


def test_the_baselines_of_real_english_are_among_the_settings_that_were_tried() -> None:
    def settings(cell: Planned) -> tuple[float, float]:
        return cell.config.learner.beta, cell.config.learner.learning_rate

    tried = {settings(cell) for cell in planned("reviews-tuning")}
    for name in ("reviews", "tastes"):
        baselines = [cell for cell in planned(name) if cell.method in real_text.BASELINES]
        assert {cell.method for cell in baselines} == set(real_text.BASELINES)
        assert {settings(cell) for cell in baselines} <= tried


def test_the_page_tells_of_compute_what_the_experiment_sets() -> None:
    both = (("compute", None), ("compute-toys", None))
    told = {
        cell.method: (cell.config.imagination.rounds, cell.config.imagination.batches)
        for name, methods in (("reviews", {"sea-prior"}), ("trusted", {"sea"}), *both)
        for cell in planned(name)
        if methods is None or cell.method in methods
    }
    assert told == compute.COMPUTE
    for name, _ in both:
        assert {cell.config.sampler.candidates for cell in planned(name)} == {compute.CANDIDATES}


def test_the_same_method_has_the_same_settings_in_both_experiments() -> None:
    shared = ({c.seed: c.config for c in planned(name) if c.method == "sea-prior"} for name in ("reviews", "active"))
    first, again = shared
    assert first == {seed: again[seed] for seed in first}


# --- real English ----------------------------------------------------------------------------------------------------


def real(make_runs: MakeRuns, sea: float, kl: float = 3.0) -> list[Record]:
    """Runs of `reviews` that end ``kl`` nats away, where two samples always differ and the judge agrees.

    Both baselines need 240 answers, `sea` as many as is said, and with a score it needs 60.
    """
    methods = dict.fromkeys(real_text.BASELINES, (240.0, 256)) | {"sea": (sea, 256)}
    methods["sea-prior"] = (60.0, 96)
    runs = make_runs(methods, world="reviews")
    ends = {"distinct_share": 1.0, "judge_win_rate": 0.7}

    def measured(run: Record) -> Record:
        points = len(run.curve.queries)
        columns = {name: (value,) * points for name, value in ends.items()}
        columns["kl_to_reference"] = tuple(kl * point / (points - 1) for point in range(points))
        return run.model_copy(update={"curve": run.curve.model_copy(update=columns)})

    return [measured(run) for run in runs]


def test_answers_of_real_english_count_within_bounds_only(make_runs: MakeRuns) -> None:
    near = real(make_runs, 96.0)
    far = real(make_runs, 96.0, kl=20.0)
    first = {
        "reviews-tuning": near,
        "reviews": near,
        "noisy": near,
        "active": make_runs({"uniform-prior": (90.0, 96), "sea-prior": (60.0, 96)}, world="reviews"),
        "compute": make_runs({"rounds-4": (80.0, 96)}, world="reviews"),
        "tastes": [run.model_copy(update={"world": "tastes"}) for run in near],
    }
    found = real_text.real_tables(first)
    assert "| `sea` | 5 | 96 [96, 96] | 0 of 5 | 2.50 [2.50, 2.50] |" in found["bounded-reviews"]
    beyond = real_text.real_tables(first | {"reviews": far})
    assert "| `sea` | 5 | ≥ 256 | 5 of 5 |" in beyond["bounded-reviews"]
    assert "| `sea` | 5 | 96 [96, 96] | 0 of 5 |" in beyond["unbounded-reviews"]
    assert "| `sea-prior` | 5 | 60 [60, 60] | 1.50 [1.50, 1.50] |" in found["active-reviews"]
    (fewer,) = [line for line in found["compute"].splitlines() if line.startswith("| 4 | 1 |")]
    assert "| 5 | 80 [80, 80] | 0 of 5 | 0.75 [0.75, 0.75] |" in fewer
    assert fewer.endswith("| 42 |")


def test_arithmetic_is_counted_in_batches_of_passive_dpo() -> None:
    """Passive: two responses sampled, and learnt from by two forwards and a backward, which is two: ten passes."""
    assert compute.passive_batches(0, 2) == (2 * 2 + 2 * 4) / 10
    page = " ".join((ROOT / "docs" / report.PAGE).read_text(encoding="utf-8").split())
    assert "cost little more than a quarter of the arithmetic of eight rounds" in page
    assert 0.25 < compute.passive_batches(2, 16) / compute.passive_batches(8, 16) < 0.3
    assert "which is twelve passive batches for each answered one" in page
    assert compute.passive_batches(2, 8) == 12
    assert compute.passive_batches(3, 8) - compute.passive_batches(0, 8) == pytest.approx(3 * 8 * 6 / 10)


def test_harm_is_the_worst_difference_to_the_baseline(make_runs: MakeRuns) -> None:
    """After 256 answers passive has .5 + .3 · 256 / 240, and the other method half of the rise."""
    runs = real(make_runs, 480.0)
    first = dict.fromkeys(("reviews-tuning", "reviews", "noisy", "tastes", "compute"), runs)
    first["active"] = make_runs({"uniform-prior": (90.0, 96), "sea-prior": (60.0, 96)}, world="reviews")
    shown = next(line for line in real_text.real_tables(first)["harm"].splitlines() if "reviews | `sea`" in line)
    assert "| 5 | -.160 [-.160, -.160] | 256 |" in shown


def test_no_fewer_settings_are_tried_of_passive_than_of_sea() -> None:
    tuned = planned("tuning")
    assert len({str(cell.config) for cell in tuned}) == len(tuned), "no setting is tried twice"
    passive = {cell.method for cell in tuned if cell.config.selection.rule == "passive"}
    active = {cell.method for cell in tuned} - passive
    assert len(passive) >= len(active) > 1


def test_the_settings_of_the_main_experiment_are_among_those_that_were_tried() -> None:
    def settings(cell: Planned) -> tuple[Any, ...]:
        config = cell.config
        learner = config.learner.beta, config.learner.learning_rate
        candidates = config.sampler.candidates, config.sampler.reference_candidates
        return config.selection.rule, *learner, *candidates, config.imagination.rounds, config.posterior.features

    tried = {settings(cell) for cell in planned("tuning")}
    chosen = [cell for cell in planned("main") if cell.method in ("passive", "passive-short", "sea", "sea-bai")]
    assert {cell.method for cell in chosen if settings(cell) not in tried} == set()


def test_each_loss_asks_as_much_as_it_says() -> None:
    budgets = {(cell.loss, cell.method): cell.config.budget.oracle_queries for cell in planned("losses")}
    for loss, active in (("ipo", 384), ("slic", 192), ("dpo-bernoulli", 256)):
        assert [budgets[loss, method] for method in ("passive", "uniform-imagined", "sea")] == [1536, active, active]
    kinds = {(cell.loss, cell.config.learner.loss, cell.config.oracle.labels) for cell in planned("losses")}
    assert kinds == {("ipo", "ipo", "threshold"), ("slic", "slic", "threshold"), ("dpo-bernoulli", "dpo", "bernoulli")}


def test_the_makefile_runs_every_experiment_and_then_the_report() -> None:
    command = ["make", "--dry-run", "--no-print-directory", "efficiency"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert f"for name in {' '.join(report.EXPERIMENTS)};" in done.stdout
    assert done.stdout.rstrip().endswith("-m benchmarks.report")
