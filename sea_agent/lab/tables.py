"""A comparison as tables of the terminal, as CSV and as JSON; all from the same numbers."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from sea_agent.lab.comparison import Comparison, Group, MethodFigures
from sea_agent.lab.records import Measurement
from sea_agent.lab.statistics import Estimate, Factor

# Columns of the second table: heading, decimals, and whether the interval is shown; CSV and JSON have it for all.
_AT_THE_END = {
    "win_rate": ("win rate", 3, True),
    "judge_win_rate": ("by judge", 3, True),
    "best_of_win_rate": ("best-of-n", 3, False),
    "best_of_judge_win_rate": ("by judge", 3, False),
    "distinct_share": ("distinct", 2, False),
    "response_tokens": ("tokens", 1, False),
    "kl_to_reference": ("KL", 1, False),
}
_SPENT = {"policy_samples": "policy samples", "gradient_steps": "gradient steps", "cpu_seconds": "CPU seconds"}


def terminal_tables(comparison: Comparison) -> Iterator[Table]:
    """Three tables for each group: labels, win rates at the end, and what they cost."""
    for group in comparison.groups:
        yield _efficiency_table(group, comparison)
        yield _outcome_table(group)
        yield _cost_table(group, comparison.level)


def _efficiency_table(group: Group, comparison: Comparison) -> Table:
    saved = f"times fewer than {comparison.baseline}" if comparison.baseline else "times fewer"
    headings = ("runs", "queries", "never", saved, "t interval", f"mean win rate to {group.horizon:g}")
    by = " by the judge" if group.by_judge else ""
    aim = f"a win rate of {comparison.level:g}{by}{comparison.bounds}"
    table = _table(f"{title(group)}: oracle queries to {aim}", headings)
    for row in group.methods:
        table.add_row(
            row.method,
            str(len(row.seeds)),
            (">= " if row.censored else "") + _estimate(row.queries, 0),
            str(row.censored or ""),
            *_factor(row.factor),
            _estimate(row.area, 3),
        )
    return table


def _outcome_table(group: Group) -> Table:
    measured = [column for column in _AT_THE_END if any(row.final[column] for row in group.methods)]
    who = ", win rates by the judge, because the oracle does not evaluate" if group.by_judge else ""
    table = _table(f"{title(group)}: after the last query{who}", [_AT_THE_END[column][0] for column in measured])
    for row in group.methods:
        table.add_row(row.method, *(_estimate(row.final[column], *_AT_THE_END[column][1:]) for column in measured))
    return table


def _cost_table(group: Group, level: float) -> Table:
    table = _table(f"{title(group)}: spent to {level:g} / in all", list(_SPENT.values()))
    for row in group.methods:
        ends = ((row.at_level[column], row.final[column]) for column in _SPENT)
        table.add_row(row.method, *(" / ".join(_estimate(end, 0, False) for end in both) for both in ends))
    return table


def _table(heading: str, headings: Sequence[str]) -> Table:
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for name in headings:
        table.add_column(name)
    return table


def title(group: Group) -> str:
    """A group in words."""
    return f"{group.world}, {group.loss}, {group.labels} labels"


def definition(measurements: Iterable[Measurement]) -> str:
    """How a win rate is defined, in one or two sentences."""
    found = list(measurements)

    def of(key: str) -> str:
        return " or ".join(dict.fromkeys(str(value) for one in found if (value := getattr(one, key)) is not None))

    judge = f" Independent judge: {of('judge')}." if of("judge") else ""
    who = {False: "the oracle", True: "the independent judge, because the oracle does not evaluate"}
    by = " or by ".join(who[by_judge] for by_judge in sorted({one.by_judge for one in found}))
    return (
        f"Win rate: mean probability by {by} ({of('oracle')}) that the policy's response is preferred to the "
        f"initial policy's. One response each to {of('prompts')} held-out prompts, temperature {of('temperature')}; "
        f"ties count ½.{judge}"
    )


def write_csv(comparison: Comparison, file: Path) -> None:
    """One line for each method of each group."""
    table = rows(comparison)
    with file.open("w", newline="") as target:
        writer = csv.DictWriter(target, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def write_json(comparison: Comparison, file: Path) -> None:
    """Everything, the values of single seeds included."""
    file.write_text(json.dumps(comparison.tree(), indent=1) + "\n")


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A flat row for each method of each group."""
    return [_row(comparison, group, figures) for group in comparison.groups for figures in group.methods]


def _row(comparison: Comparison, group: Group, figures: MethodFigures) -> dict[str, Any]:
    factor = figures.factor
    row: dict[str, Any] = {
        "world": group.world,
        "loss": group.loss,
        "labels": group.labels,
        "method": figures.method,
        "seeds": " ".join(map(str, figures.seeds)),
        "level": comparison.level,
        **asdict(comparison.bounds),
        **_columns("queries", figures.queries),
        "censored": figures.censored,
        "baseline": comparison.baseline,
        "pairs": 0 if factor is None else len(factor.ratios),
    }
    for end in ("mean", "low", "high", "t_low", "t_high", "bound"):
        row["factor" if end == "mean" else f"factor_{end}"] = None if factor is None else getattr(factor, end)
    row |= {"horizon": group.horizon, **_columns("area", figures.area)}
    for column, value in figures.final.items():
        row |= _columns(column, value)
    for column, value in figures.at_level.items():
        row |= _columns(f"{column}_at_level", value)
    return row


def _columns(name: str, value: Estimate | None) -> dict[str, float | None]:
    ends = (None, None, None) if value is None else (value.mean, value.low, value.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def _estimate(value: Estimate | None, decimals: int, with_interval: bool = True) -> str:
    if value is None:
        return "–"
    return f"{value.mean:.{decimals}f}" + (_interval(value.low, value.high, decimals) if with_interval else "")


def _factor(factor: Factor | None) -> tuple[str, str]:
    """The factor with its bootstrap interval, and its t interval."""
    if factor is None:
        return "–", "–"
    number = f"{factor.bound} {factor.mean:.2f}".strip() + _interval(factor.low, factor.high, 2)
    return number, _interval(factor.t_low, factor.t_high, 2).strip() or "–"


def _interval(low: float | None, high: float | None, decimals: int) -> str:
    return "" if low is None or high is None else f" [{low:.{decimals}f}, {high:.{decimals}f}]"
