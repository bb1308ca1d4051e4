"""Which run a directory holds, and what a run that goes on may change."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sea_agent.config import BudgetConfig, RunConfig
from sea_agent.config.files import differences, flat, load_config
from sea_agent.errors import UserError
from sea_agent.persistence.files import LOCK

# What a run that goes on may change: where it computes, how long it waits, how much it asks.
_MAY_CHANGE = (
    "runtime",
    "ray_address",
    "device",
    "threads",
    "deadline_seconds",
    "budget",
    "live",
    "checkpoint",
    "tracking",
    "placement",
    "sampler.actors",
    "learner.engine",
    "learner.ranks",
    "learner.zero_stage",
    "oracle.url",
    "oracle.wait",
    "oracle.pending",
    "oracle.wait_hours",
    "oracle.concurrency",
    "oracle.timeout_seconds",
    "oracle.attempts",
    "oracle.max_tokens",
    "oracle.response_format",
    "oracle.price_per_million_input",
    "oracle.price_per_million_output",
    "oracle.spend_limit",
    "oracle.evaluates",
)


def resumed_config(out: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration that the run in ``out`` goes on with. ``overrides`` may change where it computes, how long it
    waits, and its budget.

    Raises:
        UserError: when there is no such run, it is finished, or an override changes more.
    """
    if not (out / "config.yaml").is_file():
        raise UserError(f"{out}: not the directory of a run (it has no config.yaml)")
    for override in overrides:
        key = override.partition("=")[0]
        if not _may_change(key):
            raise UserError(
                f"--set {key}: a run that goes on keeps its settings, so that its figures mean one thing; what may "
                f"change is {', '.join(_MAY_CHANGE)}"
            )
    config = load_config(str(out / "config.yaml"), overrides)
    if finished(config.budget, out) is not None:
        raise UserError(
            f"{out}: the run is finished. To go on with more answers, add --set budget.oracle_queries=N above "
            f"{config.budget.limit}"
        )
    return config


def holds(out: Path, config: RunConfig) -> bool:
    """Whether ``out`` holds the run that ``config`` describes, so that it can go on; False when none was begun there.

    Raises:
        UserError: when it holds another run; names what differs.
    """
    if not (out / "config.yaml").is_file():
        return False
    there, here = kept(load_config(str(out / "config.yaml"))), kept(config)
    differ = differences(there, here)
    if differ:
        raise UserError(f"--out {out}: holds another run ({'; '.join(differ)}); name another directory")
    return True


def finished(budget: BudgetConfig, out: Path) -> dict[str, Any] | None:
    """The summary of the run in ``out`` when it has spent ``budget``; None when there is more to do."""
    file = out / "summary.json"
    if not file.exists():
        return None
    summary: dict[str, Any] = json.loads(file.read_text())
    return summary if summary["oracle_queries"] >= budget.limit else None


def _may_change(key: str) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in _MAY_CHANGE)


def kept(config: RunConfig) -> dict[str, Any]:
    """The settings that a run keeps for as long as it goes on, by dotted key."""
    return {key: value for key, value in flat(config.model_dump(mode="json")).items() if not _may_change(key)}


def require_unused(out: Path) -> None:
    """Refuse an output directory that holds something.

    Raises:
        UserError: naming it.
    """
    if (out / "config.yaml").is_file() and not (out / "summary.json").exists():
        raise UserError(f"--out {out}: holds a run that is not finished; go on with it: sea-agent resume {out}")
    # A run that was killed before it began has left its lock.
    if out.exists() and (not out.is_dir() or any(entry.name != LOCK for entry in out.iterdir())):
        raise UserError(f"--out {out}: exists and is not an empty directory; name another, or remove it first")
