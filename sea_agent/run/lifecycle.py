"""Runs a configuration to the end of its budget, from its start or from a checkpoint, in its directory."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from actors.runtime import make_runtime
from sea_agent.config import RunConfig
from sea_agent.config.files import to_yaml
from sea_agent.errors import RunFailure, UserError
from sea_agent.jobs.inside import require_lasting
from sea_agent.persistence.checkpoint import Checkpoint, Checkpoints, read_checkpoint
from sea_agent.persistence.directory import MetricsFile, RunDirectory
from sea_agent.persistence.files import write_whole
from sea_agent.persistence.ledger import Ledger
from sea_agent.pretrained import ran_out_of_memory, use_threads
from sea_agent.run.assembly import assemble, warm
from sea_agent.run.preflight import Inputs, check
from sea_agent.run.resumption import kept, require_unused
from sea_agent.run.session import NOBODY, Beside, Session, Watch
from sea_agent.run.summary import summarise
from sea_agent.run.tracking import tracked

CHECKPOINTS = "checkpoints"
_BEFORE_ROUNDS = -1


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


def resume(
    config: RunConfig,
    out: Path,
    checkpoint: str | None = None,
    watch: Watch = NOBODY,
    beside: Callable[[Inputs], Beside] | None = None,
) -> dict[str, Any]:
    """Go on with the run in ``out`` from its newest checkpoint, or the one named; from its start if it has none.

    What the rounds after the checkpoint were answered is in the ledger and is not asked again. ``config`` is what
    ``resumed_config`` gives. Live mode adds what ``beside`` makes, and also begins so, in a directory with other files.

    Raises:
        UserError: when a checkpoint is damaged or belongs to another run.
        RunFailure, Stopped: as for ``run``.
    """
    use_threads(config.threads)
    inputs = check(config)
    with RunDirectory(out):
        found = read_checkpoint(out / CHECKPOINTS, kept(config), checkpoint)
        with _told_without_room(out):
            write_whole(out / "config.yaml", to_yaml(config))
        (out / "summary.json").unlink(missing_ok=True)
        return _run(config, inputs, out, watch, found, None if beside is None else beside(inputs))


def _run(
    config: RunConfig,
    inputs: Inputs,
    out: Path,
    watch: Watch,
    found: Checkpoint | None,
    beside: Beside | None = None,
) -> dict[str, Any]:
    runtime = make_runtime(config.runtime, inputs.compute, inputs.needs)
    try:
        with (
            _told_without_room(out),
            tracked(config.tracking, config.model_dump(mode="json"), out, watch) as watch,
            runtime,
            Ledger(out / "ledger.sqlite") as ledger,
            MetricsFile(out / "metrics.jsonl") as metrics,
            Checkpoints(out / CHECKPOINTS, config.checkpoint, kept(config)) as checkpoints,
        ):
            agent = assemble(config, inputs, runtime, ledger, watch, None if beside is None else beside.source)
            if found is None:
                ledger.rewind(_BEFORE_ROUNDS)  # it has rounds if the run was interrupted before its first checkpoint
                if inputs.imported is not None:
                    warm(inputs.imported, ledger, agent.selector)
            inputs.oracle.queries = ledger.oracle_answers_written
            session = Session(agent, metrics, checkpoints, watch, runtime.cpu_seconds, beside)
            session.run(found)
            agent.learner.save_policy(str(out / "policy"))
            summary = summarise(agent, inputs) | session.spent()
            write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
            session.outlast()
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
