"""Curves are read as they were written, and labels saved are the ratio of queries to one level."""

import json
from pathlib import Path

import pytest

from sea_agent.errors import UserError
from sea_agent.report import Curve, draw_win_rate, labels_saved, read_curve


def curve(name: str, *points: tuple[int, float]) -> Curve:
    queries, rates = zip(*points, strict=True)
    return Curve(name, queries, rates, rates, rates, None)


def test_queries_to_a_level_are_linear_between_evaluations() -> None:
    one = curve("one", (0, 0.5), (100, 0.7), (200, 0.6), (300, 0.9))
    assert one.queries_to(0.6) == pytest.approx(50)
    assert one.queries_to(0.8) == pytest.approx(200 + 100 * 2 / 3)
    assert one.queries_to(0.4) == 0
    assert one.queries_to(0.95) is None


def test_labels_saved_is_the_ratio_at_the_baselines_final_rate() -> None:
    _, factor = labels_saved(curve("ours", (0, 0.5), (100, 0.9)), curve("theirs", (0, 0.5), (400, 0.7)))
    assert factor == pytest.approx(400 / 50)


def test_a_method_that_never_reaches_the_baseline_has_saved_nothing() -> None:
    _, factor = labels_saved(curve("ours", (0, 0.5), (100, 0.6)), curve("theirs", (0, 0.5), (400, 0.9)))
    assert factor is None


def test_a_run_without_evaluation_has_no_curve_and_a_foreign_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"round": 1}) + "\n")
    assert read_curve(tmp_path, "x") is None
    with pytest.raises(UserError, match="directory of a run"):
        read_curve(tmp_path / "nowhere", "x")


def test_the_figure_is_a_picture(tmp_path: Path) -> None:
    row = {"oracle_queries": 0, "win_rate": 0.5, "win_rate_ci": [0.4, 0.6], "judge_win_rate": 0.5}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row | {"oracle_queries": n}) + "\n" for n in (0, 64)))
    read = read_curve(tmp_path, "sea")
    assert read is not None
    assert read.judge == (0.5, 0.5)
    draw_win_rate([read], tmp_path / "figures" / "win_rate.png")
    assert (tmp_path / "figures" / "win_rate.png").read_bytes().startswith(b"\x89PNG")
