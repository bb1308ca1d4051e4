"""A finished run can be looked at again, and says the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sea_agent.config.files import load_config
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


def test_samples_show_the_prompt_and_both_policies(finished: dict[str, Any], sea_agent: Callable[..., Any]) -> None:
    done = sea_agent("sample", "out", "--prompts", "3")
    assert done.code == 0, done.err
    assert done.out.count("before") == done.out.count("after") == 3


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
