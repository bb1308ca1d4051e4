"""The report on sample efficiency tells what the records say, and nothing else; the experiments behind it are valid."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from benchmarks import report
from sea_agent.errors import UserError
from sea_agent.lab.comparison import compare
from sea_agent.lab.records import Record, write_records
from sea_agent.lab.spec import Cell, plan, read_spec

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SPECS = sorted((ROOT / "benchmarks" / "efficiency").glob("*.yaml"))
MakeRuns = Callable[..., list[Record]]
WriteResults = Callable[..., Path]

METHODS = {
    "passive": (960.0, 1536),
    "passive-short": (640.0, 256),
    "uniform-imagined": (120.0, 224),
    "sea": (96.0, 224),
}


def page_of(results: Path) -> str:
    return report.render(report.read_results(results))[0]


def section(page: str, heading: str) -> str:
    (found,) = (part for part in re.split(r"^## ", page, flags=re.MULTILINE) if part.startswith(heading + "\n"))
    return found


def factors_of(results: Path) -> dict[str, Any]:
    return report.factors(report.read_results(results))["label_saving_factor"]


# --- what is in the repository ---------------------------------------------------------------------------------------


def test_the_page_and_the_factors_are_made_from_the_records_of_the_repository() -> None:
    results = report.read_results(RESULTS)
    page, _ = report.render(results)
    assert page == (ROOT / "docs" / report.PAGE).read_text(encoding="utf-8")
    assert report.to_json(report.factors(results)) == (RESULTS / report.FACTORS).read_text(encoding="utf-8")


def test_every_figure_and_file_that_the_page_links_to_is_there() -> None:
    page = (ROOT / "docs" / report.PAGE).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


# --- what the page and the factors say -------------------------------------------------------------------------------


def test_the_factors_are_the_ratios_of_the_queries(make_runs: MakeRuns, write_results: WriteResults) -> None:
    """Every run of passive needs 960 queries; of sea, 96."""
    found = factors_of(write_results(main=make_runs(METHODS)))
    assert set(found) == {"lexicon"}
    assert set(found["lexicon"]) == {"passive-short", "uniform-imagined", "sea"}
    sea = found["lexicon"]["sea"]
    assert (sea["mean"], sea["low"], sea["high"]) == pytest.approx((10.0, 10.0, 10.0))
    assert (sea["level"], sea["seeds"], sea["baseline"], sea["bound"], sea["never"]) == (0.8, 5, "passive", "", 0)
    assert found["lexicon"]["uniform-imagined"]["mean"] == pytest.approx(8.0)
    assert found["lexicon"]["passive-short"] | {"bound": "<=", "never": 5} == found["lexicon"]["passive-short"]


def test_the_factors_are_those_of_the_comparison(make_runs: MakeRuns, write_results: WriteResults) -> None:
    records = [
        record
        for seed in range(5)
        for record in make_runs({"passive": (800.0 + 50 * seed, 1536), "sea": (90.0 - 5 * seed, 224)}, seeds=[seed])
    ]
    found = factors_of(write_results(main=records))["lexicon"]["sea"]
    (group,) = compare(records, level=0.8, baseline="passive").groups
    factor = group.methods[1].factor
    assert factor is not None
    for end in ("mean", "low", "high", "t_low", "t_high"):
        assert found[end] == pytest.approx(getattr(factor, end), rel=1e-3)


def test_other_losses_and_labels_are_not_among_the_factors(make_runs: MakeRuns, write_results: WriteResults) -> None:
    others = make_runs(METHODS, loss="ipo") + make_runs(METHODS, labels="bernoulli")
    assert factors_of(write_results(main=others)) == {}
    assert set(factors_of(write_results(main=others + make_runs(METHODS, world="kitchen")))) == {"kitchen"}


@pytest.mark.parametrize(
    ("long", "short", "baseline", "factor"),
    [
        ((960.0, 1536), (640.0, 256), "passive", 10.0),  # the short horizon never reaches the level
        ((960.0, 1536), (240.0, 256), "passive-short", 2.5),
        ((960.0, 1536), (1200.0, 1536), "passive", 10.0),
        ((3000.0, 1536), (640.0, 256), "passive", 16.0),  # neither does: the long one, as a lower bound
    ],
)
def test_the_baseline_is_the_better_horizon(
    long: tuple[float, int],
    short: tuple[float, int],
    baseline: str,
    factor: float,
    make_runs: MakeRuns,
    write_results: WriteResults,
) -> None:
    found = factors_of(write_results(main=make_runs(METHODS | {"passive": long, "passive-short": short})))
    assert found["lexicon"]["sea"]["baseline"] == baseline
    assert found["lexicon"]["sea"]["mean"] == pytest.approx(factor)
    assert found["lexicon"]["sea"]["bound"] == (">=" if long[0] > long[1] else "")


def test_a_changed_record_changes_the_page_and_the_factors(make_runs: MakeRuns, write_results: WriteResults) -> None:
    records = make_runs(METHODS)
    folder = write_results(main=records)
    before = page_of(folder), factors_of(folder)
    write_results(main=records)
    assert (page_of(folder), factors_of(folder)) == before, "the control: the same records make the same page"
    (slower,) = make_runs({"sea": (144.0, 224)}, seeds=[4])
    write_results(main=[*records[:-1], slower])
    after = page_of(folder), factors_of(folder)
    assert after[0] != before[0]
    assert after[1]["lexicon"]["sea"] != before[1]["lexicon"]["sea"]


def test_tables_show_queries_factors_and_censored_runs(make_runs: MakeRuns, write_results: WriteResults) -> None:
    methods = section(page_of(write_results(main=make_runs(METHODS))), "Methods")
    assert "| `passive` | 5 | 960 [960, 960] | 0 of 5 | – | – | 1,536 |" in methods
    assert "| `sea` | 5 | 96 [96, 96] | 0 of 5 | 10.00 [10.00, 10.00] | [10.00, 10.00] | 224 |" in methods
    assert "| `passive-short` | 5 | ≥ 256 | 5 of 5 | ≤ 3.75 | – | 256 |" in methods


def test_active_selection_is_compared_with_random_pairs(make_runs: MakeRuns, write_results: WriteResults) -> None:
    found = section(page_of(write_results(main=make_runs(METHODS))), "Active selection against random pairs")
    assert "| `sea` | 96 [96, 96] | 1.25 [1.25, 1.25] |" in found


def test_runs_that_were_done_twice_stand_side_by_side(make_runs: MakeRuns, write_results: WriteResults) -> None:
    """On the other machine `sea` needs 120 queries instead of 96, and passive 1,080 instead of 960."""
    folder = write_results(main=make_runs(METHODS))
    assert "## The same runs on other machines" not in page_of(folder)
    elsewhere = {"passive": (1080.0, 1536), "uniform-imagined": (144.0, 224), "sea": (120.0, 224)}
    (folder / report.AGAIN).mkdir()
    write_records(make_runs(elsewhere, seeds=[1, 2, 3, 70]), folder / report.AGAIN / "main.json")
    found = section(page_of(folder), "The same runs on other machines")
    assert "| `passive` | 3 | 960 [960, 960] | 1,080 [1,080, 1,080] | – | – |" in found, "of the seeds that both have"
    assert "| `sea` | 3 | 96 [96, 96] | 120 [120, 120] | 10.00 [10.00, 10.00] | 9.00 [9.00, 9.00] |" in found
    assert "`passive-short`" not in found
    assert "- `lexicon`: 1.25 [1.25, 1.25] times fewer, t interval [1.25, 1.25]; again 1.20 [1.20, 1.20]" in found
    assert "- `lexicon`: judge .650 [.650, .650], again .650 [.650, .650]; distinct .90 [.90, .90], again" in found


def test_tuning_and_ablation_that_were_done_twice_stand_side_by_side(
    make_runs: MakeRuns, write_results: WriteResults
) -> None:
    def runs(queries: float) -> dict[str, list[Record]]:
        return {
            "main": make_runs(METHODS),
            "tuning": make_runs({"passive-beta.1-lr1e-3": (queries, 1536)}, [100, 101]),
            "ablations": make_runs({"variant-1": (queries, 512)}, range(3)),
        }

    folder = write_results(**runs(960.0))
    (folder / report.AGAIN).mkdir()
    for name, records in runs(1080.0).items():
        write_records(records, folder / report.AGAIN / f"{name}.json")
    found = section(page_of(folder), "The same runs on other machines")
    assert "| `passive-beta.1-lr1e-3` | 2 | 960 | 1,080 | .900 | .900 |" in found
    assert "| `variant-1` | 3 | .660 [.660, .660] | .642 [.642, .642] |" in found


def test_a_judge_that_falls_is_told(make_runs: MakeRuns) -> None:
    records = make_runs({"sea": (96.0, 192)}, seeds=range(3))
    risen = report.Experiment(tuple(records)).groups[0].against().judged("sea")
    # The judge rises to .65 where the oracle reaches .8, at half of the queries, and is back at .55 at the end.
    half = len(records[0].curve.queries) // 2
    falling = [
        record.model_copy(
            update={
                "curve": record.curve.model_copy(
                    update={
                        "judge_win_rate": tuple(
                            0.65 - 0.1 * max(0, place - half) / half - 0.15 * max(0, half - place) / half
                            for place in range(len(record.curve.queries))
                        )
                    }
                )
            }
        )
        for record in records
    ]
    sheet = report.Experiment(tuple(falling)).groups[0].against()
    fallen, at_level = sheet.judged("sea"), sheet.at_level("sea", "judge_win_rate")
    assert risen is not None
    assert fallen is not None
    assert at_level is not None
    assert risen.fall == pytest.approx(0.0, abs=1e-9)
    assert (fallen.start.mean, at_level.mean, fallen.end.mean) == pytest.approx((0.5, 0.65, 0.55))
    assert fallen.fall == pytest.approx(0.1)


@pytest.mark.parametrize(("scale", "level"), [(960.0, ".80"), (1750.0, ".75"), (2200.0, ".70"), (9000.0, ".70")])
def test_another_loss_is_told_at_a_level_that_passive_reaches(
    scale: float, level: str, make_runs: MakeRuns, write_results: WriteResults
) -> None:
    """With a slope of .3 for ``scale`` queries, 1,536 of them come to .98, .76, .71 and .55."""
    records = make_runs({"passive": (scale, 1536), "sea": (96.0, 256)}, range(3), loss="ipo")
    assert f"ipo, threshold answers, world `lexicon`: level {level}" in page_of(write_results(losses=records))


def test_what_was_not_run_is_said_to_be_missing(make_runs: MakeRuns, write_results: WriteResults) -> None:
    folder = write_results()
    assert factors_of(folder) == {}
    missing = {"main": "Methods", "losses": "Other losses, and answers that err", "ablations": "SEA's ablation"}
    missing |= {"tuning": "How the settings were picked", "bandit": "Selection without a language model"}
    missing["selection"] = "Active selection against random pairs"
    for name, heading in missing.items():
        assert f"Not run: there is no `benchmarks/results/{name}.json`." in section(page_of(folder), heading)
    page = page_of(write_results(main=make_runs(METHODS)))
    assert "results/main.json`." not in page
    assert "results/losses.json`." in page


def test_ablation_and_tuning_show_every_run(make_runs: MakeRuns, write_results: WriteResults) -> None:
    variants = {f"variant-{number}": (900.0, 512) for number in range(1, 8)}
    settings = {"passive-beta.1-lr1e-3": (960.0, 1536), "sea-beta.5-rounds24": (96.0, 160)}
    page = page_of(write_results(ablations=make_runs(variants, range(3)), tuning=make_runs(settings, [100, 101])))
    for name in variants:
        assert f"| `{name}` |" in section(page, "SEA's ablation")
    for name in settings:
        assert f"`{name}`" in section(page, "How the settings were picked")
    assert "seeds 100 and 101" in page


def test_the_command_writes_the_page_its_figures_and_the_factors(
    make_runs: MakeRuns, write_results: WriteResults, tmp_path: Path
) -> None:
    results, docs = write_results(main=make_runs(METHODS, range(3))), tmp_path / "docs"
    (docs / "figures").mkdir(parents=True)
    for name in ("efficiency-gone.png", "other.png"):
        (docs / "figures" / name).write_text("an earlier figure")
    command = [sys.executable, str(ROOT / "benchmarks" / "report.py"), "--results", str(results), "--docs", str(docs)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    page = (docs / report.PAGE).read_text(encoding="utf-8")
    assert page == page_of(results)
    assert json.loads((results / report.FACTORS).read_text()) == {"label_saving_factor": factors_of(results)}
    asked = re.findall(r"\(figures/(efficiency-[^)]+)\)", page)
    assert len(asked) == 5
    assert sorted(file.name for file in (docs / "figures").iterdir()) == sorted([*asked, "other.png"])
    assert all(matplotlib.image.imread(docs / "figures" / name).std() > 0.01 for name in asked), "something is drawn"


def test_a_broken_file_of_results_is_refused_by_name(write_results: WriteResults) -> None:
    folder = write_results()
    (folder / "main.json").write_text("{}")
    with pytest.raises(UserError, match=r"main\.json"):
        report.read_results(folder)


# --- the experiments -------------------------------------------------------------------------------------------------


def cells(name: str) -> list[Cell]:
    spec = ROOT / "benchmarks" / "efficiency" / f"{name}.yaml"
    return plan(read_spec(spec), spec.name)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.stem)
def test_experiments_are_valid_and_named_after_their_files(spec: Path) -> None:
    assert read_spec(spec).name == spec.stem
    assert cells(spec.stem)


def test_what_the_page_tells_has_its_experiment() -> None:
    assert {*report.EXPERIMENTS, "smoke"} == {spec.stem for spec in SPECS}


def test_settings_were_picked_on_seeds_that_report_nothing_and_on_one_world() -> None:
    tuned = cells("tuning")
    reported = {cell.seed for name in ("main", "losses", "ablations") for cell in cells(name)}
    assert {cell.seed for cell in tuned} & reported == set()
    assert {cell.world for cell in tuned} == {report.WORLDS[0]}


def test_no_fewer_settings_are_tried_of_passive_than_of_sea() -> None:
    tuned = cells("tuning")
    assert len({str(cell.config) for cell in tuned}) == len(tuned), "no setting is tried twice"
    passive = {cell.method for cell in tuned if cell.config.selection.rule == "passive"}
    active = {cell.method for cell in tuned} - passive
    assert len(passive) >= len(active) > 1


def test_the_settings_of_the_main_experiment_are_among_those_that_were_tried() -> None:
    def settings(cell: Cell) -> tuple[Any, ...]:
        config = cell.config
        learner = config.learner.beta, config.learner.learning_rate
        candidates = config.sampler.candidates, config.sampler.reference_candidates
        return config.selection.rule, *learner, *candidates, config.imagination.rounds, config.posterior.features

    tried = {settings(cell) for cell in cells("tuning")}
    chosen = [cell for cell in cells("main") if cell.method in ("passive", "passive-short", "sea", "sea-bai")]
    assert {cell.method for cell in chosen if settings(cell) not in tried} == set()


def test_each_loss_asks_as_much_as_it_says() -> None:
    budgets = {(cell.loss, cell.method): cell.config.budget.oracle_queries for cell in cells("losses")}
    for loss, active in (("ipo", 384), ("slic", 192), ("dpo-bernoulli", 256)):
        assert [budgets[loss, method] for method in ("passive", "uniform-imagined", "sea")] == [1536, active, active]
    kinds = {(cell.loss, cell.config.learner.loss, cell.config.oracle.labels) for cell in cells("losses")}
    assert kinds == {("ipo", "ipo", "threshold"), ("slic", "slic", "threshold"), ("dpo-bernoulli", "dpo", "bernoulli")}


def test_the_makefile_runs_every_experiment_and_then_the_report() -> None:
    command = ["make", "--dry-run", "--no-print-directory", "efficiency"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert f"for name in {' '.join(report.EXPERIMENTS)};" in done.stdout
    assert done.stdout.rstrip().endswith("-m benchmarks.report")
