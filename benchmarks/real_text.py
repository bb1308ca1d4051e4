"""The tables and the figure of real English in docs/sample-efficiency.md."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.compute import compute_table
from benchmarks.tables import Cell, Runs, cells, markdown, number, rate, table
from sea_agent.lab.comparison import band
from sea_agent.lab.records import Bounds
from sea_agent.lab.statistics import estimate

BOUNDS = {"reviews": Bounds(5.0, 0.9, 0.6), "tastes": Bounds(5.0, 0.8, 0.6)}
"""What a policy may have given up where its win rate counts. In `tastes` two samples of the initial policy differ less
often."""
BASELINES = ("passive", "passive-fast")
"""Passive online DPO as tuned with and without bounds."""
SELECTED = ("uniform-prior", "sea-prior", "sea-prior-prompts")
"""A score to begin with, and random pairs; pairs of Thompson draws; the prompts chosen too."""
_COLUMNS = "method; seeds; answers to it; never; times fewer; t interval; asked in all"
_THERE = "KL there; judge there; distinct there"


def real_tables(first: dict[str, Runs]) -> dict[str, str]:
    """Those of the experiments `reviews-tuning`, `reviews`, `tastes` and `noisy` by name, as Markdown."""
    made = {"reviews-tuning": _tuning(first["reviews-tuning"])}
    for world, bounds in BOUNDS.items():
        runs = first[world]
        made[f"bounded-{world}"] = table(f"{_COLUMNS}; {_THERE}", _ordered(cells(runs, BASELINES[0], bounds=bounds)))
        made[f"unbounded-{world}"] = table(f"{_COLUMNS}; {_THERE}", _ordered(cells(runs, BASELINES[1])))
    noisy = cells(first["noisy"], BASELINES[0], bounds=BOUNDS["reviews"])
    made["noisy"] = table(f"{_COLUMNS}; {_THERE}", _ordered(noisy))
    selected = cells(first["active"], SELECTED[0], SELECTED)
    made["active-reviews"] = table("method; seeds; answers to it; times fewer; t interval; KL there", selected)
    return made | {"compute": compute_table(first["compute"], first["reviews"], "sea-prior"), "harm": _harm(first)}


def _ordered(found: Sequence[Cell]) -> list[Cell]:
    """The baselines first."""
    return sorted(found, key=lambda cell: cell.row.method not in BASELINES)


def _tuning(runs: Runs) -> str:
    bounded = cells(runs, None, bounds=BOUNDS["reviews"])
    free = {cell.row.method: cell for cell in cells(runs, None)}
    names = ("setting", "answers within bounds", "never", "answers", "never", "at the end", "by judge", "KL")
    rows = []
    for cell in bounded:
        other = free[cell.row.method]
        shown = [f"`{cell.row.method}`"]
        for one in (cell, other):
            shown += [number(one.row.queries, interval=False), f"{one.row.censored} of {len(one.runs)}"]
        shown += [rate(cell.last(column), 2) for column in ("win_rate", "judge_win_rate")]
        rows.append([*shown, number(cell.last("kl_to_reference"), 1)])
    return markdown(names, rows)


def _harm(first: dict[str, Runs]) -> str:
    """Where each method with imagined rounds stands worst against the baseline, at evaluations that both have."""
    names = ("world", "method", "seeds", "worst difference", "at", "KL", "baseline's", "judge", "baseline's")
    rows = (
        [world, f"`{method}`", *worst(first[world], method)]
        for world in BOUNDS
        for method in dict.fromkeys(run.method for run in first[world])
        if method not in BASELINES
    )
    return markdown(names, rows)


def worst(runs: Runs, method: str) -> list[str]:
    """Seeds, the worst mean difference to the baseline, after how many answers, divergence and judge of both there."""
    theirs = {run.seed: run.curve for run in runs if run.method == BASELINES[0]}
    ours = {run.seed: run.curve for run in runs if run.method == method}
    seeds = sorted(theirs.keys() & ours.keys())
    end = min(curve.queries[-1] for seed in seeds for curve in (theirs[seed], ours[seed]))

    def at(queries: int, column: str) -> tuple[np.ndarray, np.ndarray]:
        """ours_S and theirs_S after so many answers."""
        ours_S, theirs_S = (
            np.array([np.interp(queries, curves[seed].queries, getattr(curves[seed], column)) for seed in seeds])
            for curves in (ours, theirs)
        )
        return ours_S, theirs_S

    def lead(queries: int) -> np.ndarray:
        ours_S, theirs_S = at(queries, "win_rate")
        return ours_S - theirs_S

    asked = min(range(16, end + 1, 16), key=lambda queries: lead(queries).mean())
    return [
        str(len(seeds)),
        rate(estimate(lead(asked).tolist())),
        str(asked),
        *(number(float(values_S.mean()), 1) for values_S in at(asked, "kl_to_reference")),
        *(rate(float(values_S.mean()), 2) for values_S in at(asked, "judge_win_rate")),
    ]


def draw_frontiers(first: dict[str, Runs], folder: Path) -> None:
    """Win rate by oracle and judge against the divergence spent on it: means over seeds, one point an evaluation."""
    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    for axes, world in zip(figure.subplots(1, len(BOUNDS), sharey=True), BOUNDS, strict=True):
        for place, method in enumerate(dict.fromkeys(run.method for run in first[world])):
            runs = [run for run in first[world] if run.method == method]
            means = [band(runs, column) for column in ("kl_to_reference", "win_rate", "judge_win_rate")]
            kl, *rates = [mean.mean_P for mean in means if mean is not None]
            for style, values in zip(("-", "--"), rates, strict=True):
                label = method if style == "-" else None
                axes.plot(kl, values, style, color=f"C{place}", marker=".", markersize=4, label=label)
        axes.axvline(BOUNDS[world].max_kl, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlim(0, 12)
        axes.set_title(world)
        axes.set_xlabel("KL to the initial policy, nats a response")
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("win rate by oracle (solid) and judge (dashed)")
    figure.savefig(folder / "efficiency-divergence.png", dpi=100)
