"""The closing table tells the figures of the summary."""

from rich.console import Console

from sea_agent.terminal import closing_table

SUMMARY = {
    "oracle_queries": 256,
    "posterior_labels": 1024,
    "imagined_pairs": 15932,
    "evaluation_queries": 4096,
    "rounds": 40,
    "win_rate": 0.81234,
    "win_rate_ci": [0.79, 0.83],
    "judge_win_rate": None,
    "judge_win_rate_ci": None,
    "distinct_share": 0.95,
    "wall_seconds": 12.3,
    "cpu_seconds": 23.4,
}


def test_the_closing_table_tells_what_was_measured_and_what_was_not() -> None:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(closing_table(SUMMARY))
    lines = {
        cells[1].strip(): cells[2].strip() for row in captured.get().splitlines() if len(cells := row.split("│")) > 2
    }
    assert lines["oracle queries"] == "256"
    assert lines["win rate by oracle"] == "0.812 [0.790, 0.830]"
    assert lines["win rate by independent judge"] == "not evaluated"
    assert lines["wall / CPU seconds"] == "12 / 23"
