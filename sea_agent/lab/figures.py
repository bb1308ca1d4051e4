"""Figures of single runs and of a comparison. Every figure says how its win rates were measured."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sea_agent.lab.comparison import Comparison, Group, band, by_method
from sea_agent.lab.records import Record
from sea_agent.lab.statistics import LEAST_SEEDS, Factor
from sea_agent.lab.tables import definition, title

_COLOURS = [
    matplotlib.colormaps[name](place) for name, count in (("tab10", 10), ("Dark2", 8)) for place in range(count)
]
_OVER_SEEDS = (
    f"Mean and 95 % percentile bootstrap interval over seeds; single runs where there are fewer than {LEAST_SEEDS}."
)
_Runs = dict[str, list[Record]]


def draw_runs(records: Sequence[Record], path: Path) -> None:
    """Win rate of single runs against oracle queries, with the interval over prompts; the judge dashed."""
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for colour, record in zip(_colours(), records, strict=False):
        curve = record.curve
        axes.plot(curve.queries, curve.win_rate, "o-", markersize=3, color=colour, label=record.method)
        axes.fill_between(curve.queries, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        if curve.judge_win_rate is not None:
            axes.plot(curve.queries, curve.judge_win_rate, "--", color=colour)
    _name_win_rate(axes)
    axes.legend(handles=_legend([record.method for record in records], records), fontsize=8)
    measured = definition({record.measurement for record in records})
    _save(
        figure,
        path,
        "Win rate on held-out prompts",
        f"{measured}{_dashed(records)} 95 % bootstrap interval over prompts.",
    )


def draw_comparison(comparison: Comparison, records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw each group of a comparison of ``records``; returns the files."""
    runs_of = by_method(records, comparison.baseline)
    files = []
    for group in comparison.groups:
        runs = runs_of[group.world, group.loss, group.labels]
        measured = definition(group.measurements)
        all_runs = [record for method in runs.values() for record in method]
        figures = {
            "win-rate": (_win_rates(runs, comparison.level), f"{measured}{_dashed(all_runs)} {_OVER_SEEDS}"),
            "labels-saved": (_labels_saved(group, comparison), f"{measured} {_factor_caption(comparison)}"),
            "judge": (
                _judge_against_oracle(runs),
                f"{measured} {_OVER_SEEDS} A curve that turns down is over-optimisation.",
            ),
        }
        for name, (figure, caption) in figures.items():
            if figure is not None:
                slug = re.sub(r"[^A-Za-z0-9._+-]+", "-", "-".join((name, group.world, group.loss, group.labels)))
                files.append(_save(figure, folder / f"{slug}.png", title(group), caption))
    return files


def _dashed(records: Iterable[Record]) -> str:
    judged = any(record.curve.judge_win_rate is not None for record in records)
    return " Solid: oracle; dashed: independent judge." if judged else ""


def _win_rates(runs: _Runs, level: float) -> Figure:
    figure = Figure(figsize=(11.0, 5.2), layout="constrained")
    records = [record for method in runs.values() for record in method]
    linear, log = figure.subplots(1, 2, sharey=True)
    for axes, first in ((linear, 0), (log, 1)):
        for colour, method in zip(_colours(), runs.values(), strict=False):
            _draw_method(axes, method, "win_rate", "-", colour, first)
            _draw_method(axes, method, "judge_win_rate", "--", colour, first)
        axes.axhline(level, color="grey", linewidth=0.8, linestyle=":")
        _name_win_rate(axes)
    log.set_xscale("log")
    log.set_ylabel("")
    figure.legend(handles=_legend(list(runs), records), fontsize=8, loc="outside right upper")
    return figure


def _draw_method(axes: Axes, runs: Sequence[Record], column: str, style: str, colour: object, first: int) -> None:
    """The mean over seeds with its interval, or every run where seeds are few, from the evaluation ``first`` on.

    Nothing where the column was not measured.
    """
    mean = band(runs, column)
    if mean is None:
        return
    if mean.low_P is None or mean.high_P is None:
        for record in runs:
            values = getattr(record.curve, column)
            axes.plot(record.curve.queries[first:], values[first:], style, color=colour, linewidth=1.0)
        return
    axes.plot(mean.x_P[first:], mean.mean_P[first:], style, color=colour)
    axes.fill_between(mean.x_P[first:], mean.low_P[first:], mean.high_P[first:], color=colour, alpha=0.15, linewidth=0)


def _labels_saved(group: Group, comparison: Comparison) -> Figure | None:
    """Bars of the factors; thick intervals are the bootstrap's, thin ones Student's."""
    rows = [(row.method, row.factor) for row in group.methods if row.factor is not None]
    if not rows:
        return None
    figure = Figure(figsize=(7.0, 1.8 + 0.35 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    colours = dict(zip([row.method for row in group.methods], _colours(), strict=False))
    for place, (method, factor) in enumerate(rows):
        axes.barh(place, factor.mean, color=colours[method], alpha=0.6, hatch="//" if factor.bound else None)
        end = factor.mean
        for low, high, width in ((factor.low, factor.high, 3.0), (factor.t_low, factor.t_high, 1.0)):
            if low is not None and high is not None:
                axes.plot((low, high), (place, place), color="black", linewidth=width)
                end = max(end, high)
        axes.annotate(f" {_number(factor)}", (end, place), va="center", fontsize=8)
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [method for method, _ in rows])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(
        f"oracle queries of {comparison.baseline} for each of the method's, to a win rate of {comparison.level:g}"
    )
    return figure


def _number(factor: Factor) -> str:
    return f"{factor.bound} {factor.mean:.1f}".strip()


def _factor_caption(comparison: Comparison) -> str:
    return (
        "Geometric mean over seeds of paired ratios; thick: 95 % bootstrap interval, thin: 95 % t interval of the log "
        f"ratios. Hatched: bounds, where {comparison.baseline} (>=) or the method (<=) never reached the level."
    )


def _judge_against_oracle(runs: _Runs) -> Figure | None:
    """The independent judge over the oracle along the runs, the end marked."""
    if any(record.curve.judge_win_rate is None for method in runs.values() for record in method):
        return None
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    for (name, method), colour in zip(runs.items(), _colours(), strict=False):
        for label, (oracle, judge) in zip((name, *[None] * len(method)), _paths(method), strict=False):
            axes.plot(oracle, judge, color=colour, linewidth=1.0, label=label)
            axes.plot(oracle[-1:], judge[-1:], "o", color=colour)
    axes.axline((0.5, 0.5), slope=1.0, color="grey", linewidth=0.8)
    axes.set_xlabel("win rate by the oracle")
    axes.set_ylabel("win rate by the independent judge")
    axes.legend(fontsize=8)
    return figure


def _paths(runs: Sequence[Record]) -> Iterator[tuple[Sequence[float], Sequence[float]]]:
    """Oracle and judge along the mean curve of a method, or along every run where seeds are few."""
    oracle, judge = band(runs, "win_rate"), band(runs, "judge_win_rate")
    if oracle is not None and judge is not None and oracle.low_P is not None:
        yield oracle.mean_P.tolist(), judge.mean_P.tolist()
        return
    for record in runs:
        yield record.curve.win_rate, record.curve.judge_win_rate or ()


def _name_win_rate(axes: Axes) -> None:
    axes.axhline(0.5, color="grey", linewidth=0.8)
    axes.set_xlabel("oracle queries")
    axes.set_ylabel("win rate against the initial policy")


def _legend(methods: Sequence[str], records: Sequence[Record]) -> list[Line2D]:
    lines = [Line2D([], [], color=colour, label=name) for name, colour in zip(methods, _colours(), strict=False)]
    if any(record.curve.judge_win_rate is not None for record in records):
        lines += [
            Line2D([], [], color="black", linestyle=style, label=who)
            for style, who in (("-", "oracle"), ("--", "judge"))
        ]
    return lines


def _colours() -> Iterator[object]:
    while True:
        yield from _COLOURS


def _save(figure: Figure, path: Path, heading: str, caption: str) -> Path:
    figure.suptitle(heading, fontsize=10)
    lines = textwrap.fill(caption, int(figure.get_figwidth() * 17), break_on_hyphens=False)
    figure.supxlabel(lines, fontsize=7, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
