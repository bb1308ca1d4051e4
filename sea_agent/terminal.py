"""Tables of a finished run in the terminal: its summary, and what its policy says."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text


def closing_table(summary: Mapping[str, Any]) -> Table:
    """The metrics of one run, from its summary."""
    table = Table(show_header=False, title="Run finished", title_justify="left")
    rows = {
        "oracle queries": summary["oracle_queries"],
        "posterior labels and imagined pairs (free)": f"{summary['posterior_labels']} and {summary['imagined_pairs']}",
        "evaluation queries (counted separately)": summary["evaluation_queries"],
        "rounds": summary["rounds"],
        "win rate by oracle": _rate(summary["win_rate"], summary["win_rate_ci"]),
        "win rate by independent judge": _rate(summary["judge_win_rate"], summary["judge_win_rate_ci"]),
        "distinct responses": _rate(summary["distinct_share"], None),
        "wall / CPU seconds": f"{summary['wall_seconds']:.0f} / {summary['cpu_seconds']:.0f}",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def samples_table(rows: Iterable[Mapping[str, str]]) -> Table:
    """Prompts with a response before and after training."""
    parts = ("prompt", "before", "after")
    table = Table(*parts, show_lines=True)
    for row in rows:
        # Text() keeps rich from reading brackets in model output as markup.
        table.add_row(*(Text(row[part]) for part in parts))
    return table


def _rate(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "not evaluated"
    return f"{value:.3f}" if interval is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
