"""A finished run can be looked at again, and says the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sea_agent.config.files import load_config
from sea_agent.lab.demo import ARMS
from sea_agent.run.inspection import sample_run
from sea_agent.run.lifecycle import run

SHORT = ["runtime=inline", "budget.oracle_queries=48", "evaluation.prompts=24", "evaluation.every=48"]


@pytest.fixture
def finished(tmp_path: Path) -> dict[str, Any]:
    return run(load_config("passive", SHORT), tmp_path / "out")


def test_evaluating_a_run_again_gives_its_own_figures(finished: dict[str, Any], sea_agent: Callable[..., Any]) -> None:
    done = sea_agent("eval", "out")
    assert done.code == 0, done.err
    again = json.loads(done.out)
    for figure in ("win_rate", "win_rate_ci", "judge_win_rate", "distinct_share"):
        assert again[figure] == finished[figure]
    assert again["kl_to_reference"] == pytest.approx(finished["kl_to_reference"], abs=1e-4)
    assert finished["kl_to_reference"] > 0.01, "the policy did not move, so nothing was compared"


def test_samples_show_the_prompt_and_both_policies(
    finished: dict[str, Any], tmp_path: Path, sea_agent: Callable[..., Any]
) -> None:
    done = sea_agent("sample", "out", "--prompts", "3")
    assert done.code == 0, done.err
    texts = sample_run(tmp_path / "out", 3)
    assert len(texts) == 3
    for row in texts:
        assert row["prompt"].split()[0] in done.out
        assert row["before"].split()[0] in done.out
        assert row["after"].split()[0] in done.out


def test_the_demo_trains_three_methods_and_ends_with_their_labels_and_sentences(
    tmp_path: Path, sea_agent: Callable[..., Any]
) -> None:
    few = ["budget.oracle_queries=32", "imagination.rounds=1", "evaluation.prompts=16"]
    settings = [part for setting in few for part in ("--set", setting)]
    done = sea_agent("demo", "--out", "demo", *settings)
    assert done.code == 0, done.err
    assert (tmp_path / "demo" / "figures" / "win_rate.png").is_file()
    for arm in ARMS:
        summary = json.loads((tmp_path / "demo" / arm.name / "summary.json").read_text())
        assert summary["oracle_queries"] == 32
        assert f"with {arm.title} (one seed)" in " ".join(done.out.split())
    (row, *_) = sample_run(tmp_path / "demo" / "sea-prior", 5)
    assert row["before"].split()[0] in done.out
    again = sea_agent("demo", "--out", "demo")
    assert again.code == 2
    assert "passive" in again.err


@pytest.mark.parametrize("command", ["eval", "sample"])
def test_a_directory_that_is_no_run_is_refused(command: str, sea_agent: Callable[..., Any]) -> None:
    done = sea_agent(command, "nowhere")
    assert done.code == 2
    assert "nowhere: not the directory of a finished run" in done.err


def test_checking_a_preset_and_listing_the_keys(sea_agent: Callable[..., Any]) -> None:
    checked = sea_agent("check", "sea")
    assert checked.code == 0
    assert "2048 prompts" in checked.out
    assert "selection.rule" in sea_agent("check", "--keys").out
