"""The numbers of the page: those of `sea-agent compare` on the same runs, and of ledgers those that were written."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dashboard.runs import append, finish, make_experiment, make_run, row, win_rate
from scipy import stats

from sea_agent.dashboard import comparing, single
from sea_agent.dashboard.board import Board
from sea_agent.dashboard.chosen import Selection, choose
from sea_agent.dashboard.comparing import BELIEFS, comparison_view, curves_view
from sea_agent.dashboard.files import Tail
from sea_agent.dashboard.ledgers import Filter
from sea_agent.errors import UserError
from sea_agent.lab.comparison import area, band
from sea_agent.lab.reading import load_records
from sea_agent.persistence.ledger import Ledger
from sea_agent.types import LabelSource, Outcome

Finished = Any


def chosen(root: Path, ids: Sequence[str] = (), group: tuple[str, str, str] | None = None) -> Selection:
    return choose(Board(root).select(ids), group)


def compared(sea_agent: Callable[..., Finished], *arguments: str | Path) -> dict[str, Any]:
    """What the command line writes about the same runs."""
    assert sea_agent("compare", *arguments, "--out", "compared").code == 0
    return json.loads(Path("compared/comparison.json").read_text())


def plain(view: dict[str, Any]) -> list[dict[str, Any]]:
    """The methods of a view as JSON, without what the command line does not tell."""
    methods = json.loads(json.dumps(view["methods"]))
    return [{key: value for key, value in row.items() if key not in ("so_far", "runs")} for row in methods]


# --- the comparison --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "baseline"), [(0.8, None), (0.7, "sea"), (0.95, "passive")])
def test_the_figures_are_those_of_the_command_line(
    level: float, baseline: str | None, tmp_path: Path, sea_agent: Callable[..., Finished]
) -> None:
    make_experiment(tmp_path / "runs" / "main", seeds=4, rounds=12, duels=0)
    make_run(tmp_path / "runs" / "broken", finished=False).joinpath("error.txt").write_text("no\n")
    named = [] if baseline is None else ["--baseline", baseline]
    (group,) = compared(sea_agent, tmp_path / "runs", "--level", str(level), *named)["groups"]
    view = comparison_view(chosen(tmp_path / "runs"), level, baseline)
    assert plain(view) == group["methods"]
    assert (view["horizon"], list(view["group"])) == (
        group["horizon"],
        [group["world"], group["loss"], group["labels"]],
    )
    assert view["left_out"] == [{"run": "broken", "why": "failed"}]


def test_the_table_is_that_of_the_command_line(tmp_path: Path, sea_agent: Callable[..., Finished]) -> None:
    make_experiment(tmp_path / "runs", seeds=3, rounds=12, duels=0)
    compared(sea_agent, tmp_path / "runs")
    header, *lines = Path("compared/comparison.csv").read_text().splitlines()
    table = comparing.comparison_table(chosen(tmp_path / "runs"), 0.8, None)
    assert [*table[0]] == [*header.split(","), "so_far"]
    assert len(table) == len(lines) == 2


def test_plain_runs_are_grouped_as_on_the_command_line(tmp_path: Path, sea_agent: Callable[..., Finished]) -> None:
    for name, seed, beta in (("a", 0, 0.1), ("b", 1, 0.1), ("c", 2, 0.5)):
        make_run(tmp_path / "runs" / name, seed=seed, settings=[f"learner.beta={beta}"])
    (group,) = compared(sea_agent, tmp_path / "runs")["groups"]
    view = comparison_view(chosen(tmp_path / "runs"), 0.8, None)
    assert [row["method"] for row in view["methods"]] == ["passive (a)", "passive (c)"]
    assert plain(view) == group["methods"]


def test_one_group_is_compared_at_a_time(tmp_path: Path) -> None:
    make_run(tmp_path / "a", rounds=2)
    make_run(tmp_path / "b", seed=1, rounds=2)
    make_run(tmp_path / "c", rounds=2, settings=["learner.loss=ipo"])
    view = comparison_view(chosen(tmp_path), 0.8, None)
    assert view["groups"] == [
        {"group": ("lexicon", "dpo", "threshold"), "runs": 2},
        {"group": ("lexicon", "ipo", "threshold"), "runs": 1},
    ]
    assert [run["id"] for row in view["methods"] for run in row["runs"]] == ["a", "b"]
    other = comparison_view(chosen(tmp_path, group=("lexicon", "ipo", "threshold")), 0.8, None)
    assert [run["id"] for row in other["methods"] for run in row["runs"]] == ["c"]


def test_unfinished_runs_change_no_figure_of_a_method_that_has_finished_ones(tmp_path: Path) -> None:
    make_experiment(tmp_path, seeds=4, rounds=12, duels=0)
    before = plain(comparison_view(chosen(tmp_path), 0.8, None))
    cell = {"world": "lexicon", "loss": "dpo", "method": "sea", "seed": 9, "model": 0}
    make_run(tmp_path / "lexicon" / "sea" / "seed-9", "sea", 9, rounds=1, finished=False, cell=cell)
    view = comparison_view(chosen(tmp_path), 0.8, None)
    assert plain(view) == before
    runs = {run["seed"]: run["state"] for row in view["methods"] if row["method"] == "sea" for run in row["runs"]}
    assert runs == {0: "finished", 1: "finished", 2: "finished", 3: "finished", 9: "unknown"}
    finish(tmp_path / "lexicon" / "sea" / "seed-9", 8)
    assert plain(comparison_view(chosen(tmp_path), 0.8, None)) != before, "the control: it counts when it is finished"


def test_a_method_that_only_runs_yet_is_told_so_far(tmp_path: Path) -> None:
    make_run(tmp_path / "passive", rounds=12)
    running = make_run(tmp_path / "sea", "sea", rounds=4, finished=False)
    board = Board(tmp_path)

    def figures() -> dict[str, Any]:
        board.look()
        return comparison_view(choose(board.select(()), None), 0.8, "passive")["methods"][1]

    sea = figures()
    assert (sea["so_far"], sea["censored"], sea["queries"]["mean"]) == (True, 1, 32.0)
    assert sea["factor"]["bound"] == "?", "neither has reached the level"
    append(running, *(row(number, 8 * number, win_rate("sea", 0, 8 * number)) for number in range(5, 20)))
    sea = figures()
    assert (sea["censored"], sea["factor"]["bound"]) == (0, ">=")


def test_a_run_that_has_only_begun_is_shown(tmp_path: Path) -> None:
    make_run(tmp_path / "run", rounds=0, finished=False)
    view = comparison_view(chosen(tmp_path), 0.8, None)
    assert view["methods"][0]["final"]["win_rate"]["mean"] == 0.5
    (curve,) = curves_view(chosen(tmp_path), ["win_rate"], "queries")["columns"]["win_rate"]
    assert (curve["kind"], curve["x"], curve["y"]) == ("unfinished", [0.0], [0.5])


def test_nothing_but_broken_runs_is_an_empty_comparison_that_says_why(tmp_path: Path) -> None:
    make_run(tmp_path / "a", rounds=1).joinpath("metrics.jsonl").write_text("x\n")
    make_run(tmp_path / "b", rounds=1).joinpath("config.yaml").unlink()
    view = comparison_view(chosen(tmp_path), 0.8, None)
    assert view["methods"] == []
    assert [one["run"] for one in view["left_out"]] == ["a", "b"]
    assert view["left_out"][0]["why"].startswith("metrics.jsonl: not the metrics of a run")
    for name in ("curves_view", "beliefs_view"):
        empty = (
            curves_view(chosen(tmp_path), ["win_rate"], "queries")
            if name == "curves_view"
            else comparing.beliefs_view(chosen(tmp_path))
        )
        assert not any(empty["columns"].values())


@pytest.mark.parametrize(("ahead", "reads"), [(True, 0), (False, 2)])
def test_the_first_view_reads_no_metrics_that_were_read_ahead(
    ahead: bool, reads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "broken", rounds=1).joinpath("metrics.jsonl").write_text("x\n")
    make_run(tmp_path / "whole", rounds=3)
    board = Board(tmp_path)
    if ahead:
        board.read_ahead().join(timeout=60)
    opened: list[Tail] = []
    new_lines = Tail.new_lines
    monkeypatch.setattr(Tail, "new_lines", lambda tail: opened.append(tail) or new_lines(tail))
    assert len(comparison_view(choose(board.select(()), None), 0.8, None)["methods"]) == 1
    assert len(opened) == reads


def test_a_run_that_was_started_twice_counts_once_and_finished(tmp_path: Path) -> None:
    make_run(tmp_path / "crashed", rounds=2, finished=False, settings=["budget.oracle_queries=24"])
    make_run(tmp_path / "whole", rounds=3)
    selection = chosen(tmp_path)
    assert [member.run.id for members in selection.methods.values() for member in members] == ["whole"]
    assert selection.left_out == [("crashed", "the same configuration and seed as another run")]


def test_two_different_cells_of_one_name_are_refused_as_on_the_command_line(tmp_path: Path) -> None:
    cell = {"world": "w", "loss": "l", "method": "m", "seed": 0, "model": 0}
    for name, beta in (("one", 0.1), ("two", 0.5)):
        make_run(tmp_path / name, rounds=1, cell=cell, settings=[f"learner.beta={beta}"])
    with pytest.raises(UserError, match="are different runs"):
        chosen(tmp_path)
    with pytest.raises(UserError, match="are different runs"):
        load_records([tmp_path])


# --- curves ----------------------------------------------------------------------------------------------------------


def curves_of(root: Path, column: comparing.Column, axis: comparing.Axis = "queries") -> list[dict[str, Any]]:
    return curves_view(chosen(root), [column], axis)["columns"][column]


def test_a_curve_is_the_band_of_the_comparison(tmp_path: Path) -> None:
    make_experiment(tmp_path, ("sea",), seeds=4, rounds=10)
    (curve,) = curves_of(tmp_path, "win_rate")
    whole = band(load_records([tmp_path]).records, "win_rate")
    assert whole is not None
    assert curve["kind"] == "mean"
    assert curve["seeds"] == [0, 1, 2, 3]
    for name, values in (("x", whole.x_P), ("y", whole.mean_P), ("low", whole.low_P), ("high", whole.high_P)):
        assert curve[name] == pytest.approx(values, rel=1e-5), name


def test_runs_are_drawn_singly_where_too_few_seeds_are_finished(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path / f"seed-{seed}", seed=seed, rounds=4)
    curves = curves_of(tmp_path, "win_rate")
    assert [(curve["kind"], curve["seeds"]) for curve in curves] == [("finished", [0]), ("finished", [1])]
    assert curves[0]["low"] == pytest.approx([rate - 0.03 for rate in curves[0]["y"]], abs=1e-4), "over prompts"
    assert curves_of(tmp_path, "judge_win_rate")[0]["low"] is None


@pytest.mark.parametrize(("axis", "end"), [("queries", 32), ("samples", 512), ("cpu", 4 * 0.675), ("wall", 4 * 1.35)])
def test_curves_run_along_the_axis_that_is_asked_for(axis: comparing.Axis, end: float, tmp_path: Path) -> None:
    make_run(tmp_path / "run", rounds=4)
    (curve,) = curves_of(tmp_path, "win_rate", axis)
    assert (curve["x"][0], curve["x"][-1]) == (0, pytest.approx(end))


def test_what_a_run_did_not_measure_is_not_drawn(tmp_path: Path) -> None:
    make_run(tmp_path / "run", rounds=4)
    assert curves_of(tmp_path, "best_of_win_rate") == []


def test_the_shortfall_is_the_area_that_the_mean_win_rate_leaves(tmp_path: Path) -> None:
    make_run(tmp_path / "run", rounds=10)
    (curve,) = curves_of(tmp_path, "shortfall")
    (record,) = load_records([tmp_path]).records
    mean = area(record.curve, 80)
    assert mean is not None
    assert curve["y"][0] == 0.0
    assert curve["y"][-1] == pytest.approx(80 * (1 - mean), rel=1e-5)


def test_a_long_run_is_sent_with_few_points_and_both_ends(tmp_path: Path) -> None:
    make_run(tmp_path / "run", rounds=500, duels=0)
    (curve,) = curves_of(tmp_path, "win_rate")
    assert len(curve["x"]) == comparing.MOST_POINTS
    assert (curve["x"][0], curve["x"][-1]) == (0, 4000)
    assert set(curve["x"]) <= {8.0 * number for number in range(501)}


def test_beliefs_are_means_of_stretches_of_rounds_over_seeds(tmp_path: Path) -> None:
    for seed in range(3):
        run = make_run(tmp_path / str(seed), "sea", seed, rounds=1, settings=["budget.oracle_queries=80"])
        (run / "metrics.jsonl").unlink()
        append(
            run, row(0, 0, 0.5), *(row(n, 8 * n, None, disagreement=n + seed) for n in range(1, 49)), row(49, 392, 0.8)
        )
    (curve,) = comparing.beliefs_view(chosen(tmp_path))["columns"]["disagreement"]
    assert len(curve["x"]) == comparing.CHUNKS
    # Of 49 rounds the first chunk has three, the others two: rounds 1 to 3 of seeds 0, 1 and 2.
    assert (curve["x"][0], curve["y"][0]) == (24, pytest.approx(np.mean([1, 2, 3]) + 1))
    assert set(comparing.beliefs_view(chosen(tmp_path))["columns"]) == set(BELIEFS)


# --- ledgers ---------------------------------------------------------------------------------------------------------


def labels_of(root: Path) -> dict[str, Any]:
    return comparing.labels_view(chosen(root))["methods"][0]


def test_labels_are_counted_as_the_ledger_counts_them(tmp_path: Path) -> None:
    make_experiment(tmp_path, ("sea",), seeds=2, rounds=10)
    rows = []
    for seed in range(2):
        with Ledger(tmp_path / "lexicon" / "sea" / f"seed-{seed}" / "ledger.sqlite") as ledger:
            rows += ledger.rows()
    outcomes = [verdict.outcome for _, verdict in rows if verdict is not None]
    labels = labels_of(tmp_path)
    assert (labels["answers"], labels["waiting"], labels["posterior"]) == (len(outcomes), 2, 0)
    assert labels["first_share"] == pytest.approx(
        outcomes.count(Outcome.FIRST) / (outcomes.count(Outcome.FIRST) + outcomes.count(Outcome.SECOND))
    )
    # Answers come every 6 seconds, 8 at once; the first eight and the last are 54 seconds apart.
    assert labels["per_minute"] == pytest.approx(60 * (79 - 1) / 54)


def test_calibration_is_the_share_of_wins_by_belief(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sea", rounds=40)
    with Ledger(run / "ledger.sqlite") as ledger:
        rows = [(duel, verdict) for duel, verdict in ledger.rows() if verdict is not None]
    wins = {Outcome.FIRST: 1.0, Outcome.SECOND: 0.0, Outcome.TIE: 0.5}
    labels = labels_of(tmp_path)
    assert sum(one["n"] for one in labels["calibration"]) == len(rows)
    for one in labels["calibration"]:
        inside = [(duel, verdict) for duel, verdict in rows if one["from"] <= (duel.belief or 0.0) < one["to"]]
        assert one["n"] == len(inside)
        share = float(np.mean([wins[verdict.outcome] for _, verdict in inside]))
        assert one["share"] == pytest.approx(share)
        assert one["belief"] == pytest.approx(np.mean([duel.belief for duel, _ in inside]))
        if (share * one["n"]).is_integer():
            wilson = stats.binomtest(int(share * one["n"]), one["n"]).proportion_ci(0.95, "wilson")
            assert (one["low"], one["high"]) == (pytest.approx(wilson.low, abs=1e-6), pytest.approx(wilson.high))


def test_a_ledger_that_is_none_is_left_out_of_the_counts_and_named(tmp_path: Path) -> None:
    make_experiment(tmp_path, ("sea",), seeds=3, rounds=2)
    runs = tmp_path / "lexicon" / "sea"
    (runs / "seed-0" / "ledger.sqlite").write_bytes(b"no database" * 100)
    (runs / "seed-1" / "ledger.sqlite").unlink()
    labels = labels_of(tmp_path)
    assert (labels["runs"], labels["answers"]) == (1, 15)
    assert [(one["run"][-6:], one["why"]) for one in labels["trouble"]] == [
        ("seed-0", "ledger.sqlite: cannot be read as a ledger (file is not a database)"),
        ("seed-1", "ledger.sqlite: leads nowhere (No such file or directory)"),
    ]


def test_a_ledger_is_read_beside_a_run_that_writes_to_it_and_is_not_changed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sea", rounds=2)
    before = (run / "ledger.sqlite").read_bytes()
    with sqlite3.connect(run / "ledger.sqlite", isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE verdicts SET outcome = 'tie'")
        labels = labels_of(tmp_path)
        writer.execute("ROLLBACK")
    assert labels["answers"] == 15
    assert labels["outcomes"].get("tie", 0) < 15, "what is not committed is not seen"
    assert (run / "ledger.sqlite").read_bytes() == before
    assert sorted(path.name for path in run.glob("ledger*")) == ["ledger.sqlite"]


def test_a_ledger_whose_run_was_killed_while_it_wrote_is_named_with_the_remedy(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sea", rounds=40)
    kill = f"""
import os, signal, sqlite3
ledger = sqlite3.connect({str(run / "ledger.sqlite")!r}, isolation_level=None)
ledger.execute("PRAGMA cache_size = 2")  # so that the file is written to before the end
ledger.execute("BEGIN IMMEDIATE")
ledger.execute("UPDATE duels SET prompt = prompt || 'x'")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", kill], check=False, timeout=60)
    labels = labels_of(tmp_path)
    assert "go on with the run (sea-agent resume)" in labels["trouble"][0]["why"]
    Ledger(run / "ledger.sqlite").close()  # as a resumed run does
    assert labels_of(tmp_path)["answers"] == 319


def duels(
    root: Path, wanted: Filter | None = None, sort: Any = "newest", offset: int = 0, limit: int = 100
) -> dict[str, Any]:
    return single.duels_view(Board(root).run("run"), wanted or Filter(), sort, offset, limit)


def test_duels_are_found_by_text_outcome_source_and_round(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sea", rounds=6)
    with Ledger(run / "ledger.sqlite") as ledger:
        rows = ledger.rows()

    def ids(**values: Any) -> set[str]:
        view = duels(tmp_path, Filter(**values))
        assert view["total"] == len(view["duels"])
        return {duel["id"] for duel in view["duels"]}

    assert ids() == {duel.id for duel, _ in rows}
    assert ids(outcome="first") == {d.id for d, v in rows if v is not None and v.outcome is Outcome.FIRST}
    assert ids(outcome="none") == {d.id for d, v in rows if v is None}
    assert ids(source="posterior") == {d.id for d, _ in rows if d.label_source is LabelSource.POSTERIOR} == set()
    assert ids(first_round=2, last_round=3) == {d.id for d, _ in rows if 2 <= d.round <= 3}
    assert ids(text="NUMBER 4.2?") == {"duel-0-4-2"}
    butter = {d.id for d, _ in rows if "butter" in d.first.text + d.second.text}
    assert ids(text="butter") == butter
    assert ids(text="but_er") == ids(text="100%") == ids(text="' OR 1=1 --") == set(), "patterns are plain text"


def test_duels_come_in_pages_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sea", rounds=6)
    with Ledger(run / "ledger.sqlite") as ledger:
        rows = ledger.rows()
    pages = [duels(tmp_path, sort="disagreement", offset=offset, limit=7)["duels"] for offset in range(0, 48, 7)]
    by_disagreement = [duel["disagreement"] for page in pages for duel in page]
    assert by_disagreement == sorted((duel.disagreement for duel, _ in rows), reverse=True)
    assert [duel["id"] for duel in duels(tmp_path, sort="oldest")["duels"]] == [duel.id for duel, _ in rows]
    newest = [duel["round"] for duel in duels(tmp_path)["duels"]]
    assert newest == sorted(newest, reverse=True)
    wins = {"first": 1.0, "second": 0.0, "tie": 0.5}
    surprise = [
        abs(d["belief"] - wins[d["outcome"]]) for d in duels(tmp_path, sort="surprise")["duels"] if d["outcome"]
    ]
    assert surprise == sorted(surprise, reverse=True)


def test_a_duel_is_shown_whole_with_its_rank_of_disagreement(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sea", rounds=3)
    with Ledger(run / "ledger.sqlite") as ledger:
        rows = ledger.rows()
    duel, verdict = rows[5]
    assert verdict is not None
    view = single.duel_view(Board(tmp_path).run("run"), duel.id)
    assert view is not None
    assert (view["prompt"], view["first"], view["second"]) == (duel.prompt.text, duel.first.text, duel.second.text)
    assert (view["outcome"], view["belief"], view["rule"]) == (verdict.outcome, duel.belief, duel.rule)
    lower = [other.disagreement < duel.disagreement for other, _ in rows]  # type: ignore[operator]
    assert view["disagreement_above"] == pytest.approx(np.mean(lower))
    assert (view["typical_disagreement"], view["belief_after"], view["disagreement_after"]) == (0.125, 0.9, 0.01)
    assert single.duel_view(Board(tmp_path).run("run"), "nothing") is None


def test_long_texts_are_cut_in_lists_and_whole_in_tables(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sea", rounds=1)
    with sqlite3.connect(run / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE responses SET text = printf('%.*c', 5000, 'x') WHERE side = 'first'")
    (listed, *_) = duels(tmp_path)["duels"]
    assert (len(listed["first"]), listed["first_cut"], listed["second_cut"]) == (400, 1, 0)
    (whole, *_) = single.duels_table(Board(tmp_path).run("run"), Filter(), "newest")
    assert len(whole["first"]) == 5000


def test_too_many_duels_for_a_table_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", "sea", rounds=3)
    monkeypatch.setattr(single, "MOST_DUELS_OF_A_TABLE", 10)
    with pytest.raises(UserError, match="24 duels, more than the 10 of one table; narrow the range of rounds"):
        single.duels_table(Board(tmp_path).run("run"), Filter(), "newest")
    assert len(single.duels_table(Board(tmp_path).run("run"), Filter(last_round=1), "newest")) == 8


# --- one run ---------------------------------------------------------------------------------------------------------


def test_throughput_sums_to_what_the_metrics_say(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "sea", rounds=300, duels=80)
    view = single.throughput_view(Board(tmp_path).run("run"))
    assert view["totals"]["learn"] == pytest.approx(300 * 0.5)
    assert view["totals"]["evaluate"] == pytest.approx(301 * 9.0)
    assert len(view["round"]) == single.BUCKETS
    assert view["seconds"]["learn"][-1] == pytest.approx(0.5)
    assert view["counts"]["oracle_queries"] == 2400
    asked = view["duels"]
    assert (asked["waiting"], view["trouble"]) == (1, None)
    assert asked["asked"] == 80 == asked["answered"] + asked["skipped"] + asked["waiting"], "as old as each other"
    assert asked["answered"] < 80 < view["counts"]["oracle_queries"], "the ledger is read, and not the last round"
    assert view["staleness"]["round"] == list(range(1, 11))
    assert set(view["staleness"]["mean"]) == {0.0}, "each round asks about responses of the newest weights"


def test_what_the_oracle_counts_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rounds=2)
    append(run, row(3, 24, 0.6, oracle_flips=3, oracle_spend=0.25))
    assert single.throughput_view(Board(tmp_path).run("run"))["oracle"] == {"oracle_flips": 3, "oracle_spend": 0.25}


def test_staleness_counts_weight_versions_up_to_the_answer(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "sea", rounds=4)
    with sqlite3.connect(run / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE verdicts SET round = 4 WHERE duel_id LIKE 'duel-0-2-%'")
        ledger.execute("UPDATE responses SET policy_version = -1 WHERE duel_id LIKE 'duel-0-1-%'")
    stale = single.throughput_view(Board(tmp_path).run("run"))["staleness"]
    assert (stale["round"], stale["largest"]) == ([3, 4], [0, 2])
    assert stale["mean"][1] == pytest.approx(2 * 8 / 15)


def test_a_run_without_a_ledger_still_has_its_throughput(tmp_path: Path) -> None:
    make_run(tmp_path / "run", rounds=3).joinpath("ledger.sqlite").unlink()
    view = single.throughput_view(Board(tmp_path).run("run"))
    assert view["rounds"] == 4
    assert view["staleness"] is None
    assert "ledger.sqlite: leads nowhere" in view["trouble"]


def test_the_difference_of_two_configurations_is_by_key(tmp_path: Path) -> None:
    make_run(tmp_path / "a", rounds=2)
    make_run(tmp_path / "b", rounds=2, seed=1, settings=["learner.beta=0.5", "oracle.kind=python", "oracle.target=a:b"])
    board = Board(tmp_path)
    view = single.configuration_view([board.run("a"), board.run("b")])
    differing = {row["key"]: (row["value"], row["other"]) for row in view["keys"] if not row["same"]}
    assert differing["learner.beta"] == ("0.3", "0.5")
    assert differing["oracle.target"] == (None, "a:b")
    assert differing["oracle.world"] == ("lexicon", None)
    assert differing["seed"] == ("0", "1")
    assert "learner.loss" not in differing
    same = single.configuration_view([board.run("a"), board.run("a")])
    assert all(row["same"] for row in same["keys"])


def test_the_end_of_the_error_of_a_failed_run_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rounds=1, finished=False)
    (run / "error.txt").write_text("x" * 5000 + "\nValueError: no\n")
    error = single.configuration_view([Board(tmp_path).run("run")])["error"]
    assert error.endswith("\nValueError: no\n")
    assert len(error) == 2000
