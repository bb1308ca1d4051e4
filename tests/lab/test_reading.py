"""Records are read from runs as they were written; what is broken is named, and only that is left out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sea_agent.config.files import load_config, to_yaml
from sea_agent.errors import UserError
from sea_agent.lab.reading import load_records, read_run
from sea_agent.lab.records import Record, read_records, write_records
from sea_agent.lab.tables import definition

MakeRecord = Callable[..., Record]


def stage(cpu: float) -> dict[str, float]:
    return {"wall": 2 * cpu, "cpu": cpu}


def rows() -> list[dict[str, Any]]:
    """An evaluation, a round without one, and a round with one."""
    evaluation = {"win_rate_ci": [0.4, 0.6], "judge_win_rate": 0.5, "kl_to_reference": None, "distinct_share": 1.0}
    counts = {"posterior_labels": 0, "response_tokens": 7.0}
    return [
        {"round": 0, "oracle_queries": 0, "win_rate": 0.5, "policy_samples": 0, **evaluation, **counts}
        | {"seconds": {"evaluate": stage(9.0)}},
        {"round": 1, "oracle_queries": 8, "policy_samples": 160}
        | {"seconds": {"sample": stage(1.0), "learn": stage(0.5)}},
        {"round": 2, "oracle_queries": 16, "win_rate": 0.612345, "policy_samples": 320, **evaluation, **counts}
        | {"seconds": {"sample": stage(1.0), "evaluate": stage(9.0)}},
    ]


def make_run(directory: Path, *settings: str, cell: dict[str, Any] | None = None) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(to_yaml(load_config("passive", settings)))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (directory / "summary.json").write_text(json.dumps({"oracle_queries": 16, "git_commit": "0123456789abcdef"}))
    if cell is not None:
        (directory / "cell.json").write_text(json.dumps(cell))
    return directory


def test_a_record_holds_what_the_run_wrote(tmp_path: Path) -> None:
    record = read_run(make_run(tmp_path / "run", "seed=3", "budget.oracle_queries=16", "evaluation.prompts=8"))
    assert (record.world, record.loss, record.labels) == ("lexicon", "dpo", "threshold")
    assert (record.method, record.seed, record.model, record.budget) == ("passive", 3, None, 16)
    assert record.curve.queries == (0, 16)
    assert record.curve.win_rate == (0.5, 0.6123)
    assert (record.curve.low, record.curve.high) == ((0.4, 0.4), (0.6, 0.6))
    assert record.curve.policy_samples == (0, 320)
    assert record.curve.cpu_seconds == (0.0, 2.5), "without evaluation"
    assert record.curve.kl_to_reference is record.curve.gradient_steps is record.curve.best_of_win_rate is None
    assert record.measurement.judge == "lexicon judge"
    assert (record.measurement.prompts, record.measurement.temperature) == (8, 0.7)
    assert record.commit == "0123456789ab"


SERVICE = "oracle={kind: feedback_service, url: http://127.0.0.1:8400, run: mine}"
CHAT = "oracle={kind: llm_judge, model: m, evaluates: %s}"
JUDGE = "evaluation.judge={kind: world, scorer: judge}"


def judged_only(directory: Path, *settings: str) -> Path:
    """A run whose oracle was never asked to evaluate."""
    run = make_run(directory, *settings)
    found = [{name: value for name, value in row.items() if not name.startswith("win_rate")} for row in rows()]
    evaluated = [row | {"judge_win_rate_ci": [0.3, 0.7]} if "judge_win_rate" in row else row for row in found]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evaluated))
    return run


@pytest.mark.parametrize("oracle", [SERVICE, CHAT % "false"], ids=["people", "LLM"])
def test_where_the_oracle_does_not_evaluate_the_judge_does_and_it_is_said(oracle: str, tmp_path: Path) -> None:
    record = read_run(judged_only(tmp_path / "run", oracle, JUDGE))
    assert record.curve.win_rate == (0.5, 0.5)
    assert (record.curve.low, record.curve.high) == ((0.3, 0.3), (0.7, 0.7))
    assert record.curve.judge_win_rate is None, "it is not beside itself"
    assert record.measurement.by_judge
    assert "by the independent judge, because the oracle does not evaluate (lexicon judge)" in definition(
        [record.measurement]
    )


def test_an_llm_that_evaluates_is_the_oracle_of_the_win_rate(tmp_path: Path) -> None:
    record = read_run(make_run(tmp_path / "run", CHAT % "true", JUDGE))
    assert not record.measurement.by_judge
    assert record.curve.win_rate == (0.5, 0.6123)
    assert "by the oracle (llm_judge)" in definition([record.measurement])


def test_people_without_a_judge_are_told_to_name_one(tmp_path: Path) -> None:
    run = judged_only(tmp_path / "run", SERVICE, "evaluation.judge=null")
    unjudged = [{name: value for name, value in row.items() if "judge" not in name} for row in rows()]
    unjudged = [{name: value for name, value in row.items() if name != "win_rate"} for row in unjudged]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unjudged))
    with pytest.raises(UserError, match=r"evaluation\.judge where people answer"):
        read_run(run)


def test_a_cell_says_where_it_belongs(tmp_path: Path) -> None:
    cell = {"world": "w", "loss": "l", "method": "mine", "seed": 0, "model": 1}
    record = read_run(make_run(tmp_path / "run", cell=cell))
    assert {key: getattr(record, key) for key in cell} == cell


def test_records_survive_the_file(tmp_path: Path, make_record: MakeRecord) -> None:
    records = [make_record("sea", seed, [(0, 0.5), (16, 0.6)]) for seed in range(3)]
    write_records(records, tmp_path / "records.json")
    assert read_records(tmp_path / "records.json") == records
    assert load_records([tmp_path / "records.json"]).records == tuple(records)


def test_a_run_and_its_record_give_the_same_numbers(tmp_path: Path) -> None:
    from_run = load_records([make_run(tmp_path / "run")]).records
    write_records(from_run, tmp_path / "records.json")
    assert load_records([tmp_path / "records.json"]).records == from_run
    assert load_records([tmp_path / "run", tmp_path / "records.json"]).records == from_run, "one run counts once"


def test_150_runs_of_20_evaluations_stay_below_300_kb(tmp_path: Path, make_record: MakeRecord) -> None:
    points = [(13 * index, round(0.5123 + 0.01 * index, 4)) for index in range(20)]
    rates = [0.8123] * 20
    columns = {"distinct_share": rates, "response_tokens": rates, "kl_to_reference": rates, "low": rates, "high": rates}
    record = make_record("sea-without-encoder", 1, points, curve=columns, commit="0123456789ab", config="c" * 27)
    write_records([record] * 150, tmp_path / "records.json")
    assert (tmp_path / "records.json").stat().st_size < 300_000


def break_nothing(run: Path) -> None:
    pass


def half_write(run: Path) -> None:
    (run / "summary.json").unlink()


def fail(run: Path) -> None:
    half_write(run)
    (run / "error.txt").write_text("Traceback\nValueError: no\nended with exit code 1\n")


def cut_metrics(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[: len(text) // 2])


def unevaluate(run: Path) -> None:
    (run / "metrics.jsonl").write_text(json.dumps({"round": 1, "oracle_queries": 8, "seconds": {}}) + "\n")


def mangle_summary(run: Path) -> None:
    (run / "summary.json").write_text("{")


def mangle_config(run: Path) -> None:
    (run / "config.yaml").write_text("seed: 3\n")


def mangle_cell(run: Path) -> None:
    (run / "cell.json").write_text('{"world": 5}')


def remove_metrics(run: Path) -> None:
    (run / "metrics.jsonl").unlink()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (half_write, ["not finished", "summary.json"]),
        (fail, ["failed", "ValueError: no", "exit code 1"]),
        (cut_metrics, ["metrics.jsonl", "not JSON"]),
        (unevaluate, ["metrics.jsonl", "evaluation.prompts_path"]),
        (mangle_summary, ["summary.json"]),
        (mangle_config, ["config.yaml", "oracle"]),
        (mangle_cell, ["world", "5"]),
        (remove_metrics, ["metrics.jsonl"]),
    ],
)
def test_a_broken_run_is_named_and_the_others_are_read(
    harm: Callable[[Path], None], words: list[str], tmp_path: Path
) -> None:
    make_run(tmp_path / "good")
    harm(make_run(tmp_path / "bad", "seed=1"))
    loaded = load_records([tmp_path])
    assert [record.seed for record in loaded.records] == [0]
    (problem,) = loaded.problems
    for word in [str(tmp_path / "bad"), *words]:
        assert word in problem
    shutil.rmtree(tmp_path / "good")
    with pytest.raises(UserError, match="nothing to compare"):
        load_records([tmp_path])


def test_an_unharmed_run_has_no_problem(tmp_path: Path) -> None:
    """The control of the test above."""
    break_nothing(make_run(tmp_path / "bad", "seed=1"))
    assert load_records([tmp_path]).problems == ()


def test_foreign_directories_and_files_are_named(tmp_path: Path) -> None:
    good = make_run(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text('{"records": 1}')
    loaded = load_records([good, tmp_path / "empty", tmp_path / "other.json"])
    assert [
        str(tmp_path / name) in problem for name, problem in zip(("empty", "other.json"), loaded.problems, strict=True)
    ]
    assert "holds no run" in loaded.problems[0]
    assert "not a file of records" in loaded.problems[1]
    with pytest.raises(UserError, match="nowhere: no such directory"):
        load_records([good, tmp_path / "nowhere"])


def test_single_runs_of_one_name_are_told_apart_by_their_directories(tmp_path: Path) -> None:
    make_run(tmp_path / "small", "learner.beta=0.1")
    make_run(tmp_path / "large", "learner.beta=0.5")
    methods = {record.method for record in load_records([tmp_path]).records}
    assert methods == {"passive (small)", "passive (large)"}


def test_single_runs_that_differ_only_in_the_seed_are_one_method(tmp_path: Path) -> None:
    for name, seed, beta in (("a", 0, 0.1), ("b", 1, 0.1), ("c", 2, 0.5)):
        make_run(tmp_path / name, f"seed={seed}", f"learner.beta={beta}")
    found = {(record.method, record.seed) for record in load_records([tmp_path]).records}
    assert found == {("passive (a)", 0), ("passive (a)", 1), ("passive (c)", 2)}
    shutil.rmtree(tmp_path / "c")
    assert {record.method for record in load_records([tmp_path]).records} == {"passive"}


def test_two_different_cells_of_one_name_are_refused(tmp_path: Path) -> None:
    cell = {"world": "w", "loss": "l", "method": "mine", "seed": 0, "model": 0}
    make_run(tmp_path / "one", "learner.beta=0.1", cell=cell)
    make_run(tmp_path / "two", "learner.beta=0.5", cell=cell)
    with pytest.raises(UserError, match=r"one and .*two are different runs, and both are mine, seed 0"):
        load_records([tmp_path])


def test_a_run_of_another_release_can_still_be_read(tmp_path: Path) -> None:
    """Its configuration may have keys that are gone."""
    run = make_run(tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text + "gone: {key: 1}\n")
    assert read_run(run).method == "passive"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queries": [0, 16, 16]}, "grow"),
        ({"queries": [0]}, "values"),
        ({"win_rate": [0.5]}, "win_rate has 1 values for 3"),
        ({"judge_win_rate": [0.5] * 4}, "judge_win_rate has 4 values"),
    ],
)
def test_a_curve_with_columns_that_do_not_fit_is_refused(
    changes: dict[str, Any], words: str, make_record: MakeRecord
) -> None:
    with pytest.raises(ValueError, match=words):
        make_record("sea", 0, [(0, 0.5), (16, 0.6), (32, 0.7)], curve=changes)
