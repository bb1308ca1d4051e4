"""What a finished run shows: its win-rate curve, the closing table, and labels saved against a baseline."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from sea_agent.errors import UserError


@dataclass(frozen=True)
class Curve:
    """Win rate against oracle queries of one run; ``low`` and ``high`` bound the 95 % interval over prompts."""

    name: str
    queries: tuple[int, ...]
    win_rate: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    judge: tuple[float, ...] | None

    def queries_to(self, level: float) -> float | None:
        """Oracle queries at which the curve first reaches ``level``, linear between evaluations; None if never."""
        for index, rate in enumerate(self.win_rate):
            if rate < level:
                continue
            if index == 0:
                return float(self.queries[0])
            before, after = self.win_rate[index - 1], rate
            share = (level - before) / (after - before)
            return self.queries[index - 1] + share * (self.queries[index] - self.queries[index - 1])
        return None


def read_curve(run: Path, name: str) -> Curve | None:
    """The curve of a run directory; None when the run was not evaluated.

    Raises:
        UserError: when ``run`` holds no readable ``metrics.jsonl``.
    """
    try:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{run}: no readable metrics.jsonl ({error}); give the directory of a run") from None
    rows = [row for row in rows if "win_rate" in row]
    if not rows:
        return None
    judge = tuple(row["judge_win_rate"] for row in rows) if "judge_win_rate" in rows[0] else None
    return Curve(
        name=name,
        queries=tuple(row["oracle_queries"] for row in rows),
        win_rate=tuple(row["win_rate"] for row in rows),
        low=tuple(row["win_rate_ci"][0] for row in rows),
        high=tuple(row["win_rate_ci"][1] for row in rows),
        judge=judge,
    )


def draw_win_rate(curves: Sequence[Curve], path: Path) -> None:
    """Draw win rate against oracle queries, with intervals, and the independent judge dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        (line,) = axes.plot(curve.queries, curve.win_rate, marker="o", markersize=3, label=f"{curve.name}, oracle")
        axes.fill_between(curve.queries, curve.low, curve.high, color=line.get_color(), alpha=0.15, linewidth=0)
        if curve.judge is not None:
            axes.plot(curve.queries, curve.judge, "--", color=line.get_color(), label=f"{curve.name}, judge")
    axes.axhline(0.5, color="grey", linewidth=0.8)
    axes.set_xlabel("oracle queries")
    axes.set_ylabel("win rate against the reference")
    axes.set_title("Held-out win rate, 95 % interval over prompts", fontsize=10)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def closing_table(summary: Mapping[str, Any]) -> Table:
    """The figures of one run."""
    table = Table(show_header=False, title="Run finished", title_justify="left")
    rows = {
        "oracle queries": summary["oracle_queries"],
        "posterior labels (free)": summary["posterior_labels"],
        "evaluation queries (counted apart)": summary["evaluation_queries"],
        "rounds": summary["rounds"],
        "win rate by oracle": _rate(summary["win_rate"], summary["win_rate_ci"]),
        "win rate by independent judge": _rate(summary["judge_win_rate"], summary["judge_win_rate_ci"]),
        "distinct responses": _rate(summary["distinct_share"], None),
        "wall / CPU seconds": f"{summary['wall_seconds']:.0f} / {summary['cpu_seconds']:.0f}",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def labels_saved(curve: Curve, baseline: Curve) -> tuple[Table, float | None]:
    """Queries that each needed to reach the baseline's final win rate, and the ratio (None if not reached)."""
    level = baseline.win_rate[-1]
    ours, theirs = curve.queries_to(level), baseline.queries_to(level)
    table = Table(title=f"Oracle queries to a win rate of {level:.3f}", title_justify="left")
    for heading in ("method", "queries", "final win rate", "final judge win rate"):
        table.add_column(heading)
    for one, needed in ((curve, ours), (baseline, theirs)):
        judge = "–" if one.judge is None else f"{one.judge[-1]:.3f}"
        table.add_row(one.name, "never" if needed is None else f"{needed:.0f}", f"{one.win_rate[-1]:.3f}", judge)
    return table, theirs / ours if ours and theirs else None


def _rate(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "not evaluated"
    return f"{value:.3f}" if interval is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
