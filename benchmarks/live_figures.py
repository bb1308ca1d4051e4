"""The tables of ``benchmarks/live.py``."""

from collections.abc import Mapping, Sequence
from typing import Any

from sea_agent.lab.statistics import Estimate, estimate


def markdown(done: Mapping[str, Mapping[str, Any]], parts: Mapping[str, Sequence[str]]) -> str:
    """A table for each part that has runs: means over the seeds that are done, with 95 % intervals over seeds."""
    tables = []
    for part, arms in parts.items():
        lines = []
        for arm in arms:
            runs = [run for key, run in done.items() if key.rpartition("/")[0] == f"{part}/{arm}"]
            if runs:
                late, whole = ([value(run) for run in runs] for value in (_late, _whole))
                cells = (
                    arm,
                    str(len(runs)),
                    _with_interval(estimate(late)),
                    _with_interval(estimate(whole)),
                    f"{_mean(runs, 'answers'):.0f}",
                    f"{_mean(runs, 'lies'):.0f}",
                    f"{_mean(runs, 'trust'):.2f}",
                )
                lines.append(f"| {' | '.join(cells)} |")
        if lines:
            heading = "| asked | seeds | late regret | regret | answers | lies among them | trusted at the end |"
            tables.append("\n".join([f"**{part}**", "", heading, "|---|---|---|---|---|---|---|", *lines]))
    return "\n\n".join(tables)


def _late(run: Mapping[str, Any]) -> float:
    return float(run["regret"][-1])


def _whole(run: Mapping[str, Any]) -> float:
    return float(sum(run["regret"]) / len(run["regret"]))


def _mean(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(sum(run[key] for run in runs) / len(runs))


def _with_interval(found: Estimate) -> str:
    if found.low is None:
        return f"{found.mean:.3f}"
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"
