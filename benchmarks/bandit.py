"""Selection rules on bandits whose reward is known: cumulative and simple regret, without a language model.

    python -m benchmarks.bandit [--redraw]

Plays every rule on the same bandits (``benchmarks/dueling.py``), writes ``benchmarks/results/bandit.json``, prints
tables of it and draws ``docs/bandit.png``. It takes about a quarter of an hour of one core; ``--redraw`` only reads the
results. Intervals are 95 % percentile bootstrap intervals over the bandits.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.dueling import Keep, Problem, Trace, growth, interval, labels_to, play
from sea_agent.config import SelectionConfig
from sea_agent.errors import UserError
from sea_agent.lab.records import four_digits
from sea_agent.seeding import generator_for

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "bandit.json"
FIGURE = ROOT / "docs" / "bandit.png"

RULES = {
    "passive": SelectionConfig(rule="passive"),
    "uniform": SelectionConfig(rule="uniform"),
    "best_worst": SelectionConfig(rule="best_worst"),
    "uncertainty": SelectionConfig(rule="uncertainty"),
    "uncertainty, difference": SelectionConfig(rule="uncertainty", variance="difference"),
    "information": SelectionConfig(rule="information"),
    "sea_ee": SelectionConfig(rule="sea_ee"),
    "sea_bai": SelectionConfig(rule="sea_bai"),
    "sea_bai, difference": SelectionConfig(rule="sea_bai", variance="difference"),
}
DRAWN = [name for name in RULES if "difference" not in name]


@dataclass(frozen=True)
class Setting:
    """One column of the figure: bandits, labels, and how labels arrive."""

    title: str
    problem: Problem
    labels: int
    bandits: int
    batch: int = 1


NEURAL = Problem(reward="neural", dimension=8)
SETTINGS = {
    "linear": Setting("linear reward, new contexts", Problem(), labels=4096, bandits=200),
    "arms": Setting("linear reward, one context again and again", Problem(fixed_arms=True), labels=2048, bandits=200),
    "neural": Setting("reward of a hidden network, new contexts", NEURAL, labels=2048, bandits=64),
    "batches": Setting("linear reward, labels in batches of 16", Problem(), labels=2048, bandits=100, batch=16),
}
# Simple regrets are compared over the checkpoints from so many labels on.
COMPARED_FROM = 32
# Four contexts are offered for each label, in batches of 16.
POOL, POOL_BATCH, POOL_LABELS = 4, 16, 384
SEA_RULES = ("sea_ee", "sea_bai")
POOL_SETTINGS = {"linear": 200, "arms": 200, "neural": 100}


def measure(console: Console) -> dict[str, Any]:
    """Play everything."""
    settings: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        traces, seconds = {}, {}
        for rule, selection in RULES.items():
            began = time.process_time()
            traces[rule] = play(setting.problem, selection, setting.labels, setting.bandits, batch=setting.batch)
            seconds[rule] = time.process_time() - began
            console.print(f"{name}: {rule} took {seconds[rule]:.0f} CPU seconds")
        rules = {rule: {**_figures(traces, rule), "cpu_seconds": round(seconds[rule], 1)} for rule in RULES}
        settings[name] = {**asdict(setting), "rules": rules}
    pools = {}
    for name, bandits in POOL_SETTINGS.items():
        pools[name] = {rule: _pool(SETTINGS[name].problem, rule, bandits) for rule in SEA_RULES}
        console.print(f"{name}: pools done")
    return {
        "settings": settings,
        "pools": {"pool": POOL, "batch": POOL_BATCH, "labels": POOL_LABELS, "bandits": POOL_SETTINGS, "found": pools},
    }


def _figures(traces: dict[str, Trace], rule: str) -> dict[str, Any]:
    """Curves and closing figures of one rule; ``saving`` compares with passive, ``simple_to_ee`` with ``sea_ee``."""
    trace = traces[rule]
    after = trace.labels_C >= COMPARED_FROM

    def exponent(regret_P_C: np.ndarray) -> float:
        return growth(trace.labels_C, regret_P_C)

    def saving(simple_P_C: np.ndarray, passive_P_C: np.ndarray) -> float:
        return float(trace.labels_C[-1]) / labels_to(passive_P_C.mean(0)[-1], trace.labels_C, simple_P_C)

    def change(simple_P_C: np.ndarray, other_P_C: np.ndarray) -> float:
        return float(simple_P_C[:, after].mean() / other_P_C[:, after].mean() - 1)

    every = slice((len(trace.labels_C) - 1) % 2, None, 2)  # two checkpoints to a doubling, the last one among them
    return {
        "labels": trace.labels_C[every].tolist(),
        "regret": _curve(trace.regret_P_C[:, every]),
        "avoidable": _curve(trace.avoidable_P_C[:, every]),
        "simple": _curve(trace.simple_P_C[:, every]),
        "growth": _rounded(interval(exponent, trace.regret_P_C)),
        "growth_avoidable": _rounded(interval(exponent, trace.avoidable_P_C)),
        "saving": _rounded(interval(saving, trace.simple_P_C, traces["passive"].simple_P_C)),
        "simple_to_ee": _rounded(interval(change, trace.simple_P_C, traces["sea_ee"].simple_P_C)),
    }


def _pool(problem: Problem, rule: str, bandits: int) -> dict[str, Any]:
    """Relative change of the simple regret, mean over all checkpoints but the first, by the choice from the pool."""
    traces = {
        keep: play(problem, RULES[rule], POOL_LABELS, bandits, batch=POOL_BATCH, pool=POOL, keep=keep)
        for keep in get_args(Keep)
    }

    def change(simple_P_C: np.ndarray, other_P_C: np.ndarray) -> float:
        return float(simple_P_C[:, 1:].mean() / other_P_C[:, 1:].mean() - 1)

    pairs = {"informative": ("informative", "first"), "diverse": ("diverse", "first")}
    pairs["diverse_to_informative"] = ("diverse", "informative")
    return {
        name: _rounded(interval(change, traces[one].simple_P_C, traces[other].simple_P_C))
        for name, (one, other) in pairs.items()
    }


def _curve(values_P_C: np.ndarray) -> list[list[float]]:
    """Mean and interval at each checkpoint."""
    found = stats.bootstrap(
        (values_P_C,), np.mean, axis=0, n_resamples=999, method="percentile", rng=generator_for("curve"), batch=100
    ).confidence_interval
    return [_rounded(row) for row in zip(values_P_C.mean(0), found.low, found.high, strict=True)]


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [four_digits(value) for value in values]


def tables(results: dict[str, Any]) -> list[Table]:
    """One table for each setting, and one of the pools."""
    found = []
    for setting in results["settings"].values():
        table = Table(title=f"{setting['title']}: {setting['labels']} labels, {setting['bandits']} bandits")
        for heading in ("rule", "cumulative regret", "avoidable", "exponent", "of the avoidable", "simple regret"):
            table.add_column(heading)
        table.add_column("against sea_ee")
        table.add_column("labels saved ×")
        for rule, row in setting["rules"].items():
            ends = (row["regret"][-1], row["avoidable"][-1])
            table.add_row(
                rule,
                *(_text(end, ".0f") for end in ends),
                _text(row["growth"], ".2f"),
                _text(row["growth_avoidable"], ".2f"),
                _text(row["simple"][-1], ".4f"),
                _text(row["simple_to_ee"], "+.0%"),
                _text(row["saving"], ".1f", zero="<1"),  # the level was never reached
            )
        found.append(table)
    pools = results["pools"]
    table = Table(
        title=f"{pools['pool']} contexts offered for each label: change of the simple regret against the first"
    )
    for heading in ("bandits", "rule", "most informative", "diverse", "diverse against most informative"):
        table.add_column(heading)
    for name, rules in pools["found"].items():
        for rule, row in rules.items():
            cells = (_text(row[key], "+.0%") for key in ("informative", "diverse", "diverse_to_informative"))
            table.add_row(name, rule, *cells)
    return [*found, table]


def _text(values: list[float], form: str, zero: str | None = None) -> str:
    value, low, high = (zero if zero is not None and number == 0 else f"{number:{form}}" for number in values)
    return f"{value} [{low}, {high}]"


def draw(results: dict[str, Any], path: Path) -> None:
    """Cumulative regret above, simple regret below, a column for each setting with labels one by one.

    Dashed is the avoidable part of the regret, for the two rules that avoid much of it.
    """
    from matplotlib.figure import Figure

    settings = [setting for setting in results["settings"].values() if setting["batch"] == 1]
    figure = Figure(figsize=(4.2 * len(settings), 7.2), layout="constrained")
    axes = figure.subplots(2, len(settings), sharex="col")
    for column, setting in enumerate(settings):
        for rule in DRAWN:
            row = setting["rules"][rule]
            for line, curve in enumerate(("regret", "simple")):
                mean, low, high = np.array(row[curve]).T
                (drawn,) = axes[line, column].loglog(row["labels"], mean, label=rule)
                axes[line, column].fill_between(
                    row["labels"], low, high, color=drawn.get_color(), alpha=0.15, linewidth=0
                )
            if rule in SEA_RULES:
                axes[0, column].loglog(row["labels"], np.array(row["avoidable"])[:, 0], "--", color=drawn.get_color())
        row = setting["rules"]["sea_ee"]
        unavoidable = np.array(row["regret"])[:, 0] - np.array(row["avoidable"])[:, 0]
        axes[0, column].loglog(row["labels"], unavoidable, "k:", linewidth=1, label="unavoidable")
        axes[0, column].set_title(setting["title"], fontsize=10)
        axes[1, column].set_xlabel("labels")
        axes[1, column].set_ylim(bottom=_floor(setting))
    axes[0, 0].set_ylabel("cumulative regret of the duels")
    axes[1, 0].set_ylabel("simple regret of the recommendation")
    axes[0, 0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _floor(setting: dict[str, Any]) -> float:
    """Half the smallest mean that is drawn and not zero: with one context a simple regret may end at exactly zero."""
    means = [row[0] for rule in DRAWN for row in setting["rules"][rule]["simple"] if row[0] > 0]
    return min(means) / 2


def main() -> None:
    """Measure unless only drawing is asked for; print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redraw", action="store_true", help="read the results instead of measuring them")
    console = Console()
    torch.set_num_threads(1)
    if parser.parse_args().redraw:
        if not RESULTS.exists():
            raise UserError(f"{RESULTS}: no such file; run without --redraw first")
        results = json.loads(RESULTS.read_text())
    else:
        results = measure(console)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=None) + "\n")
    for table in tables(results):
        console.print(table)
    draw(results, FIGURE)


if __name__ == "__main__":
    main()
