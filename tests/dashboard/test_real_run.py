"""A run as the agent really leaves it behind, not as the other tests make it up."""

import json
from pathlib import Path

import pytest
from e2e.test_run import world_config

from sea_agent.dashboard.board import Board
from sea_agent.dashboard.chosen import choose
from sea_agent.dashboard.comparing import beliefs_view, comparison_view
from sea_agent.dashboard.scan import RunState, scan
from sea_agent.dashboard.single import throughput_view
from sea_agent.lab.reading import read_run
from sea_agent.run.lifecycle import run
from sea_agent.run.session import Watch


def test_a_real_run_is_followed_and_read_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "real"
    states: list[RunState] = []
    rounds: list[int] = []
    board: list[Board] = []

    def look(row: object) -> None:
        """After every round, from inside of the run."""
        board[:] = board or [Board(tmp_path / "runs")]
        board[0].look()
        states.append(board[0].run("real").place.state)
        rounds.append(len(board[0].run("real").rounds()["round"]))

    run(world_config(selection__rule="sea_ee"), out, Watch(on_round=look))
    assert set(states) == {RunState.RUNNING}
    assert rounds == list(range(1, len(rounds) + 1))

    board[0].look()
    one, summary = board[0].run("real"), json.loads((out / "summary.json").read_text())
    assert scan(tmp_path / "runs").places["real"].state is RunState.FINISHED
    assert one.record() == read_run(out)
    counts = one.counts().tally
    assert (counts.answers, counts.waiting) == (summary["oracle_queries"], 0)
    assert sum(number for number, _, _ in counts.bins) == counts.answers, "each answer had a belief before it"
    selection = choose([one], None)
    (method,) = comparison_view(selection, 0.8, None)["methods"]
    assert method["final"]["win_rate"]["mean"] == pytest.approx(summary["win_rate"], abs=1e-4)
    assert beliefs_view(selection)["columns"]["foresight_accuracy"]
    view = throughput_view(one)
    assert view["counts"]["oracle_queries"] == summary["oracle_queries"]
    assert view["staleness"]["largest"] == [0] * len(view["staleness"]["round"])
