"""What the command line shows of a run where there is no terminal."""

from pathlib import Path

import pytest

from sea_agent.persistence.rounds import Evaluation, RoundMetrics, Seconds
from sea_agent.terminal import watched

SOME = Seconds(wall=1.0, cpu=1.0)


def row(number: int, queries: int, stage: str, win_rate: float | None = None) -> RoundMetrics:
    evaluation = Evaluation() if win_rate is None else Evaluation(win_rate=win_rate)
    return RoundMetrics(round=number, oracle_queries=queries, evaluation=evaluation, seconds={stage: SOME})


def test_only_rounds_that_ask_get_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(0, 0, "evaluate", 0.5), row(1, 8, "ask"), row(2, 8, "imagine"), row(3, 8, "imagine", 0.75)]
    with watched(tmp_path, "sea", 16) as watch:
        for one in [*rows, row(4, 16, "ask")]:
            watch.on_round(one)
    assert capsys.readouterr().out.splitlines() == [
        "round 0  0/16 oracle queries  win rate 0.500",
        "round 1  8/16 oracle queries  win rate 0.500",
        "round 4  16/16 oracle queries  win rate 0.750",
    ]
